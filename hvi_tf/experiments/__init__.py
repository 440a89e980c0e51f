"""Experiments: the figures and tables of both papers, and questions beyond them.

One module an experiment, in iwhvi/, bsvi/ and beyond/. The harness/ measures cells, draws figures
and builds the report.
"""
