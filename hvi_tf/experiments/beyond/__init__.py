"""Experiments on questions that the two papers leave open."""
