"""Data sets, their named splits, and the input pipeline."""
