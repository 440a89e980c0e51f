"""Experiments on questions that the two papers leave open, and what they share."""
