"""Figure 4 of Sobolev & Vetrov 2019: the Laplace of figure 1a with the jackknife."""

import time
from typing import Any

import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.bounds import jackknife
from hvi_tf.experiments.harness import plots
from hvi_tf.experiments.harness.experiment import Cell, Claim, Context, Experiment, Settings, Table
from hvi_tf.experiments.harness.rows import (
    Row,
    all_above,
    distinct,
    paired,
    row_of_mean,
    select,
    shown_mean,
    values,
)
from hvi_tf.experiments.iwhvi import laplace, laplace_tau

ORDERS = (0, 1, 2)

PRESETS: dict[str, Settings] = {
    name: dict(settings, K=[2, 5, 10, 20, 50, 100], draws=draws)
    for (name, settings), draws in zip(laplace.PRESETS.items(), (500, 2_000), strict=True)
}


@tf.function
def _estimates(beta: tf.Tensor) -> tf.Tensor:
    """Returns the jackknife estimate of every order, `[orders, draws]`."""
    return tf.stack([jackknife.jackknife(beta, order) for order in ORDERS])


def measure(cell: Cell, context: Context) -> list[Row]:
    """Returns the estimates of every order and K, for SIVI and the tau of figure 1a."""
    s = cell.settings
    repetition, longest = s["repetition"], max(s["steps"])
    weights = laplace_tau.trained_weights(s, repetition, context.runs)[longest]
    own = laplace_tau.trainer(s["dim"], tuple(s["hidden"]))
    own.adopt(weights)
    exact, rows = laplace_tau.truth(s["dim"]), []
    for method, label in (("sivi", "SIVI"), ("iwhvi", "IWHVI")):
        beta, log_q = own.log_ratios(
            method,
            max(s["K"]),
            s["draws"],
            randomness.fold(repetition, randomness.Purpose.EVALUATE),
        )
        for K in s["K"]:
            started = time.monotonic()
            estimates = _estimates(beta[: K + 1]).numpy()
            seconds = time.monotonic() - started
            for order, estimate in zip(ORDERS, estimates, strict=True):
                gap = estimate - log_q.numpy()
                rows.append(
                    row_of_mean(
                        label,
                        "negative_entropy_estimate",
                        exact + gap.astype(np.float64),
                        seconds=seconds,
                        K=K,
                        M=1,
                        seed=repetition,
                        order=order,
                        tau_steps=longest if method == "iwhvi" else 0,
                        truth=exact,
                    )
                )
    return rows


def _name(order: int) -> str:
    return "U_K" if order == 0 else f"jackknife, J={order}"


def figures(rows: list[Row]) -> dict[str, Any]:
    """Draws the estimates against K, with SIVI and IWHVI side by side."""
    figure, axes = plots.panels(2, width=4.6, height=3.8)
    for own, method in zip(axes, ("SIVI", "IWHVI"), strict=True):
        mine = select(rows, method=method)
        for order in ORDERS:
            laplace.draw_band(own, select(mine, order=order), _name(order))
        laplace.finish(own, mine)
        own.set_ylabel("estimate of E log q(z), nats")
        own.set_title(f"{method}: mean and 90% band over repetitions")
    return {"laplace_jackknife": figure}


def tables(rows: list[Row]) -> list[Table]:
    """Returns the mean and standard error over repetitions."""
    Ks = distinct(rows, "K")
    body = []
    for method in ("SIVI", "IWHVI"):
        for order in ORDERS:
            samples = [values(rows, method=method, order=order, K=K) for K in Ks]
            body.append([f"{method}, {_name(order)}", *map(shown_mean, samples)])
    title = (
        f"Estimates of E log q(z), nats; truth {rows[0]['truth']:.3f}. For J > 0 they are no bounds"
    )
    return [Table(title, ["", *(f"K={K}" for K in Ks)], body)]


def claims(rows: list[Row]) -> list[Claim]:
    """Returns the claims of appendix E.2: the jackknife is closer to the truth at every K."""
    exact, statements = rows[0]["truth"], []
    for method in ("SIVI", "IWHVI"):
        Ks = distinct(rows, "K")
        distances = {
            (order, K): _distances(values(rows, method=method, order=order, K=K), exact)
            for order in ORDERS
            for K in Ks
        }
        shown = "; ".join(
            f"K={K}: " + ", ".join(f"{distances[order, K].mean():.3f}" for order in ORDERS)
            for K in Ks
        )
        closer = all_above(*(paired(distances[0, K], distances[1, K]) for K in Ks))
        text = f"{method}: the jackknife of order 1 is closer to the truth than U_K at every K"
        statements.append(Claim(text, closer, f"distance for J=0, 1, 2: {shown} nats"))
    return statements


def _distances(estimates: list[float], exact: float) -> np.ndarray:
    """Returns the distances from the truth by repetition; their mean is that of the mean."""
    gaps = np.array(estimates) - exact
    return np.sign(gaps.mean()) * gaps


EXPERIMENT = Experiment(
    about=(
        "The setting of figure 1a with the jackknife of orders 1 and 2 (with the corrected "
        "coefficient: the printed one is off by one), after the longest training of tau. An "
        "estimate of order J > 0 has less bias than U_K, more variance, and is no bound."
    ),
    presets=PRESETS,
    cells=laplace.cells,
    measure=measure,
    figures=figures,
    tables=tables,
    claims=claims,
)
