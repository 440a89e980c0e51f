"""Rows of results, one for each measurement, and their summaries."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
Ends = tuple[float, float]  # of an interval; NaN if a single measurement leaves them open

# The first columns of every CSV; an experiment may add others.
COLUMNS = (
    *("method", "dataset", "K", "M", "seed", "quantity"),
    *("value", "standard_error", "seconds"),
)


def row(
    method: str,
    quantity: str,
    value: float,
    *,
    error: float | None = None,
    seconds: float | None = None,
    **where: Any,
) -> Row:
    """Returns the row of one measurement.

    Args:
        method: name of what was measured, such as IWHVI.
        quantity: name of the measured quantity, such as log_likelihood (nats).
        value: the number.
        error: its standard error; None or NaN if it is not known.
        seconds: duration of the measurement, if known.
        **where: dataset, K, M, seed, and any column of the experiment's own.
    """
    known = None if error is None or math.isnan(error) else float(error)
    values = {"value": float(value), "standard_error": known}
    timed = {"seconds": None if seconds is None else round(float(seconds), 6)}
    return {"method": method, "quantity": quantity, **where, **values, **timed}


def row_of_mean(method: str, quantity: str, sample: np.ndarray, **where: Any) -> Row:
    """Returns the row of a mean of independent values, with its standard error."""
    sample = np.asarray(sample, np.float64)
    return row(method, quantity, sample.mean(), error=standard_error(sample), **where)


def select(rows: Sequence[Row], **where: Any) -> list[Row]:
    """Returns the rows whose columns have these values."""
    return [r for r in rows if all(r.get(name) == value for name, value in where.items())]


def values(rows: Sequence[Row], **where: Any) -> list[float]:
    """Returns the values of the rows whose columns have these values."""
    return [r["value"] for r in select(rows, **where)]


def curve(rows: Sequence[Row], **where: Any) -> dict[int, list[float]]:
    """Returns the validation bounds of those rows by training step, one for each seed."""
    mine = select(rows, quantity="validation_bound", **where)
    return {step: values(mine, step=step) for step in distinct(mine, "step")}


def distinct(rows: Sequence[Row], column: str) -> list[Any]:
    """Returns the values that occur in a column, in order of first appearance."""
    return list(dict.fromkeys(r[column] for r in rows if r.get(column) is not None))


def standard_error(sample: Sequence[float] | np.ndarray) -> float:
    """Returns the standard error of the mean; NaN for a single value."""
    if len(sample) < 2:
        return math.nan
    return float(np.std(sample, ddof=1) / math.sqrt(len(sample)))


def in_errors(difference: float, error: float) -> float:
    """Returns a difference in units of its standard error; NaN if the error is NaN."""
    return difference / error if error else math.copysign(math.inf, difference)


def or_na(value: float, form: str) -> str:
    """Formats a number, in a format such as `.2f`; n/a for NaN."""
    return "n/a" if math.isnan(value) else f"{value:{form}}"


def all_above(*differences: tuple[float, float]) -> bool | None:
    """Returns whether all differences are above 0, if their errors decide that.

    Args:
        *differences: each with its standard error; NaN if the error is not known.

    Returns:
        True if every one is above 0 by more than two standard errors, False if one is below 0
        by more than two, None otherwise.
    """
    signs = [_sign(*difference) for difference in differences]
    if False in signs:
        return False
    return None if None in signs or not signs else True


def _sign(difference: float, error: float) -> bool | None:
    """Returns whether a difference is positive; None within two standard errors of 0."""
    return bool(difference > 0.0) if abs(difference) > 2.0 * error else None


def all_hold(*verdicts: bool | None) -> bool | None:
    """Returns False if a part of a claim is refuted, None if one is undecided, else True."""
    if False in verdicts:
        return False
    return None if None in verdicts else True


def is_below(limit: float, *factors: Ends) -> bool | None:
    """Returns whether a product of positive numbers is at most a limit.

    Args:
        limit: of the product.
        *factors: intervals that hold the numbers.

    Returns:
        None if the limit lies within the interval of the product.
    """
    low, high = (math.prod(ends) for ends in zip(*factors, strict=True))
    if high <= limit:
        return True
    return False if low > limit else None


def paired(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Returns the mean difference of pairs and its standard error; NaN for a single pair."""
    differences = np.subtract(a, b)
    return float(differences.mean()), standard_error(differences)


def difference(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """Returns the difference of two independent means, each with its error, and its error."""
    return a[0] - b[0], math.hypot(a[1], b[1])


def signed(mean: float, error: float, digits: int = 2) -> str:
    """Formats a difference with its sign and its error."""
    return f"{mean:+.{digits}f} ± {or_na(error, f'.{digits}f')}"


def plus_minus(mean: float, error: float | None, digits: int = 2) -> str:
    """Formats a value with its error, if it has one."""
    shown = f"{mean:.{digits}f}"
    return shown if not error else f"{shown} ± {or_na(error, f'.{digits}f')}"


def shown_mean(sample: Sequence[float] | np.ndarray, digits: int = 3) -> str:
    """Formats the mean of independent values with its standard error."""
    return plus_minus(float(np.mean(sample)), standard_error(sample), digits)


def mean_and_error(rows: Sequence[Row]) -> tuple[float, float]:
    """Returns the mean of a score over seeds and its standard error over seeds and images.

    All seeds score the same images, so the error over images is that of a single seed. A part that
    is not known is left out; the error is NaN if neither is known.
    """
    sample = [r["value"] for r in rows]
    parts = (standard_error(sample), error_over_images(rows))
    known = [part for part in parts if not math.isnan(part)]
    return float(np.mean(sample)), math.hypot(*known) if known else math.nan


def error_over_images(rows: Sequence[Row]) -> float:
    """Returns the mean standard error of rows that score the same images; NaN if unknown."""
    errors = [r.get("standard_error") for r in rows]
    return float(np.mean([math.nan if error is None else error for error in errors]))


def from_paper(ours: float, error: float, paper: float, paper_error: float) -> str:
    """Formats our value less the paper's, also in units of their joint standard error."""
    difference, total = ours - paper, math.hypot(error, paper_error)
    distance = f" ({or_na(in_errors(difference, total), '+.1f')} SE)" if total else ""
    return f"{difference:+.2f}{distance}"


def as_csv(rows: Sequence[Row]) -> str:
    """Returns the rows as CSV, under `COLUMNS` and any other columns that they have."""
    more = [name for name in dict.fromkeys(c for r in rows for c in r) if name not in COLUMNS]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *more], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({c: "" if v is None else v for c, v in r.items()} for r in rows)
    return text.getvalue()
