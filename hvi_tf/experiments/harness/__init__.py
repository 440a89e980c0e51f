"""The machinery of all experiments.

It holds the catalogue, cells and their measurement, trained models, plots, the numbers of both
papers and the template of the report.
"""
