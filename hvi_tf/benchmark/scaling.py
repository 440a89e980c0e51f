"""How time grows with a count: an exponent, and for K a line beside that of the arithmetic."""

from typing import NamedTuple

import numpy as np


class Fit(NamedTuple):
    """A least-squares line with standard errors, 0 where there is nothing to tell them by."""

    start: float
    slope: float
    slope_error: float
    residual: float  # the largest


def line(x: np.ndarray, y: np.ndarray) -> Fit:
    """Y = start + slope x; `[n], [n]`, n >= 2."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    slope, start = np.polyfit(x, y, 1)
    residuals = y - start - slope * x
    freedom = len(x) - 2
    variance = np.sum(residuals**2) / freedom if freedom else 0.0
    error = np.sqrt(variance / np.sum((x - x.mean()) ** 2))
    return Fit(float(start), float(slope), float(error), float(np.abs(residuals).max()))


def exponent(x: np.ndarray, y: np.ndarray) -> Fit:
    """Y = exp(start) x^slope, fitted as a line of the logarithms."""
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
    """Of medians over rounds, `[n]` each."""
    step, arithmetic = line(x, milliseconds), line(x, products)
    return Growth(exponent(x, milliseconds), step, arithmetic, step.slope / arithmetic.slope)
