"""Figure 3a of Sobolev & Vetrov 2019: signal-to-noise ratios on a slightly trained model."""

from typing import Any

import numpy as np

from hvi_tf import randomness
from hvi_tf.experiments.harness import plots, trained
from hvi_tf.experiments.harness.experiment import Cell, Claim, Context, Experiment, Settings, Table
from hvi_tf.experiments.harness.rows import (
    Row,
    all_above,
    distinct,
    paired,
    row,
    select,
    shown_mean,
    values,
)
from hvi_tf.experiments.iwhvi import reference_model, signal_to_noise
from hvi_tf.inference import methods

ESTIMATORS = {
    "autodiff": "reparameterized",
    "DReG": "dreg",
    "DReG without psi_0 (biased)": "dreg-biased",
}

PRESETS: dict[str, Settings] = {
    "quick": dict(K=[1, 5, 25, 50], M=[1, 5], batch_size=32, minibatches=3, draws=100,
                  model="quick"),
    "full": dict(K=[1, 5, 10, 25, 50, 100], M=[1, 5, 25], batch_size=256, minibatches=10,
                 draws=100, model="full"),
}  # fmt: skip


def cells(settings: Settings) -> list[Cell]:
    """Returns a cell for each K and M."""
    shared = {name: value for name, value in settings.items() if name not in ("K", "M")}
    return [
        Cell(f"M{M}-K{K}", {**shared, "K": K, "M": M}) for M in settings["M"] for K in settings["K"]
    ]


def measure_group(
    cell: Cell, context: Context, group: str, estimators: dict[str, str]
) -> list[Row]:
    """Returns the ratios of a group's gradients on the trained model, by all estimators."""
    s = cell.settings
    run = trained.train(context, reference_model.settings(s["model"], young=True))
    ratios_of = signal_to_noise.make_ratios(
        run.model.callables, methods.look_up("diwhvi"), run.model.parameter_groups, group,
        list(estimators.values()), K=s["K"], M=s["M"], draws=s["draws"],
    )  # fmt: skip
    rows = []
    for i in range(s["minibatches"]):
        x = reference_model.minibatch(run, s["batch_size"], i)
        seed = randomness.fold(run.config.training.seed, randomness.Purpose.EVALUATE, i)
        for label, ratios in zip(estimators, ratios_of(x, seed), strict=True):
            snr = signal_to_noise.summarize(ratios)
            where = dict(dataset="mnist", K=s["K"], M=s["M"], seed=0, group=group, minibatch=i)
            rows.append(row(label, "snr", snr.mean, low=snr.low, high=snr.high, **where))
    return rows


def measure(cell: Cell, context: Context) -> list[Row]:
    """Returns the ratios of tau's gradients."""
    return measure_group(cell, context, "eta", ESTIMATORS)


def draw(rows: list[Row], estimators: dict[str, str], of: str) -> Any:
    """Draws the ratio against K, with a panel for each M."""
    Ks, Ms = distinct(rows, "K"), distinct(rows, "M")
    figure, panels = plots.panels(len(Ms), height=3.8)
    for axes, M in zip(panels, Ms, strict=True):
        for label in estimators:
            means, lows, highs = (
                [np.mean([r[key] for r in select(rows, method=label, M=M, K=K)]) for K in Ks]
                for key in ("value", "low", "high")
            )
            plots.band(axes, Ks, means, lows, highs, label)
        axes.set_yscale("log")
        plots.count_axis(axes, "K, draws of psi", Ks)
        axes.set_ylabel(f"signal-to-noise ratio, gradient of {of}")
        axes.set_title(f"M={M}; band: middle 90% of parameters")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3)
    return figure


def figures(rows: list[Row]) -> dict[str, Any]:
    """Draws the ratio against K, with a panel for each M."""
    return {"gradient_snr": draw(rows, ESTIMATORS, "tau")}


def table(rows: list[Row], estimators: dict[str, str], of: str) -> Table:
    """Returns the mean ratios by estimator, M and K."""
    Ks, Ms = distinct(rows, "K"), distinct(rows, "M")
    body = [
        [
            f"{label}, M={M}",
            *(f"{np.mean(values(rows, method=label, M=M, K=K)):.3f}" for K in Ks),
        ]
        for M in Ms
        for label in estimators
    ]
    title = f"Signal-to-noise ratio of the gradient of {of}, mean over parameters and minibatches"
    return Table(title, ["", *(f"K={K}" for K in Ks)], body)


def tables(rows: list[Row]) -> list[Table]:
    """Returns the mean ratios by estimator, M and K."""
    return [table(rows, ESTIMATORS, "tau")]


def ratios(rows: list[Row], label: str, M: int, K: int) -> np.ndarray:
    """Returns the ratio in every minibatch."""
    return np.array(values(rows, method=label, M=M, K=K))


def trend(rows: list[Row], label: str, M: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Returns the ratios at the smallest and the largest K by minibatch, and their text."""
    Ks = distinct(rows, "K")
    first, last = (ratios(rows, label, M, K) for K in (Ks[0], Ks[-1]))
    return first, last, f"{shown_mean(first)} at K={Ks[0]}, {shown_mean(last)} at K={Ks[-1]}"


def claims(rows: list[Row]) -> list[Claim]:
    """Returns the claims of appendix D.2, for this model; errors are over minibatches."""
    statements = []
    for M in distinct(rows, "M"):
        autodiff, dreg, biased = (trend(rows, label, M) for label in ESTIMATORS)
        slower = paired(dreg[1] / dreg[0], autodiff[1] / autodiff[0])
        for text, gap, evidence in (
            ("autodiff's ratio falls with K", paired(autodiff[0], autodiff[1]), autodiff[2]),
            ("DReG's ratio falls by a smaller factor, or rises", slower, dreg[2]),
            ("without psi_0's term it rises", paired(biased[1], biased[0]), biased[2]),
        ):
            statements.append(Claim(f"M={M}: {text}", all_above(gap), evidence))
    return statements


EXPERIMENT = Experiment(
    about=(
        "Signal-to-noise ratios of tau's gradient in the DIWHVI bound on minibatches of a "
        "slightly trained IWHVI autoencoder of MNIST: fresh draws for fixed images, |mean| / "
        "standard deviation of every weight, averaged over weights and minibatches. All "
        "estimators see the same draws."
    ),
    presets=PRESETS,
    cells=cells,
    measure=measure,
    figures=figures,
    tables=tables,
    claims=claims,
    caveats=dict(
        quick=(
            "The |mean| of 100 draws, the paper's number too, is about 0.8 / sqrt(100) = 0.08 "
            "standard deviations even where there is no signal: ratios near 0.08 are that floor."
        )
    ),
)
