"""Bounds from both sides on log-densities, KL divergences and mutual information.

q(z) = int q(z|psi) q(psi) dpsi has no closed-form density. An inverse model tau(psi|z)
bounds its logarithm from both sides, and with it KL divergences and the mutual
information of z and psi. Every function returns one value per draw of z. The bound is
the mean of these values; their spread gives its standard error.
"""

from typing import NamedTuple

import tensorflow as tf

from hvi_tf import arguments, bounds
from hvi_tf.inference.hmc import Posterior
from hvi_tf.inference.model import DistributionLike, Hierarchy


class Sandwich(NamedTuple):
    """Two arrays whose means enclose the quantity they are named for."""

    lower: tf.Tensor
    upper: tf.Tensor


def _score(name: str, distribution: DistributionLike, z: tf.Tensor, lead: tf.Tensor) -> tf.Tensor:
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
    return joint - _score("inverse(z)", q.inverse_at(z), psi, psi)


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
    psi = q.inverse_at(z).sample(K, seed=seed)
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
    psi = q.inverse_at(z).sample(K, seed=seed)
    return bounds.log_marginal_lower(_checked_log_ratios(q, z, psi))


class _Explicit(NamedTuple):
    """A distribution whose log-density is known: both bounds are the density."""

    name: str
    distribution: DistributionLike

    def draw(self, n: int | tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, None]:
        return self.distribution.sample(n, seed=seed), None

    def draw_psi_0(self, z: tf.Tensor, posterior: Posterior | None, seed: tf.Tensor) -> None:
        del z, posterior, seed

    def log_upper(
        self, z: tf.Tensor, psi_0: tf.Tensor | None, K: int | tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        del psi_0, K, seed
        return _score(self.name, self.distribution, z, z)

    def log_lower(self, z: tf.Tensor, K: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        del K, seed
        return _score(self.name, self.distribution, z, z)


class _Hierarchical(NamedTuple):
    """A hierarchy, whose log-density is bounded from both sides."""

    hierarchy: Hierarchy

    def draw(self, n: int | tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self.hierarchy.sample(n, seed)

    def draw_psi_0(self, z: tf.Tensor, posterior: Posterior | None, seed: tf.Tensor) -> tf.Tensor:
        if not callable(posterior):
            raise ValueError(
                f"posterior={arguments.shown(posterior)}: a hierarchical p needs draws from "
                "p(zeta|z); pass a function (z, seed) -> zeta, such as hmc_posterior(p)"
            )
        return posterior(z, seed)

    def log_upper(
        self, z: tf.Tensor, psi_0: tf.Tensor | None, K: int | tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        return log_density_upper(self.hierarchy, z, psi_0, K=K, seed=seed)

    def log_lower(self, z: tf.Tensor, K: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return log_density_lower(self.hierarchy, z, K=K, seed=seed)


def _adapt(name: str, given: Hierarchy | DistributionLike) -> _Explicit | _Hierarchical:
    if isinstance(given, Hierarchy):
        return _Hierarchical(given)
    if hasattr(given, "log_prob"):
        return _Explicit(name, given)
    raise TypeError(f"{name}={arguments.shown(given)}: must be a distribution or an hvi.Hierarchy")


def kl_upper(
    q: Hierarchy | DistributionLike,
    p: Hierarchy | DistributionLike,
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
    of_q, of_p = _adapt("q", q), _adapt("p", p)
    n = arguments.count_or_tensor("n", n, lowest=1)
    K = arguments.count_or_tensor("K", K, lowest=0)
    L = arguments.count_or_tensor("L", L, lowest=1)
    seed = arguments.stateless_seed(seed)
    z_seed, psi_seed, zeta_seed = tf.unstack(tf.random.split(seed, 3))
    z, psi_0 = of_q.draw(n, z_seed)
    return of_q.log_upper(z, psi_0, K, psi_seed) - of_p.log_lower(z, L, zeta_seed)


def kl_lower(
    q: Hierarchy | DistributionLike,
    p: Hierarchy | DistributionLike,
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
    of_q, of_p = _adapt("q", q), _adapt("p", p)
    n = arguments.count_or_tensor("n", n, lowest=1)
    K = arguments.count_or_tensor("K", K, lowest=1)
    L = arguments.count_or_tensor("L", L, lowest=0)
    seed = arguments.stateless_seed(seed)
    z_seed, psi_seed, zeta_0_seed, zeta_seed = tf.unstack(tf.random.split(seed, 4))
    z, _ = of_q.draw(n, z_seed)
    log_q = of_q.log_lower(z, K, psi_seed)
    zeta_0 = of_p.draw_psi_0(z, posterior, zeta_0_seed)
    return log_q - of_p.log_upper(z, zeta_0, L, zeta_seed)


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
    z, psi_0 = q.sample(n, draw_seed)
    log_q_z = _score("conditional(psi)", q.conditional(psi_0), z, z)
    psi = _propose(q, z, psi_0, K, psi_seed)
    beta = _checked_log_ratios(q, z, tf.concat([psi_0[tf.newaxis], psi], axis=0))
    return Sandwich(
        lower=log_q_z - bounds.log_marginal_upper(beta),
        upper=log_q_z - bounds.log_marginal_lower(beta[1:]),
    )
