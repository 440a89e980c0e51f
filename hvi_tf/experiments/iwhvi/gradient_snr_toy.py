"""Figure 3b of Sobolev & Vetrov 2019: signal-to-noise ratios on a Gaussian toy model."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import hvi_tf as hvi
from hvi_tf import randomness
from hvi_tf.examples.laplace import silent_model
from hvi_tf.experiments.harness import plots
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
from hvi_tf.experiments.iwhvi import signal_to_noise
from hvi_tf.inference import methods
from hvi_tf.inference.model import Model, ParameterGroups

# Label in the figure -> (the bound of log q(z), the estimator).
ESTIMATORS = {
    "IWHVI, autodiff": ("upper", "reparameterized"),
    "IWHVI, DReG": ("upper", "dreg"),
    "IWHVI, DReG without psi_0 (biased)": ("upper", "dreg-biased"),
    "IWAE, autodiff": ("lower", "reparameterized"),
    "IWAE, DReG": ("lower", "iwae-dreg"),
}
METHOD_OF_BOUND = {"upper": methods.look_up("iwhvi"), "lower": methods.look_up("iwae")}

_COMMON = dict(dim=10, steps=1_000, learning_rate=1e-2, batch_size=100, draws=1_000)
PRESETS: dict[str, Settings] = {
    "quick": dict(_COMMON, K=[1, 3, 10, 30, 100], seeds=2),
    "full": dict(_COMMON, K=[1, 2, 5, 10, 20, 50, 100, 200], seeds=10),
}


class Toy:
    """The model psi ~ N(1, I), z ~ N(psi, I), with tau(psi|z) = N(A z + b, 2/3 I).

    Args:
        dim: of psi and z.
        seed: of the initial A and b.
    """

    def __init__(self, dim: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.A = tf.Variable(rng.normal(size=(dim, dim)).astype(np.float32) / dim)
        self.b = tf.Variable(np.zeros(dim, np.float32))
        self.dim = dim

    def tau(self, z: tf.Tensor, x: tf.Tensor) -> tfd.Distribution:
        """Returns the proposal of psi; the true q(psi|z) is N((z + 1) / 2, I / 2)."""
        mean = tf.linalg.matvec(self.A, z) + self.b
        return tfd.Independent(tfd.Normal(mean, np.float32(np.sqrt(2 / 3))), 1)

    def draw_z(self, n: int, seed: tf.Tensor) -> tf.Tensor:
        """Returns draws of z `[n, dim]`."""
        return 1.0 + np.float32(np.sqrt(2.0)) * tf.random.stateless_normal([n, self.dim], seed)

    def upper(self) -> tuple[Model, ParameterGroups]:
        """Returns the model whose bound is -U_K(z) for z that it draws; x has no effect."""
        ones = tf.ones(self.dim)
        model = silent_model(
            mixing=lambda x: tfd.Independent(tfd.Normal(ones + 0.0 * x, 1.0), 1),
            conditional=lambda psi, x: tfd.Independent(tfd.Normal(psi, 1.0), 1),
            tau=self.tau,
        )
        return model, ParameterGroups(eta=[self.A, self.b])

    def lower(self) -> tuple[Model, ParameterGroups]:
        """Returns the model whose IWAE bound is L_K(z) on log q(z), with z as the observation."""
        model = hvi.Model(
            prior=tfd.Independent(tfd.Normal(tf.ones(self.dim), 1.0), 1),
            likelihood=lambda psi: tfd.Independent(tfd.Normal(psi, 1.0), 1),
            conditional=lambda psi, z: self.tau(z, z),
        )
        return model, ParameterGroups(phi=[self.A, self.b])


def cells(settings: Settings) -> list[Cell]:
    """Returns a cell for each K and seed."""
    shared = {name: settings[name] for name in _COMMON}
    return [
        Cell(f"K{K}-seed{seed}", {**shared, "K": K, "seed": seed})
        for seed in range(settings["seeds"])
        for K in settings["K"]
    ]


def measure(cell: Cell, context: Context) -> list[Row]:
    """Trains tau by each bound, then measures the gradients at that tau."""
    del context
    rows = []
    for bound in METHOD_OF_BOUND:
        rows += _measure(bound, **cell.settings)
    return rows


def _measure(
    bound: str, *, dim: int, steps: int, learning_rate: float, batch_size: int, draws: int,
    K: int, seed: int,
) -> list[Row]:  # fmt: skip
    """Trains tau by one bound and returns the rows of its estimators."""
    toy = Toy(dim, seed)
    model, variables = getattr(toy, bound)()
    counts: dict[str, Any] = {"K": K} if bound == "upper" else {"M": K}

    def minibatch(own: tf.Tensor) -> tf.Tensor:
        return tf.zeros([batch_size, 1]) if bound == "upper" else toy.draw_z(batch_size, own)

    hvi.fit(
        model,
        lambda step: minibatch(randomness.fold(seed, randomness.Purpose.SHUFFLE, step)),
        variables,
        bound=METHOD_OF_BOUND[bound].name,
        **counts,
        steps=steps,
        optimizer=keras.optimizers.Adam(learning_rate, amsgrad=True),
        seed=seed,
    )
    chosen = {label: name for label, (of, name) in ESTIMATORS.items() if of == bound}
    group = "eta" if bound == "upper" else "phi"
    ratios_of = signal_to_noise.make_ratios(
        model, METHOD_OF_BOUND[bound], variables, group, list(chosen.values()),
        K=counts.get("K", 0), M=counts.get("M", 1), draws=draws,
        minibatch=lambda x, own: minibatch(own),
    )  # fmt: skip
    ratios = ratios_of(tf.zeros([]), randomness.fold(seed, randomness.Purpose.EVALUATE))
    rows = []
    for label, own in zip(chosen, ratios, strict=True):
        snr = signal_to_noise.summarize(own)
        where = dict(K=K, M=1, seed=seed, low=snr.low, high=snr.high)
        rows.append(row(label, "snr", snr.mean, **where))
    return rows


def figures(rows: list[Row]) -> dict[str, Any]:
    """Draws the ratio against K."""
    figure, (axes,) = plots.panels(width=5.6, height=3.6)
    Ks = distinct(rows, "K")
    for label in ESTIMATORS:
        means, lows, highs = (
            [np.mean([r[key] for r in select(rows, method=label, K=K)]) for K in Ks]
            for key in ("value", "low", "high")
        )
        plots.band(axes, Ks, means, lows, highs, label)
    axes.set_yscale("log")
    plots.count_axis(axes, "K, draws of psi", Ks)
    axes.set_ylabel("signal-to-noise ratio of a gradient")
    axes.set_title("Mean over parameters; band: their middle 90%")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return {"gradient_snr_toy": figure}


def tables(rows: list[Row]) -> list[Table]:
    """Returns the mean ratios."""
    Ks = distinct(rows, "K")
    body = [
        [label, *(f"{np.mean(values(rows, method=label, K=K)):.3f}" for K in Ks)]
        for label in ESTIMATORS
    ]
    return [Table("Mean signal-to-noise ratio", ["estimator", *(f"K={K}" for K in Ks)], body)]


def claims(rows: list[Row]) -> list[Claim]:
    """Returns the claims of appendix D.2: which ratios fall with K, and which rise."""
    Ks = distinct(rows, "K")

    def ends(label: str) -> tuple[np.ndarray, np.ndarray, str]:
        first, last = (np.array(values(rows, method=label, K=K)) for K in (Ks[0], Ks[-1]))
        shown = f"{shown_mean(first)} at K={Ks[0]}, {shown_mean(last)} at K={Ks[-1]}"
        return first, last, shown

    autodiff, dreg, biased, iwae, iwae_dreg = (ends(label) for label in ESTIMATORS)
    slower = paired(dreg[1] / dreg[0], autodiff[1] / autodiff[0])
    statements = (
        ("Autodiff's ratio falls with K", paired(autodiff[0], autodiff[1]), autodiff),
        ("DReG's ratio falls by a smaller factor, or rises", slower, dreg),
        ("Without psi_0's term it rises (and is biased)", paired(biased[1], biased[0]), biased),
        ("IWAE: autodiff's ratio falls with K", paired(iwae[0], iwae[1]), iwae),
        ("IWAE: DReG's ratio rises with K", paired(iwae_dreg[1], iwae_dreg[0]), iwae_dreg),
    )
    return [Claim(text, all_above(gap), evidence) for text, gap, (_, _, evidence) in statements]


EXPERIMENT = Experiment(
    about=(
        "Signal-to-noise ratios of the gradient of tau's parameters A and b, at the tau that "
        "AMSGrad leads to, for q(z) = N(1, 2 I) seen as psi ~ N(1, I), "
        "z ~ N(psi, I), tau(psi|z) = N(A z + b, 2/3 I). The upper bound U_K "
        "of IWHVI (theorem A.1) beside the lower bound of IWAE, each at a tau trained by it. The "
        "|mean| of n draws is about 0.8 / sqrt(n) standard deviations even without any signal."
    ),
    presets=PRESETS,
    cells=cells,
    measure=measure,
    figures=figures,
    tables=tables,
    claims=claims,
)
