"""Bounds the entropy of a Laplace distribution, seen as a scale mixture with a Gamma tau.

    python -m hvi_tf.examples.laplace

Sobolev & Vetrov 2019, section 6.1: z_d ~ N(0, variance psi_d), psi_d ~ Exponential(1/2) is
Laplace(0, 1). So E log q(z) = -D (1 + log 2) is known, and U_K bounds it from above. The
proposal tau is a Gamma. A gate starts its network near the prior, where it is as good as SIVI.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import hvi_tf as hvi
from hvi_tf.models import networks


def silent_model(
    mixing: Callable[[tf.Tensor], tfd.Distribution],
    conditional: Callable[[tf.Tensor, tf.Tensor], tfd.Distribution],
    tau: Callable[[tf.Tensor, tf.Tensor], tfd.Distribution],
) -> hvi.Model:
    """Returns a model whose bound is -U_K: prior and likelihood do not depend on z."""

    def silent(z: tf.Tensor) -> tf.Tensor:
        return tf.zeros_like(z[..., 0])

    return hvi.Model(
        prior=hvi.Callables(log_prob_fn=silent),
        likelihood=lambda z: hvi.Callables(log_prob_fn=lambda x: silent(z)),
        conditional=conditional,
        mixing=mixing,
        tau=tau,
    )


def entropy_model(
    dim: int, hidden: Sequence[int] = (500, 500, 500), seed: int = 0, gate_bias: float = -5.0
) -> tuple[hvi.Model, hvi.ParameterGroups]:
    """Returns Laplace(0, 1) in `dim` dimensions as a mixture, and the weights of its tau."""
    net = networks.MLP(dim, hidden, 3 * dim, np.random.default_rng(seed))

    def tau(z: tf.Tensor, x: tf.Tensor) -> tfd.Distribution:
        concentration, rate, gate = tf.split(net(tf.abs(z)), 3, axis=-1)
        gate = tf.nn.sigmoid(gate + gate_bias)
        positive = [tf.nn.softplus(parameter) + 1e-3 for parameter in (concentration, rate)]
        concentration = 1.0 + gate * (positive[0] - 1.0)
        rate = 0.5 + gate * (positive[1] - 0.5)
        return tfd.Independent(tfd.Gamma(concentration, rate), 1)

    model = silent_model(
        mixing=lambda x: tfd.Independent(tfd.Exponential(tf.fill([len(x), dim], 0.5)), 1),
        conditional=lambda psi, x: tfd.Independent(tfd.Normal(0.0, tf.sqrt(psi)), 1),
        tau=tau,
    )
    return model, hvi.ParameterGroups(eta=net.variables)


def main(dim: int = 50, K: int = 20, steps: int = 1_000) -> None:
    """Fits tau and prints the bounds next to the truth."""
    model, variables = entropy_model(dim)
    batch = tf.zeros([100, 1])  # 100 draws of z a step; x has no effect
    many = tf.zeros([2_000, 1])
    print(f"E log q(z), exactly: {-dim * (1 + np.log(2)):.3f} nats")
    for bound in ("sivi", "iwhvi"):
        if bound == "iwhvi":
            adam = keras.optimizers.Adam(1e-3)
            hvi.fit(model, batch, variables, K=K, gradient="dreg", steps=steps, optimizer=adam)
        values = -hvi.evidence(model, many, bound=bound, K=K, replicates=2).mean
        error = values.std(ddof=1) / np.sqrt(len(values))
        print(f"{bound} upper bound, K={K}: {values.mean():.3f} +- {error:.3f} nats")


if __name__ == "__main__":
    from hvi_tf.cli import exits

    exits.start(lambda _: exits.run(main, lambda: exits.again("hvi_tf.examples.laplace")), __doc__)
