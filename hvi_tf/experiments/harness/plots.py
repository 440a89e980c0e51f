"""Helpers for figures with units on every axis and bands that the title explains."""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import rcsetup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hvi_tf.experiments.harness.rows import standard_error
from hvi_tf.storage import files

# One axis of numbers.
Values = Sequence[float] | np.ndarray

matplotlib.use("Agg")
# A fixed salt makes equal figures equal files. SVG text becomes paths, which need no fonts.
matplotlib.rcParams.update(
    {
        "svg.hashsalt": "hvi_tf",
        "font.size": 9.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "lines.linewidth": 1.5,
        "lines.markersize": 4.0,
        "axes.prop_cycle": rcsetup.cycler(
            # Okabe & Ito: color-blind readers can distinguish them.
            color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
        ),
    }
)


def panels(count: int = 1, width: float = 4.2, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    """Returns a figure and its `count` axes side by side; sizes are in inches."""
    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)
    return figure, list(axes[0])


def band(
    axes: Axes,
    x: Values,
    middle: Values,
    low: Values,
    high: Values,
    label: str,
    **style: Any,
) -> None:
    """Draws a line with a shaded band."""
    (line,) = axes.plot(x, middle, label=label, **{"marker": "o", **style})
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.18, linewidth=0)


def over_seeds(axes: Axes, x: Values, samples: Sequence[Values], label: str, **style: Any) -> None:
    """Draws the mean of `samples[i]` at `x[i]`, with a band of two standard errors."""
    means = np.array([np.mean(s) for s in samples])
    errors = np.array([2.0 * standard_error(s) for s in samples])
    band(axes, x, means, means - errors, means + errors, label, **style)


def reference_line(axes: Axes, value: float, label: str, **style: Any) -> None:
    """Draws the truth or a reference value as a dashed line with a label."""
    axes.axhline(value, **{"color": "0.35", "linestyle": "--", "linewidth": 1.0, **style})
    axes.annotate(
        label,
        (0.99, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
        color=style.get("color", "0.35"),
    )


def next_to_paper(
    axes: Axes,
    samples: Mapping[str, Values],
    paper: Mapping[str, float],
    quantity: str,
    title: str,
) -> None:
    """Draws a line per method: our values by seed, their mean, and the paper's value dashed."""
    for i, (method, sample) in enumerate(samples.items()):
        color = f"C{i % 7}"
        error = 2.0 * standard_error(sample)
        axes.errorbar(np.mean(sample), -i, xerr=error, fmt="o", color=color, capsize=3)
        axes.plot(sample, [-i] * len(sample), "|", color=color)
        if method in paper:
            axes.vlines(paper[method], -i - 0.4, -i + 0.4, color, linestyles="dashed")
    axes.set_yticks([-i for i in range(len(samples))], list(samples))
    axes.set_xlabel(quantity)
    axes.set_title(f"{title}; bars: 2 standard errors over seeds, dashed: the paper's", fontsize=7)


def learning_curves(axes: Axes, curves: Mapping[str, Mapping[int, Values]], title: str) -> None:
    """Draws the validation bound of every method against the training step, over seeds."""
    for i, (method, curve) in enumerate(curves.items()):
        if not curve:
            continue
        style = {"color": f"C{i % 7}", "linestyle": "--" if i >= 7 else "-"}
        over_seeds(axes, list(curve), list(curve.values()), method, **style)
    axes.set_xlabel("training step")
    axes.set_ylabel("validation bound, nats")
    axes.set_title(f"{title}; band: 2 standard errors over seeds", fontsize=8)
    axes.legend(fontsize=7)


def count_axis(axes: Axes, name: str, counts: Sequence[int]) -> None:
    """Makes the x axis logarithmic for numbers of draws, which may include 0."""
    if 0 in counts:
        axes.set_xscale("symlog", linthresh=1.0, linscale=0.4)
        axes.set_xlim(left=-0.3)
    else:
        axes.set_xscale("log")
    axes.set_xticks(list(counts), [str(c) for c in counts])
    axes.minorticks_off()
    axes.set_xlabel(name)


def save(figure: Figure, stem: pathlib.Path) -> None:
    """Writes a matplotlib figure as PNG and SVG; equal figures give equal bytes."""
    for kind in ("png", "svg"):
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
        files.write_atomically(stem.with_suffix(f".{kind}"), buffer.getvalue())
