"""Variational inference for any model of callables that return TFP distributions."""
