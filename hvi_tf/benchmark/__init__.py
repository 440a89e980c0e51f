"""Benchmarks of training and evaluation: time, memory, and operations counted from shapes.

Run it as `python -m hvi_tf.benchmark`. The folder peers/ has the same step in other frameworks.
"""
