"""Tidy rows: one for each measurement, and what is made of several."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]

# The first columns of every CSV; an experiment may have more.
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
    """One measurement.

    Args:
        method: what was measured, such as IWHVI.
        quantity: of which this is the value, such as log_likelihood (nats).
        value: the number.
        error: its standard error; None or NaN if it is not known.
        seconds: that it took, if measured.
        **where: dataset, K, M, seed, and any column of the experiment's own.
    """
    known = None if error is None or math.isnan(error) else float(error)
    values = {"value": float(value), "standard_error": known}
    timed = {"seconds": None if seconds is None else round(float(seconds), 6)}
    return {"method": method, "quantity": quantity, **where, **values, **timed}


def row_of_mean(method: str, quantity: str, sample: np.ndarray, **where: Any) -> Row:
    """The mean of independent values, such as those of images, with its standard error."""
    sample = np.asarray(sample, np.float64)
    return row(method, quantity, sample.mean(), error=standard_error(sample), **where)


def select(rows: Sequence[Row], **where: Any) -> list[Row]:
    """The rows whose columns have these values."""
    return [r for r in rows if all(r.get(name) == value for name, value in where.items())]


def values(rows: Sequence[Row], **where: Any) -> list[float]:
    """The values of those rows."""
    return [r["value"] for r in select(rows, **where)]


def curve(rows: Sequence[Row], **where: Any) -> dict[int, list[float]]:
    """The validation bounds of those rows by training step, one for each seed."""
    mine = select(rows, quantity="validation_bound", **where)
    return {step: values(mine, step=step) for step in distinct(mine, "step")}


def distinct(rows: Sequence[Row], column: str) -> list[Any]:
    """The values of a column that occur, in their order."""
    return list(dict.fromkeys(r[column] for r in rows if r.get(column) is not None))


def standard_error(sample: Sequence[float] | np.ndarray) -> float:
    """The standard error of the mean; NaN for a single value, whose error is not known."""
    if len(sample) < 2:
        return math.nan
    return float(np.std(sample, ddof=1) / math.sqrt(len(sample)))


def in_errors(difference: float, error: float) -> float:
    """A difference in units of its standard error; NaN if that is not known."""
    return difference / error if error else math.copysign(math.inf, difference)


def or_na(value: float, form: str) -> str:
    """A number in a format such as `.2f`; n/a for NaN."""
    return "n/a" if math.isnan(value) else f"{value:{form}}"


def plus_minus(mean: float, error: float | None, digits: int = 2) -> str:
    """A value with its error, if it has one."""
    shown = f"{mean:.{digits}f}"
    return shown if not error else f"{shown} ± {or_na(error, f'.{digits}f')}"


def mean_and_error(rows: Sequence[Row]) -> tuple[float, float]:
    """The mean over seeds of a score, and its standard error over seeds and images.

    All seeds score the same images, so the error over images is that of any one of them. Of
    the two parts, one that is not known is left out; the error is NaN if neither is known.
    """
    sample = [r["value"] for r in rows]
    parts = (standard_error(sample), error_over_images(rows))
    known = [part for part in parts if not math.isnan(part)]
    return float(np.mean(sample)), math.hypot(*known) if known else math.nan


def error_over_images(rows: Sequence[Row]) -> float:
    """The mean standard error of rows that score the same images; NaN if it is not known."""
    errors = [r.get("standard_error") for r in rows]
    return float(np.mean([math.nan if error is None else error for error in errors]))


def from_paper(ours: float, error: float, paper: float, paper_error: float) -> str:
    """Ours less the paper's, and that in units of both standard errors together."""
    difference, total = ours - paper, math.hypot(error, paper_error)
    distance = f" ({or_na(in_errors(difference, total), '+.1f')} SE)" if total else ""
    return f"{difference:+.2f}{distance}"


def as_csv(rows: Sequence[Row]) -> str:
    """The rows under `COLUMNS` and whatever other columns they have."""
    more = [name for name in dict.fromkeys(c for r in rows for c in r) if name not in COLUMNS]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *more], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({c: "" if v is None else v for c, v in r.items()} for r in rows)
    return text.getvalue()
