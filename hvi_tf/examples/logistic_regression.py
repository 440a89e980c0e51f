"""Estimates the evidence of a Bayesian logistic regression by a semi-implicit posterior.

    python -m hvi_tf.examples.logistic_regression

x is the vector of all labels, so B = 1. The fit repeats it, for B draws of w a step. The
posterior q(w) is a mixture of Gaussians N(mean(psi), scale(psi)^2) over psi ~ N(0, I). The
proposal tau(psi|w) is fitted with it. The columns of the design are correlated, so a factorized
Gaussian is far from the posterior.
"""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import hvi_tf as hvi
from hvi_tf.models import networks


class Data(NamedTuple):
    """A design and its labels."""

    design: np.ndarray  # float32 [N, D]
    labels: np.ndarray  # float32 [1, N], 0 or 1


def simulate(num_rows: int = 200, num_columns: int = 4, seed: int = 0) -> Data:
    """Returns a data set drawn from the model, with columns correlated by 0.9."""
    rng = np.random.default_rng(seed)
    cov = 0.9 + 0.1 * np.eye(num_columns)
    design = rng.multivariate_normal(np.zeros(num_columns), cov, num_rows)
    logits = design @ rng.normal(size=num_columns)
    labels = rng.random(num_rows) < 1 / (1 + np.exp(-logits))
    return Data(design.astype(np.float32), labels[np.newaxis].astype(np.float32))


def semi_implicit(data: Data, seed: int = 0) -> tuple[hvi.Model, hvi.ParameterGroups]:
    """Returns the model with its proposal and tau, and the variables to fit."""
    dim = data.design.shape[1]
    rng = np.random.default_rng(seed)
    q_net = networks.MLP(dim, (50,), 2 * dim, rng)
    tau_net = networks.MLP(dim, (50,), 2 * dim, rng)

    def standard_normal(*batch: int) -> tfd.Distribution:
        return tfd.Independent(tfd.Normal(tf.zeros([*batch, dim]), 1.0), 1)

    def likelihood(w: tf.Tensor) -> tfd.Distribution:  # [M, 1, D] -> batch [M, 1], event [N]
        logits = tf.einsum("mbd,nd->mbn", w, data.design)
        return tfd.Independent(tfd.Bernoulli(logits=logits), 1)

    model = hvi.Model(
        prior=standard_normal(),
        likelihood=likelihood,
        conditional=lambda psi, x: networks.gaussian_head(q_net(psi)),
        mixing=lambda x: standard_normal(len(x)),
        tau=lambda w, x: networks.gaussian_head(tau_net(w)),
    )
    return model, hvi.ParameterGroups(phi=q_net.variables, eta=tau_net.variables)


def factorized(data: Data) -> tuple[hvi.Model, hvi.ParameterGroups]:
    """Returns the same model with a factorized Gaussian as q(w)."""
    dim = data.design.shape[1]
    loc, raw_scale = tf.Variable(tf.zeros([dim])), tf.Variable(tf.fill([dim], -1.0))

    def conditional(psi: None, x: tf.Tensor) -> tfd.Distribution:
        scale = tf.nn.softplus(raw_scale) * tf.ones([len(x), 1])
        return tfd.Independent(tfd.Normal(loc, scale), 1)

    model, _ = semi_implicit(data)
    return model._replace(conditional=conditional), hvi.ParameterGroups(phi=[loc, raw_scale])


def main(steps: int = 2_000, M: int = 2_000) -> None:
    """Fits both proposals and prints their bounds with one and with M draws of w."""
    data = simulate()
    many_x = np.repeat(data.labels, 32, axis=0)

    model, variables = factorized(data)
    adam = keras.optimizers.Adam(5e-3)
    hvi.fit(model, many_x, variables, bound="vae", gradient="stl", steps=steps, optimizer=adam)
    print("factorized Gaussian")
    print("  one draw: ", hvi.evidence(model, data.labels, bound="vae", replicates=1_000))
    print(f"  {M} draws:", hvi.evidence(model, data.labels, bound="iwae", M=M))

    model, variables = semi_implicit(data)
    adam = keras.optimizers.Adam(5e-3)
    hvi.fit(model, many_x, variables, K=10, gradient="gdreg", steps=steps, optimizer=adam)
    print("semi-implicit, K=10")
    one = hvi.evidence(model, data.labels, bound="iwhvi", K=10, replicates=1_000)
    print("  one draw: ", one)
    print(f"  {M} draws:", hvi.evidence(model, data.labels, bound="diwhvi", K=10, M=M))


if __name__ == "__main__":
    from hvi_tf.cli import exits

    exits.start(
        lambda _: exits.run(main, lambda: exits.again("hvi_tf.examples.logistic_regression")),
        __doc__,
    )
