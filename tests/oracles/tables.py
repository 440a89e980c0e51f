"""Markdown tables of estimates and z-scores."""

import numpy as np

from tests.oracles.statistics import mean_and_error

SEED = 20190513  # the default of conftest.py


def table(header, rows):
    """Prints a Markdown table."""

    def line(cells):
        print("| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |")

    line(header)
    print("|" + "---|" * len(header))
    for row in rows:
        line(row)
    print()


def plus_minus(values):
    """Returns the mean and its standard error as text."""
    mean, error = mean_and_error(np.asarray(values))
    return f"{mean:.4f} ± {error:.4f}"


def z(value):
    """Returns a z-score as text."""
    return f"{value:+.1f}"
