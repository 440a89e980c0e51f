"""Draws from a hierarchical proposal, and the log-densities of a draw.

A model is a handful of callables that return TFP distributions. Axes follow TFP's
sample + batch + event order: k, then m, then the batch of observations.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import randomness
from hvi_tf.bounds import LogDensities
from hvi_tf.inference import hierarchy, pairs
from hvi_tf.inference.hierarchy import Hierarchy
from hvi_tf.inference.methods import Method
from hvi_tf.inference.mixtures import Mixture, mixture


class Model(NamedTuple):
    """A latent variable model p(x,z) and a proposal q(z|x), hierarchical or explicit.

    What a row of the table does not use may be None, and of what it uses only `sample` or
    `log_prob` may be needed: see `callables.Callables` for functions in place of
    distributions.

    Attributes:
        prior: p(z), batch shape `[]` or `[B]`; or p(z) = int p(z|zeta) p(zeta) dzeta.
        likelihood: z `[M, B, Dz]` -> p(x|z), batch shape `[M, B]`.
        conditional: (psi `[..., B, Dpsi]`, x) -> q(z|psi,x), batch shape `[..., B]`.
            For an explicit proposal: (None, x) -> q(z|x), batch shape `[B]`.
        mixing: x -> q(psi|x), batch shape `[B]`; not called for an explicit proposal.
        tau: (z `[M, B, Dz]`, x) -> tau(psi|z,x), batch shape `[M, B]`; called
            only by methods whose row names it.
    """

    prior: tfd.Distribution | Hierarchy
    likelihood: Callable[[tf.Tensor], tfd.Distribution]
    conditional: Callable[[tf.Tensor | None, tf.Tensor], tfd.Distribution]
    mixing: Callable[[tf.Tensor], tfd.Distribution] = None  # type: ignore[assignment]
    tau: Callable[[tf.Tensor, tf.Tensor], tfd.Distribution] = None  # type: ignore[assignment]


# x -> the model for these observations, with what depends on x alone computed once.
Prepare = Callable[[tf.Tensor], Model]


def prepared(model: Model | Prepare, x: tf.Tensor) -> Model:
    """The model, for several calls with the same observations."""
    return model if isinstance(model, Model) else model(x)


class LatentSample(NamedTuple):
    """One draw of every latent variable; all axes before the last are k, m or l, then B."""

    z: tf.Tensor  # [M, B, Dz]
    psi_0: tf.Tensor | None = None  # [M, B, Dpsi], generated z; None if q is explicit
    psi: tf.Tensor | None = None  # [K, M, B, Dpsi], or [K or M K, 1, B, Dpsi] if shared by all z
    zeta: tf.Tensor | None = None  # [L, M or 1, B, Dzeta]; None if the prior is explicit
    log_q_z: tf.Tensor | None = None  # [M, B], of an explicit q(z|x), known from the draw

    def copy(self) -> "LatentSample":
        """Returns the same values in other tensors."""
        return LatentSample(*(None if part is None else tf.identity(part) for part in self))


def draw(
    model: Model,
    method: Method,
    x: tf.Tensor,
    *,
    K: int | tf.Tensor,
    M: int | tf.Tensor,
    L: int | tf.Tensor = 1,
    seed: tf.Tensor,
) -> LatentSample:
    """Draws psi_0 ~ q(psi|x), z ~ q(z|psi_0,x), psi_1:K and zeta_1:L as the row says.

    The generative process of theorem A.4 of Sobolev & Vetrov 2019.

    Args:
        model: the callables.
        method: the row of the table; decides what proposes psi_1:K and zeta_1:L.
        x: observations `[B, ...]`.
        K: number of psi besides psi_0, >= 0. Ignored for an explicit proposal.
        M: number of z, >= 1.
        L: number of zeta, >= 1. Ignored for an explicit prior and where zeta is psi_0.
        seed: int32 `[2]`; the draw is a pure function of it.

    Returns:
        The draw, reparameterized wherever the distributions are.
    """
    psi_0_seed, z_seed, psi_seed, zeta_seed = tf.unstack(tf.random.split(seed, 4))
    if not method.hierarchical:
        # An inverse autoregressive flow knows the density of its own draws only.
        q = model.conditional(None, x)
        z, log_q_z = q.experimental_sample_and_log_prob(M, seed=z_seed)
        zeta = draw_zeta(model, method, z, None, L, zeta_seed)
        return LatentSample(z=z, zeta=zeta, log_q_z=log_q_z)
    psi_0 = model.mixing(x).sample(M, seed=psi_0_seed)
    z = model.conditional(psi_0, x).sample(seed=z_seed)
    n = psi_per_z(method, K, M)
    return LatentSample(
        z=z,
        psi_0=psi_0,
        psi=draw_psi(model, method, z, x, n, psi_seed),
        zeta=draw_zeta(model, method, z, psi_0, L, zeta_seed),
    )


def psi_per_z(method: Method, K: int | tf.Tensor, M: int | tf.Tensor) -> int | tf.Tensor:
    """How many psi besides psi_0 each z is scored at: K, or M K where all are shared."""
    return M * K if method.shared == "MK" else K


def draw_psi(
    model: Model,
    method: Method,
    z: tf.Tensor,
    x: tf.Tensor,
    n: int | tf.Tensor,
    seed: tf.Tensor,
    tau: tfd.Distribution | Mixture | None = None,
) -> tf.Tensor:
    """Draws `n` psi for each z `[M, B, Dz]` from the row's inverse model.

    `tau` is `inverse(model, method, x, z)`, if it is known already.

    Returns:
        `[n, M, B, Dpsi]`; `[n, 1, B, Dpsi]` if the row shares them among all z.
    """
    if method.has_tau:
        return (inverse(model, method, x, z) if tau is None else tau).sample(n, seed=seed)
    if method.inverse == "prior":
        return draw_unconditional_zeta(model.prior, n, tf.shape(z)[:2], seed)
    own_or_shared = 1 if method.shares_psi else tf.shape(z)[0]
    return model.mixing(x).sample([n, own_or_shared], seed=seed)


def inverse(model: Model, method: Method, x: tf.Tensor, z: tf.Tensor) -> tfd.Distribution | Mixture:
    """The density that the row divides q(psi|x) by, given all z `[M, B, Dz]`."""
    if method.inverse == "prior":
        return model.prior.mixing
    if method.inverse == "tau":
        return model.tau(z, x)
    return mixture(lambda z: model.tau(z, x), z, model.mixing(x), method.defensive)


def rho(prior: Hierarchy, method: Method, z: tf.Tensor) -> tfd.Distribution | Mixture:
    """The density that the row draws zeta from, given all z `[M, B, Dz]`."""
    if method.shares_zeta:
        return mixture(lambda z: hierarchy.inverse(prior, z), z)
    return hierarchy.inverse(prior, z)


def draw_zeta(
    model: Model,
    method: Method,
    z: tf.Tensor,
    psi_0: tf.Tensor | None,
    L: int | tf.Tensor,
    seed: tf.Tensor,
) -> tf.Tensor | None:
    """Draws `[L, M, B, Dzeta]` from what the row puts in place of rho.

    Returns:
        None if the prior is explicit; psi_0 `[1, M, B, Dpsi]` where it takes zeta's place.
    """
    if not isinstance(model.prior, Hierarchy):
        return None
    if method.zeta == "psi_0" and psi_0 is not None:
        return psi_0[tf.newaxis]
    if method.zeta == "prior":
        return draw_unconditional_zeta(model.prior, L, tf.shape(z)[:2], seed)
    return rho(model.prior, method, z).sample(L, seed=seed)


def draw_unconditional_zeta(
    prior: Hierarchy, L: int | tf.Tensor, counts: tf.Tensor | list, seed: tf.Tensor
) -> tf.Tensor:
    """Draws from p(zeta), `[L, M, B, Dzeta]` for `counts` (M, B), whether it has B or not."""
    has_batch = len(getattr(prior.mixing, "batch_shape", ())) > 0
    if has_batch:
        return prior.mixing.sample([L, counts[0]], seed=seed)
    return randomness.draw(
        lambda shape: prior.mixing.sample(shape, seed=seed), [L, counts[0], counts[1]]
    )


def log_densities(model: Model, method: Method, x: tf.Tensor, sample: LatentSample) -> LogDensities:
    """Evaluates every log-density that the bounds need at one draw.

    Args:
        model: the callables.
        method: the row of the table that `sample` was drawn with.
        x: observations `[B, ...]`.
        sample: the draw.

    Returns:
        The arrays of `LogDensities`, deterministic given `sample`.
    """
    # TFP's bijectors cache the inverse of each tensor, under a tape or not, and of their own
    # draws. A density of a cached inverse has no gradient for the draw: evaluate at copies.
    x, sample = tf.identity(x), sample.copy()
    z, psi_0, psi = sample.z, sample.psi_0, sample.psi
    log_likelihood = model.likelihood(z).log_prob(x)
    log_p = log_prior(model, method, z, sample.zeta)
    if psi_0 is None:
        log_q_z = sample.log_q_z
        if log_q_z is None:
            log_q_z = model.conditional(None, x).log_prob(z)
        zeros = tf.zeros_like(log_q_z)[tf.newaxis]
        return LogDensities(log_likelihood, log_p, log_q_z[tf.newaxis], zeros, zeros)
    # Shared psi pass through the networks once, not once for every z.
    groups = [psi_0[tf.newaxis], psi]
    if not method.shares_psi:
        groups = [tf.concat(groups, axis=0)]
    tau = None if method.inverse == "mixing" else inverse(model, method, x, z)
    parts = [inner_log_densities(model, method, x, z, group, tau) for group in groups]
    return LogDensities(
        log_likelihood, log_p, *(tf.concat(p, axis=0) for p in zip(*parts, strict=True))
    )


def inner_log_densities(
    model: Model,
    method: Method,
    x: tf.Tensor,
    z: tf.Tensor,
    psi: tf.Tensor,
    tau: tfd.Distribution | Mixture | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Log q(z|psi,x), log q(psi|x) and log tau(psi|z,x), each `[K, M, B]`.

    Where tau := q(psi|x) the last two cancel, so both are 0 and q(psi|x) may be implicit.

    Args:
        model: the callables, with a hierarchical proposal.
        method: the row of the table; decides what tau is.
        x: observations `[B, ...]`.
        z: `[M, B, Dz]`.
        psi: `[K, M, B, Dpsi]` or `[K, 1, B, Dpsi]`, any draws.
        tau: `inverse(model, method, x, z)`, if it is known already.
    """
    is_shared = psi.shape[1] == 1 and z.shape[0] != 1
    if is_shared:
        log_q_z = pairs.log_prob(model.conditional(psi[:, 0], x), z)
    else:
        log_q_z = model.conditional(psi, x).log_prob(z)
    if method.inverse == "mixing":
        return log_q_z, tf.zeros_like(log_q_z), tf.zeros_like(log_q_z)
    log_q_psi = model.mixing(x).log_prob(psi)
    log_tau = (inverse(model, method, x, z) if tau is None else tau).log_prob(psi)
    if is_shared:  # one density for all z
        log_q_psi, log_tau = (v + tf.zeros_like(log_q_z) for v in (log_q_psi, log_tau))
    return log_q_z, log_q_psi, log_tau


def log_prior(model: Model, method: Method, z: tf.Tensor, zeta: tf.Tensor) -> tf.Tensor:
    """Log p(z,zeta) - log rho(zeta|z) `[L, M, B]`; without p(zeta) where rho := p(zeta).

    It is log p(z) `[1, M, B]` of an explicit prior, whose zeta is None.
    """
    prior = model.prior
    if not isinstance(prior, Hierarchy):
        return prior.log_prob(z)[tf.newaxis]
    if method.shares_zeta:
        log_p = pairs.log_prob(prior.conditional(zeta[:, 0]), z)
    else:
        log_p = prior.conditional(zeta).log_prob(z)
    if not method.has_rho:
        return log_p
    return log_p + prior.mixing.log_prob(zeta) - rho(prior, method, z).log_prob(zeta)


def log_conditional_of_other(
    model: Model, x: tf.Tensor, z: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Log q(z|psi,x) at a psi from q(psi|x) that did not generate z, `[M, B]`."""
    other = model.mixing(x).sample(tf.shape(z)[0], seed=seed)
    return model.conditional(other, x).log_prob(z)
