"""Hierarchical distributions of z and the bounds that sandwich what they cannot tell.

q(z) = int q(z|psi) q(psi) dpsi has no closed-form density; an inverse model tau(psi|z)
bounds its logarithm from both sides, and with it KL divergences and the mutual
information of z and psi. Every function returns one value per draw of z; a bound is
their mean, whose standard error the draws tell.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from hvi_tf import arguments, bounds

Posterior = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class Hierarchy(NamedTuple):
    """q(z) = int q(z|psi) q(psi) dpsi with an inverse model tau(psi|z).

    As a prior p(z), psi is called zeta and the inverse rho.

    Attributes:
        mixing: q(psi), batch shape `[]` or `[B]`.
        conditional: psi `[..., Dpsi]` -> q(z|psi), batch shape `[...]`.
        inverse: z `[..., Dz]` -> tau(psi|z), batch shape `[...]`. The bounds hold for any;
            they are exact for the true q(psi|z). None where no bound needs it.
    """

    mixing: tfd.Distribution
    conditional: Callable[[tf.Tensor], tfd.Distribution]
    inverse: Callable[[tf.Tensor], tfd.Distribution] | None = None


class Sandwich(NamedTuple):
    """Two arrays whose means enclose the quantity they are named for."""

    lower: tf.Tensor
    upper: tf.Tensor


def sample(q: Hierarchy, n: int | tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws (z, psi_0) ~ q(z,psi), each `[n, ...]`: psi_0 is an exact draw from q(psi|z)."""
    psi_seed, z_seed = tf.unstack(tf.random.split(seed, 2))
    psi_0 = q.mixing.sample(n, seed=psi_seed)
    return q.conditional(psi_0).sample(seed=z_seed), psi_0


def inverse(q: Hierarchy, z: tf.Tensor) -> tfd.Distribution:
    """tau(psi|z).

    Raises:
        ValueError: if the hierarchy has none.
    """
    if q.inverse is None:
        raise ValueError("inverse=None: this bound needs an inverse model tau(psi|z)")
    return q.inverse(z)


def _check_distributions(**distributions: Any) -> None:
    for name, given in distributions.items():
        if not (isinstance(given, Hierarchy) or hasattr(given, "log_prob")):
            raise TypeError(
                f"{name}={arguments.shown(given)}: must be a distribution or an hvi.Hierarchy"
            )


def _score(name: str, distribution: tfd.Distribution, z: tf.Tensor, lead: tf.Tensor) -> tf.Tensor:
    """log_prob(z), which must have the shape of `lead` without its event axis.

    Raises:
        ValueError: naming the distribution and the shapes.
    """
    wanted = lead.shape[:-1]
    event = getattr(distribution, "event_shape", None)
    if event is not None and not event.is_compatible_with(z.shape[-1:]):
        raise ValueError(
            f"{name}: event shape {tuple(event)}, but it has to score draws of shape "
            f"{tuple(z.shape)}; is the last axis part of the event, as by tfd.Independent(..., 1)?"
        )
    log_prob = distribution.log_prob(z)
    if not log_prob.shape.is_compatible_with(wanted):
        raise ValueError(
            f"{name}: log_prob has shape {tuple(log_prob.shape)}, wanted {tuple(wanted)} for "
            f"draws of shape {tuple(lead.shape)}"
        )
    return log_prob


def log_ratios(q: Hierarchy, z: tf.Tensor, psi: tf.Tensor) -> tf.Tensor:
    """Log q(z,psi) - log tau(psi|z) for psi `[K, ..., Dpsi]` and z `[..., Dz]`: `[K, ...]`."""
    joint = _score("conditional(psi)", q.conditional(psi), z, psi)
    joint += _score("mixing", q.mixing, psi, psi)
    return joint - _score("inverse(z)", inverse(q, z), psi, psi)


def _checked_log_ratios(q: Hierarchy, z: tf.Tensor, psi: tf.Tensor) -> tf.Tensor:
    """Returns `log_ratios`; a misplaced axis is an error even where it has the size of K.

    Where another axis has as many rows as K, psi gets rows that are left out of the result.
    """
    K, others = psi.shape[0], [size for size in psi.shape[1:] if size != 1]
    if K is None:
        return log_ratios(q, z, psi)
    extra = next(n for n in range(len(others) + 1) if K + n not in others)
    return log_ratios(q, z, tf.concat([psi, *[psi[:1]] * extra], axis=0))[:K]


def log_density_upper(
    q: Hierarchy, z: tf.Tensor, psi_0: tf.Tensor, *, K: int | tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """U_K: at least log q(z) in expectation, non-increasing in K.

    Sobolev & Vetrov 2019, theorem A.1.

    Args:
        q: the hierarchy.
        z: `[..., Dz]`.
        psi_0: `[..., Dpsi]`, exact draws from q(psi|z), such as those that generated z.
        K: draws from tau besides, >= 0.
        seed: int32 `[2]`.

    Returns:
        `[...]`, nats.

    Raises:
        ValueError: if K is negative, a shape is wrong or there is no inverse.
    """
    K = arguments.count_or_tensor("K", K, lowest=0)
    seed = arguments.stateless_seed(seed)
    psi = tf.concat([psi_0[tf.newaxis], _propose(q, z, psi_0, K, seed)], axis=0)
    return bounds.log_marginal_upper(_checked_log_ratios(q, z, psi))


def _propose(
    q: Hierarchy, z: tf.Tensor, psi_0: tf.Tensor, K: int | tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """K draws from tau, of the shape of psi_0 each."""
    psi = inverse(q, z).sample(K, seed=seed)
    if psi.shape[1:].rank != psi_0.shape.rank or not psi.shape[1:].is_compatible_with(psi_0.shape):
        raise ValueError(
            f"inverse(z): draws of shape {tuple(psi.shape[1:])} for each of K, but mixing drew psi "
            f"of shape {tuple(psi_0.shape)}"
        )
    return psi


def log_density_lower(
    q: Hierarchy, z: tf.Tensor, *, K: int | tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """L_K: at most log q(z) in expectation, non-decreasing in K (Burda et al. 2015).

    Args:
        q: the hierarchy.
        z: `[..., Dz]`.
        K: draws from tau, >= 1.
        seed: int32 `[2]`.

    Returns:
        `[...]`, nats.

    Raises:
        ValueError: if K is not positive, a shape is wrong or there is no inverse.
    """
    K = arguments.count_or_tensor("K", K, lowest=1)
    seed = arguments.stateless_seed(seed)
    psi = inverse(q, z).sample(K, seed=seed)
    return bounds.log_marginal_lower(_checked_log_ratios(q, z, psi))


def kl_upper(
    q: Hierarchy | tfd.Distribution,
    p: Hierarchy | tfd.Distribution,
    *,
    n: int | tf.Tensor,
    K: int | tf.Tensor = 0,
    L: int | tf.Tensor = 1,
    seed: tf.Tensor,
) -> tf.Tensor:
    """At least KL(q(z) || p(z)) in expectation (Sobolev & Vetrov 2019, eq 4).

    Args:
        q: hierarchical, or explicit (then K is not used).
        p: hierarchical, or explicit (then L is not used).
        n: draws of z.
        K: draws from q's inverse tau besides psi_0, >= 0.
        L: draws from p's inverse rho, >= 1.
        seed: int32 `[2]`.

    Returns:
        `[n, ...]`, nats, one value per draw of z.

    Raises:
        ValueError: if a count is too small, a shape is wrong or an inverse is missing.
    """
    _check_distributions(q=q, p=p)
    n = arguments.count_or_tensor("n", n, lowest=1)
    K = arguments.count_or_tensor("K", K, lowest=0)
    L = arguments.count_or_tensor("L", L, lowest=1)
    seed = arguments.stateless_seed(seed)
    z_seed, psi_seed, zeta_seed = tf.unstack(tf.random.split(seed, 3))
    if isinstance(q, Hierarchy):
        z, psi_0 = sample(q, n, z_seed)
        log_q = log_density_upper(q, z, psi_0, K=K, seed=psi_seed)
    else:
        z = q.sample(n, seed=z_seed)
        log_q = _score("q", q, z, z)
    if isinstance(p, Hierarchy):
        return log_q - log_density_lower(p, z, K=L, seed=zeta_seed)
    return log_q - _score("p", p, z, z)


def kl_lower(
    q: Hierarchy | tfd.Distribution,
    p: Hierarchy | tfd.Distribution,
    *,
    n: int | tf.Tensor,
    K: int | tf.Tensor = 1,
    L: int | tf.Tensor = 0,
    posterior: Posterior | None = None,
    seed: tf.Tensor,
) -> tf.Tensor:
    """At most KL(q(z) || p(z)) in expectation (Sobolev & Vetrov 2019, eq 8).

    Args:
        q: hierarchical, or explicit (then K is not used).
        p: hierarchical, or explicit (then L and `posterior` are not used).
        n: draws of z.
        K: draws from q's inverse tau, >= 1.
        L: draws from p's inverse rho besides zeta_0, >= 0.
        posterior: (z, seed) -> one draw zeta_0 from p(zeta|z) for every z: exact where it
            is known, `hmc_posterior(p)` elsewhere. The inequality holds for exact draws.
        seed: int32 `[2]`.

    Returns:
        `[n, ...]`, nats, one value per draw of z.

    Raises:
        ValueError: if p is a hierarchy and `posterior` is None, a count is too small, a
            shape is wrong or an inverse is missing.
    """
    _check_distributions(q=q, p=p)
    n = arguments.count_or_tensor("n", n, lowest=1)
    K = arguments.count_or_tensor("K", K, lowest=1)
    L = arguments.count_or_tensor("L", L, lowest=0)
    seed = arguments.stateless_seed(seed)
    z_seed, psi_seed, zeta_0_seed, zeta_seed = tf.unstack(tf.random.split(seed, 4))
    if isinstance(q, Hierarchy):
        z, _ = sample(q, n, z_seed)
        log_q = log_density_lower(q, z, K=K, seed=psi_seed)
    else:
        z = q.sample(n, seed=z_seed)
        log_q = _score("q", q, z, z)
    if not isinstance(p, Hierarchy):
        return log_q - _score("p", p, z, z)
    if not callable(posterior):
        raise ValueError(
            f"posterior={arguments.shown(posterior)}: a hierarchical p needs draws from "
            "p(zeta|z); pass a function (z, seed) -> zeta, such as hmc_posterior(p)"
        )
    zeta_0 = posterior(z, zeta_0_seed)
    return log_q - log_density_upper(p, z, zeta_0, K=L, seed=zeta_seed)


def mutual_information(
    q: Hierarchy, *, n: int | tf.Tensor, K: int | tf.Tensor, seed: tf.Tensor
) -> Sandwich:
    """Encloses I(z; psi) = E log q(z|psi) - log q(z), in nats.

    The lower end subtracts U_K, the upper end L_K, on the same draws of z; both tighten
    as K grows.

    Args:
        q: the hierarchy.
        n: draws of (z, psi_0).
        K: draws from tau, >= 1.
        seed: int32 `[2]`.

    Returns:
        Arrays `[n, ...]`, one value per draw.
    """
    n = arguments.count_or_tensor("n", n, lowest=1)
    K = arguments.count_or_tensor("K", K, lowest=1)
    seed = arguments.stateless_seed(seed)
    draw_seed, psi_seed = tf.unstack(tf.random.split(seed, 2))
    z, psi_0 = sample(q, n, draw_seed)
    log_q_z = _score("conditional(psi)", q.conditional(psi_0), z, z)
    psi = _propose(q, z, psi_0, K, psi_seed)
    beta = _checked_log_ratios(q, z, tf.concat([psi_0[tf.newaxis], psi], axis=0))
    return Sandwich(
        lower=log_q_z - bounds.log_marginal_upper(beta),
        upper=log_q_z - bounds.log_marginal_lower(beta[1:]),
    )


def hmc_posterior(
    q: Hierarchy, *, num_steps: int = 300, step_size: float = 0.1, leapfrog_steps: int = 8
) -> Posterior:
    """Draws from q(psi|z) by Hamiltonian Monte Carlo: `posterior(z, seed) -> psi [..., Dpsi]`.

    One chain per z starts at a draw from the inverse model, or from q(psi) if there is
    none, and runs in the unconstrained space of psi; the first four fifths of the steps
    adapt each chain's step size to the acceptance rate 0.75. The draw is exact only as
    `num_steps` grows: double it and see whether the result moves.

    Args:
        q: the hierarchy; its mixing distribution must be continuous.
        num_steps: steps of each chain.
        step_size: first step size in the unconstrained space.
        leapfrog_steps: gradient evaluations per step.

    Raises:
        ValueError: if a count is not positive, or the step size is not.
    """
    num_steps = arguments.count("num_steps", num_steps, lowest=1)
    leapfrog_steps = arguments.count("leapfrog_steps", leapfrog_steps, lowest=1)
    step_size = arguments.number(
        "step_size", step_size, "finite and above 0", lambda size: 0 < size < math.inf
    )

    def posterior(z: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        start_seed, chain_seed = tf.unstack(tf.random.split(arguments.stateless_seed(seed), 2))
        chains = tf.shape(z)[:-1]
        start = tfd.BatchBroadcast(q.mixing, to_shape=chains) if q.inverse is None else q.inverse(z)
        bijector = q.mixing.experimental_default_event_space_bijector()
        kernel: Any = tfp.mcmc.HamiltonianMonteCarlo(
            lambda psi: q.conditional(psi).log_prob(z) + q.mixing.log_prob(psi),
            # One step size per chain: posteriors of different z differ in scale.
            step_size=tf.fill(tf.concat([chains, [1]], axis=0), tf.cast(step_size, z.dtype)),
            num_leapfrog_steps=leapfrog_steps,
        )
        kernel = tfp.mcmc.TransformedTransitionKernel(kernel, bijector)
        kernel = tfp.mcmc.SimpleStepSizeAdaptation(
            kernel, num_adaptation_steps=num_steps * 4 // 5, target_accept_prob=0.75
        )
        return tfp.mcmc.sample_chain(
            1,
            start.sample(seed=start_seed),
            kernel=kernel,
            num_burnin_steps=num_steps - 1,
            trace_fn=None,
            seed=chain_seed,
        )[0]

    return posterior
