"""Figure 1a of Sobolev & Vetrov 2019: the negative entropy of a Laplace, bounded from above."""

import itertools
import math
import time
from typing import Any

import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.experiments.harness import plots
from hvi_tf.experiments.harness.experiment import Cell, Claim, Context, Experiment, Settings, Table
from hvi_tf.experiments.harness.rows import (
    Row,
    all_above,
    distinct,
    in_errors,
    or_na,
    paired,
    row_of_mean,
    select,
    shown_mean,
    signed,
    standard_error,
    values,
)
from hvi_tf.experiments.iwhvi import laplace_tau

_COMMON: Settings = dict(dim=50, hidden=[500, 500, 500], K=[0, 1, 2, 5, 10, 20, 50, 100])
PRESETS: dict[str, Settings] = {
    "quick": dict(_COMMON, steps=[100, 300, 1_000], draws=1_000, repetitions=10),
    "full": dict(_COMMON, steps=[100, 300, 1_000, 3_000], draws=5_000, repetitions=50),
}


def cells(settings: Settings) -> list[Cell]:
    """Returns a cell for each repetition, which has its own initial weights and training."""
    shared = {name: value for name, value in settings.items() if name != "repetitions"}
    return [
        Cell(f"repetition{i}", {**shared, "repetition": i}) for i in range(settings["repetitions"])
    ]


def measure(cell: Cell, context: Context) -> list[Row]:
    """Returns U_K of SIVI and of IWHVI after each number of steps; all K share draws."""
    s = cell.settings
    repetition = s["repetition"]
    weights = laplace_tau.trained_weights(s, repetition, context.runs)
    own = laplace_tau.trainer(s["dim"], tuple(s["hidden"]))
    exact, rows = laplace_tau.truth(s["dim"]), []
    for steps in (0, *sorted(s["steps"])):
        started = time.monotonic()
        if steps:
            own.adopt(weights[steps])
        method = "iwhvi" if steps else "sivi"
        beta, log_q = own.log_ratios(
            method,
            max(s["K"]),
            s["draws"],
            randomness.fold(repetition, randomness.Purpose.EVALUATE),
        )
        upper = tf.math.cumulative_logsumexp(beta, axis=0).numpy()
        seconds = time.monotonic() - started
        for K in s["K"]:
            # log q(z) and its mean are known, so only the gap has to be estimated.
            gap = upper[K] - math.log(K + 1) - log_q.numpy()
            rows.append(
                row_of_mean(
                    "IWHVI" if steps else "SIVI",
                    "negative_entropy_bound",
                    exact + gap.astype(np.float64),
                    seconds=seconds,
                    K=K,
                    M=1,
                    seed=repetition,
                    tau_steps=steps,
                    truth=exact,
                )
            )
    return rows


def curves(rows: list[Row]) -> dict[str, list[Row]]:
    """Returns the rows of each line of the figure."""
    lines = {"SIVI": select(rows, method="SIVI")}
    for steps in distinct(select(rows, method="IWHVI"), "tau_steps"):
        lines[f"IWHVI, {steps:,} {'step' if steps == 1 else 'steps'} of tau"] = select(
            rows, tau_steps=steps
        )
    return lines


def draw_band(axes: Any, rows: list[Row], label: str) -> None:
    """Draws the mean and 90% band over repetitions against K."""
    Ks = distinct(rows, "K")
    samples = [values(rows, K=K) for K in Ks]
    low, high = (np.array([np.percentile(s, q) for s in samples]) for q in (5, 95))
    plots.band(axes, Ks, [float(np.mean(s)) for s in samples], list(low), list(high), label)


def finish(axes: Any, rows: list[Row]) -> None:
    """Draws the truth, the axes and the legend."""
    plots.reference_line(axes, rows[0]["truth"], f"truth {rows[0]['truth']:.3f}")
    plots.count_axis(axes, "K, draws of psi besides psi_0", distinct(rows, "K"))
    axes.set_ylabel("upper bound on E log q(z), nats")
    axes.set_title("Mean and 90% band over repetitions")
    axes.legend()


def figures(rows: list[Row]) -> dict[str, Any]:
    """Draws the bound against K."""
    figure, (axes,) = plots.panels(width=5.6, height=3.8)
    for label, line in curves(rows).items():
        draw_band(axes, line, label)
    finish(axes, rows)
    return {"laplace": figure}


def tables(rows: list[Row]) -> list[Table]:
    """Returns the mean and standard error over repetitions."""
    Ks = distinct(rows, "K")
    body = [
        [label, *(shown_mean(values(line, K=K)) for K in Ks)]
        for label, line in curves(rows).items()
    ]
    title = f"Upper bound on E log q(z), nats; truth {rows[0]['truth']:.3f}"
    return [Table(title, ["", *(f"K={K}" for K in Ks)], body)]


def claims(rows: list[Row]) -> list[Claim]:
    """Returns the claims of section 6.1, for the longest training of tau."""
    Ks = distinct(rows, "K")
    exact = rows[0]["truth"]
    longest = max(distinct(rows, "tau_steps"))
    gaps = {
        (method, K): np.array(values(rows, method=method, K=K, tau_steps=steps)) - exact
        for method, steps in (("SIVI", 0), ("IWHVI", longest))
        for K in Ks
    }
    ratios = {K: gaps["IWHVI", K].mean() / gaps["SIVI", K].mean() for K in Ks if K}
    halved = [paired(0.5 * gaps["SIVI", K], gaps["IWHVI", K]) for K in ratios]
    lowest = min(
        in_errors(float(np.mean(sample)) - exact, standard_error(sample))
        for line in curves(rows).values()
        for sample in (values(line, K=K) for K in Ks)
    )
    trained = [gaps["IWHVI", K] for K in Ks]
    falls = [paired(a, b) for a, b in itertools.pairwise(trained)]
    least, error = min(falls, key=lambda fall: in_errors(*fall), default=(math.nan, math.nan))
    shown = ", ".join(f"{r:.2f} (K={K})" for K, r in ratios.items())
    return [
        Claim(
            "U_K more than halves SIVI's gap at every K > 0",
            all_above(*halved),
            shown,
        ),
        Claim(
            "never below the truth by more than its error (two standard errors)",
            None if math.isnan(lowest) else lowest > -2.0,
            f"the smallest gap is {or_na(lowest, '.1f')} standard errors",
        ),
        Claim(
            "decreasing in K",
            all_above(*falls),
            f"least clear step of the mean {signed(-least, error, digits=3)} nats",
        ),
    ]


EXPERIMENT = Experiment(
    about=(
        "E log q(z) of a D-dimensional Laplace(0, 1), seen as Normal(0, variance psi_d) with "
        "psi_d ~ Exponential(1/2), is -D (1 + log 2). U_K bounds it from above: with "
        "psi_1:K from q(psi) this is SIVI, with psi_1:K from a tau trained for some steps "
        "IWHVI. tau is a Gamma whose network sees |z|, gated toward "
        f"the prior (bias -5), trained at K={laplace_tau.TRAINING_K} with DReG and Adam at "
        f"{laplace_tau.LEARNING_RATE} on {laplace_tau.BATCH_SIZE} draws of z a step. Every "
        "repetition has weights of its own. Since "
        "log q(z) is known for every draw, only the gap is estimated; all K share draws."
    ),
    presets=PRESETS,
    cells=cells,
    measure=measure,
    figures=figures,
    tables=tables,
    claims=claims,
)
