"""Means, their standard errors and z-scores of Monte Carlo estimates."""

import numpy as np


def mean_and_error(values):
    """Returns the mean over axis 0 and its standard error."""
    return np.mean(values, axis=0), np.std(values, axis=0, ddof=1) / np.sqrt(len(values))


def z_of_mean(values, exact=0.0):
    """Returns how many standard errors the mean over axis 0 is above `exact`."""
    mean, error = mean_and_error(np.asarray(values))
    return (mean - exact) / error


def z_of_difference(values, others):
    """Returns the difference of two independent means, in standard errors."""
    (mean, error), (other, other_error) = mean_and_error(values), mean_and_error(others)
    return (mean - other) / np.hypot(error, other_error)
