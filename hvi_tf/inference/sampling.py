"""Draws of all latent variables from a proposal."""

import tensorflow as tf

from hvi_tf.inference import priors
from hvi_tf.inference.methods import Counts, Method
from hvi_tf.inference.mixtures import mixture
from hvi_tf.inference.model import Density, LatentSample, Model


def draw(
    model: Model, method: Method, x: tf.Tensor, counts: Counts, seed: tf.Tensor
) -> LatentSample:
    """Draws psi_0 ~ q(psi|x), z ~ q(z|psi_0,x), psi_1:K and zeta_1:L as the method says.

    The generative process of theorem A.4 of Sobolev & Vetrov 2019.

    Args:
        model: the callables.
        method: decides which densities propose psi_1:K and zeta_1:L.
        x: observations `[B, ...]`.
        counts: K >= 0 is ignored for an explicit proposal, L >= 1 for an explicit prior and
            where zeta is psi_0.
        seed: int32 `[2]`; the draw is a pure function of it.

    Returns:
        The draw, reparameterized wherever the distributions are.
    """
    psi_0_seed, z_seed, psi_seed, zeta_seed = tf.unstack(tf.random.split(seed, 4))
    prior = priors.adapt(model.prior)
    if not method.hierarchical:
        # An inverse autoregressive flow knows the density of its own draws only.
        q = model.conditional(None, x)
        z, log_q_z = q.experimental_sample_and_log_prob(counts.M, seed=z_seed)
        zeta = prior.draw_zeta(method, z, None, counts.L, zeta_seed)
        return LatentSample(z=z, zeta=zeta, log_q_z=log_q_z)
    psi_0 = model.mixing(x).sample(counts.M, seed=psi_0_seed)
    z = model.conditional(psi_0, x).sample(seed=z_seed)
    return LatentSample(
        z=z,
        psi_0=psi_0,
        psi=draw_psi(model, method, z, x, method.psi_per_z(counts), psi_seed),
        zeta=prior.draw_zeta(method, z, psi_0, counts.L, zeta_seed),
    )


def draw_psi(
    model: Model,
    method: Method,
    z: tf.Tensor,
    x: tf.Tensor,
    n: int | tf.Tensor,
    seed: tf.Tensor,
    tau: Density | None = None,
) -> tf.Tensor:
    """Draws `n` psi for each z `[M, B, Dz]` from the method's inverse model.

    Args:
        model: the callables.
        method: decides which density proposes psi.
        z: `[M, B, Dz]`.
        x: observations `[B, ...]`.
        n: number of psi.
        seed: int32 `[2]`.
        tau: `inverse(model, method, x, z)`, if it is known already.

    Returns:
        `[n, M, B, Dpsi]`; `[n, 1, B, Dpsi]` if the method shares them among all z.
    """
    if method.has_tau:
        return (inverse(model, method, x, z) if tau is None else tau).sample(n, seed=seed)
    if method.psi_from_prior:
        prior = priors.hierarchical(model.prior)
        return prior.draw_unconditional_zeta(n, tf.shape(z)[:2], seed)
    own_or_shared = 1 if method.shares_psi else tf.shape(z)[0]
    return model.mixing(x).sample([n, own_or_shared], seed=seed)


def inverse(model: Model, method: Method, x: tf.Tensor, z: tf.Tensor) -> Density:
    """Returns the density that the method divides q(psi|x) by, given all z `[M, B, Dz]`."""
    if method.psi_from_prior:
        return priors.hierarchical(model.prior).hierarchy.mixing
    if method.has_own_tau:
        return model.tau(z, x)
    return mixture(lambda z: model.tau(z, x), z, model.mixing(x), method.defensive)
