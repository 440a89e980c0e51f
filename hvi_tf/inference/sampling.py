"""Draws of all latent variables from a proposal."""

import tensorflow as tf

from hvi_tf.inference import priors
from hvi_tf.inference.methods import Counts, Method
from hvi_tf.inference.mixtures import mixture
from hvi_tf.inference.model import Density, LatentSample, Model


def draw(
    model: Model, method: Method, x: tf.Tensor, counts: Counts, seed: tf.Tensor
) -> LatentSample:
    """Draws all latent variables of a bound.

    Sobolev & Vetrov 2019, theorem A.4, for m = 1..M:

        psi_m0 ~ q(psi|x),    z_m ~ q(z|psi_m0,x)
        psi_mk ~ tau(psi|z_m,x),  k = 1..K,    zeta_ml ~ rho(zeta|z_m),  l = 1..L

    where the method decides which densities tau and rho are.

    Args:
        model: the callables.
        method: decides which densities propose psi_1:K and zeta_1:L.
        x: observations `[B, ...]`.
        counts: K >= 0, M >= 1 and L >= 1. K is ignored for an explicit proposal, and L for an
            explicit prior and where zeta is psi_0.
        seed: int32 `[2]`. The draw is a pure function of it.

    Returns:
        The draw, reparameterized wherever the distributions are.
    """
    psi_0_seed, z_seed, psi_seed, zeta_seed = tf.unstack(tf.random.split(seed, 4))
    prior = priors.adapt(model.prior)
    if not method.hierarchical:
        # An inverse autoregressive flow has a density only for its own draws.
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
    """Draws psi_k ~ tau(psi|z,x), k = 1..n, for each z from the method's inverse model.

    Args:
        model: the callables.
        method: decides which density proposes psi.
        z: `[M, B, Dz]`.
        x: observations `[B, ...]`.
        n: the number of psi for each z.
        seed: int32 `[2]`. The draws are a pure function of it.
        tau: `inverse(model, method, x, z)` if it is computed already, otherwise None.

    Returns:
        `[n, M, B, Dpsi]`, or `[n, 1, B, Dpsi]` if all z share psi.
    """
    if method.has_tau:
        return (inverse(model, method, x, z) if tau is None else tau).sample(n, seed=seed)
    if method.psi_from_prior:
        prior = priors.hierarchical(model.prior)
        return prior.draw_unconditional_zeta(n, tf.shape(z)[:2], seed)
    own_or_shared = 1 if method.shares_psi else tf.shape(z)[0]
    return model.mixing(x).sample([n, own_or_shared], seed=seed)


def inverse(model: Model, method: Method, x: tf.Tensor, z: tf.Tensor) -> Density:
    """Returns tau(psi|z,x), the density that the method divides q(psi|x) by.

    Args:
        model: the callables.
        method: decides which density tau is.
        x: observations `[B, ...]`.
        z: `[M, B, Dz]`, all draws of z.
    """
    if method.psi_from_prior:
        return priors.hierarchical(model.prior).hierarchy.mixing
    if method.has_own_tau:
        return model.tau(z, x)
    return mixture(lambda z: model.tau(z, x), z, model.mixing(x), method.defensive)
