"""Growth of time with a count: an exponent, and a line next to that of the products."""

from typing import NamedTuple

import numpy as np


class Fit(NamedTuple):
    """A least-squares line with standard errors, which are 0 for two points."""

    start: float
    slope: float
    slope_error: float
    residual: float  # the largest absolute one


def line(x: np.ndarray, y: np.ndarray) -> Fit:
    """Fits y = start + slope x to `[n]` points, n >= 2."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    slope, start = np.polyfit(x, y, 1)
    residuals = y - start - slope * x
    freedom = len(x) - 2
    variance = np.sum(residuals**2) / freedom if freedom else 0.0
    error = np.sqrt(variance / np.sum((x - x.mean()) ** 2))
    return Fit(float(start), float(slope), float(error), float(np.abs(residuals).max()))


def exponent(x: np.ndarray, y: np.ndarray) -> Fit:
    """Fits y = exp(start) x^slope, as a line of the logarithms."""
    return line(np.log(x), np.log(y))


class Growth(NamedTuple):
    """The growth of one family.

    Attributes:
        exponent: of milliseconds in the count.
        line: milliseconds against the count.
        products: milliseconds of the products alone, on the same shapes in the same rounds.
        slope_ratio: the slope of the step over that of its products.
    """

    exponent: Fit
    line: Fit
    products: Fit
    slope_ratio: float


def growth(x: np.ndarray, milliseconds: np.ndarray, products: np.ndarray) -> Growth:
    """Returns the growth of medians over rounds, `[n]` each."""
    step, arithmetic = line(x, milliseconds), line(x, products)
    return Growth(exponent(x, milliseconds), step, arithmetic, step.slope / arithmetic.slope)
