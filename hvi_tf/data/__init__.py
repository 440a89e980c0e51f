"""Data sets: preparation, named splits, checks of arrays, and the input pipeline.

`datasets` is the table of data sets, `pipeline` makes the batches of a step.
"""
