"""Bounds from both sides on log-densities, KL divergences and mutual information.

The density q(z) = int q(z|psi) q(psi) dpsi has no closed form. An inverse model tau(psi|z)
bounds its logarithm from both sides:

    E L_K <= log q(z) <= E U_K

The same bounds apply to KL divergences and to the mutual information of z and psi. Every
function returns one value per draw of z. The bound is the mean of these values, and their
spread gives its standard error.
"""

from typing import NamedTuple

import tensorflow as tf

from hvi_tf import arguments, bounds
from hvi_tf.inference.hmc import Posterior
from hvi_tf.inference.model import DistributionLike, Hierarchy


class Sandwich(NamedTuple):
    """Two arrays whose means enclose a quantity.

    Attributes:
        lower: `[n, ...]`, nats, with a mean of at most the quantity in expectation.
        upper: `[n, ...]`, nats, with a mean of at least the quantity in expectation.
    """

    lower: tf.Tensor
    upper: tf.Tensor


def _score(name: str, distribution: DistributionLike, z: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Returns log_prob(z), which must have the shape of `like` without its event axis.

    Raises:
        ValueError: if a shape is wrong.
    """
    wanted = like.shape[:-1]
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
            f"draws of shape {tuple(like.shape)}"
        )
    return log_prob


def log_ratios(q: Hierarchy, z: tf.Tensor, psi: tf.Tensor) -> tf.Tensor:
    """Returns beta_k = log q(z|psi_k) + log q(psi_k) - log tau(psi_k|z).

    Args:
        q: the hierarchy.
        z: `[..., Dz]`.
        psi: `[K, ..., Dpsi]`.

    Returns:
        `[K, ...]`, nats.

    Raises:
        ValueError: if a shape is wrong or there is no inverse.
    """
    joint = _score("conditional(psi)", q.conditional(psi), z, psi)
    joint += _score("mixing", q.mixing, psi, psi)
    return joint - _score("inverse(z)", q.inverse_at(z), psi, psi)


def _checked_log_ratios(q: Hierarchy, z: tf.Tensor, psi: tf.Tensor) -> tf.Tensor:
    """Returns `log_ratios`, and detects a misplaced axis even if its size is K.

    If another axis has the size K, psi is padded by entries that are not in the result.
    """
    K, sizes = psi.shape[0], [size for size in psi.shape[1:] if size != 1]
    if K is None:
        return log_ratios(q, z, psi)
    extra = next(n for n in range(len(sizes) + 1) if K + n not in sizes)
    return log_ratios(q, z, tf.concat([psi, *[psi[:1]] * extra], axis=0))[:K]


def log_density_upper(
    q: Hierarchy, z: tf.Tensor, psi_0: tf.Tensor, *, K: int | tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Returns U_K, an upper bound on log q(z) in expectation that does not increase with K.

    Sobolev & Vetrov 2019, theorem A.1. For psi_0 ~ q(psi|z) and psi_1:K ~ tau(psi|z),

        E log 1/(K+1) sum_k=0..K q(z,psi_k) / tau(psi_k|z) >= log q(z)

    Args:
        q: the hierarchy.
        z: `[..., Dz]`.
        psi_0: `[..., Dpsi]`, exact draws from q(psi|z), such as those that generated z.
        K: draws from tau besides psi_0, >= 0.
        seed: int32 `[2]` of these draws.

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
    """Returns K draws from tau, each of the shape of psi_0."""
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
    """Returns L_K, a lower bound on log q(z) in expectation that does not decrease with K.

    The bound of Burda et al. 2015, applied to psi. For psi_1:K ~ tau(psi|z),

        E log 1/K sum_k=1..K q(z,psi_k) / tau(psi_k|z) <= log q(z)

    Args:
        q: the hierarchy.
        z: `[..., Dz]`.
        K: draws from tau, >= 1.
        seed: int32 `[2]` of these draws.

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
    """A distribution whose log-density is known, so that both bounds are equal to it."""

    name: str
    distribution: DistributionLike

    def draw(self, n: int | tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, None]:
        """Returns n draws of z and None in place of psi_0."""
        return self.distribution.sample(n, seed=seed), None

    def draw_psi_0(self, z: tf.Tensor, posterior: Posterior | None, seed: tf.Tensor) -> None:
        """Returns None, since there is no psi."""
        del z, posterior, seed

    def log_upper(
        self, z: tf.Tensor, psi_0: tf.Tensor | None, K: int | tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Returns the log-density of z."""
        del psi_0, K, seed
        return _score(self.name, self.distribution, z, z)

    def log_lower(self, z: tf.Tensor, K: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns the log-density of z."""
        del K, seed
        return _score(self.name, self.distribution, z, z)


class _Hierarchical(NamedTuple):
    """A hierarchy, whose log-density is bounded from both sides."""

    hierarchy: Hierarchy

    def draw(self, n: int | tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns n draws of (z, psi_0)."""
        return self.hierarchy.sample(n, seed)

    def draw_psi_0(self, z: tf.Tensor, posterior: Posterior | None, seed: tf.Tensor) -> tf.Tensor:
        """Returns a draw of psi_0 from the posterior for each z."""
        if not callable(posterior):
            raise ValueError(
                f"posterior={arguments.shown(posterior)}: a hierarchical p needs draws from "
                "p(zeta|z); pass a function (z, seed) -> zeta, such as hmc_posterior(p)"
            )
        return posterior(z, seed)

    def log_upper(
        self, z: tf.Tensor, psi_0: tf.Tensor | None, K: int | tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Returns U_K."""
        return log_density_upper(self.hierarchy, z, psi_0, K=K, seed=seed)

    def log_lower(self, z: tf.Tensor, K: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns L_K."""
        return log_density_lower(self.hierarchy, z, K=K, seed=seed)


def _adapt(name: str, density: Hierarchy | DistributionLike) -> _Explicit | _Hierarchical:
    """Returns the common interface to a distribution or a hierarchy."""
    if isinstance(density, Hierarchy):
        return _Hierarchical(density)
    if hasattr(density, "log_prob"):
        return _Explicit(name, density)
    raise TypeError(
        f"{name}={arguments.shown(density)}: must be a distribution or an hvi.Hierarchy"
    )


def kl_upper(
    q: Hierarchy | DistributionLike,
    p: Hierarchy | DistributionLike,
    *,
    n: int | tf.Tensor,
    K: int | tf.Tensor = 0,
    L: int | tf.Tensor = 1,
    seed: tf.Tensor,
) -> tf.Tensor:
    """Returns an upper bound on KL(q(z) || p(z)) in expectation.

    Sobolev & Vetrov 2019, equation 4. For z ~ q(z), with the U_K of q and the L_L of p,

        E [U_K(z) - L_L(z)] >= KL(q(z) || p(z))

    Args:
        q: a hierarchy, or an explicit distribution, which does not use K.
        p: a hierarchy, or an explicit distribution, which does not use L.
        n: the number of draws of z, >= 1.
        K: draws from the inverse tau of q besides psi_0, >= 0.
        L: draws from the inverse rho of p, >= 1.
        seed: int32 `[2]` of all draws.

    Returns:
        `[n, ...]`, nats, one value per draw of z.

    Raises:
        ValueError: if a count is too small, a shape is wrong or an inverse is missing.
        TypeError: if q or p is neither a distribution nor a hierarchy.
    """
    adapted_q, adapted_p = _adapt("q", q), _adapt("p", p)
    n = arguments.count_or_tensor("n", n, lowest=1)
    K = arguments.count_or_tensor("K", K, lowest=0)
    L = arguments.count_or_tensor("L", L, lowest=1)
    seed = arguments.stateless_seed(seed)
    z_seed, psi_seed, zeta_seed = tf.unstack(tf.random.split(seed, 3))
    z, psi_0 = adapted_q.draw(n, z_seed)
    return adapted_q.log_upper(z, psi_0, K, psi_seed) - adapted_p.log_lower(z, L, zeta_seed)


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
    """Returns a lower bound on KL(q(z) || p(z)) in expectation.

    Sobolev & Vetrov 2019, equation 8. For z ~ q(z), with the L_K of q and the U_L of p,

        E [L_K(z) - U_L(z)] <= KL(q(z) || p(z))

    Args:
        q: a hierarchy, or an explicit distribution, which does not use K.
        p: a hierarchy, or an explicit distribution, which does not use L and `posterior`.
        n: the number of draws of z, >= 1.
        K: draws from the inverse tau of q, >= 1.
        L: draws from the inverse rho of p besides zeta_0, >= 0.
        posterior: (z, seed) -> one draw zeta_0 from p(zeta|z) for every z. Pass the exact
            posterior if it is known, otherwise `hmc_posterior(p)`. The inequality holds for
            exact draws.
        seed: int32 `[2]` of all draws.

    Returns:
        `[n, ...]`, nats, one value per draw of z.

    Raises:
        ValueError: if p is a hierarchy and `posterior` is not a function, a count is too small,
            a shape is wrong or an inverse is missing.
        TypeError: if q or p is neither a distribution nor a hierarchy.
    """
    adapted_q, adapted_p = _adapt("q", q), _adapt("p", p)
    n = arguments.count_or_tensor("n", n, lowest=1)
    K = arguments.count_or_tensor("K", K, lowest=1)
    L = arguments.count_or_tensor("L", L, lowest=0)
    seed = arguments.stateless_seed(seed)
    z_seed, psi_seed, zeta_0_seed, zeta_seed = tf.unstack(tf.random.split(seed, 4))
    z, _ = adapted_q.draw(n, z_seed)
    log_q = adapted_q.log_lower(z, K, psi_seed)
    zeta_0 = adapted_p.draw_psi_0(z, posterior, zeta_0_seed)
    return log_q - adapted_p.log_upper(z, zeta_0, L, zeta_seed)


def mutual_information(
    q: Hierarchy, *, n: int | tf.Tensor, K: int | tf.Tensor, seed: tf.Tensor
) -> Sandwich:
    """Returns bounds from both sides on the mutual information of z and psi.

    For (z, psi_0) ~ q(z,psi) and I(z; psi) = E [log q(z|psi_0) - log q(z)],

        E [log q(z|psi_0) - U_K] <= I(z; psi) <= E [log q(z|psi_0) - L_K]

    Both ends use the same draws of z, and both become tighter as K grows.

    Args:
        q: the hierarchy.
        n: the number of draws of (z, psi_0), >= 1.
        K: draws from tau, >= 1.
        seed: int32 `[2]` of all draws.

    Returns:
        Two arrays `[n, ...]`, nats, one value per draw.

    Raises:
        ValueError: if a count is too small, a shape is wrong or there is no inverse.
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
