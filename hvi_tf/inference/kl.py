"""Bounds from both sides on KL(q(z) || p(z)) of hierarchical or explicit distributions.

    E kl_lower <= KL(q || p) <= E kl_upper        (Sobolev & Vetrov 2019, eqs 4 and 8)

Every function returns one value per draw of z. The bound is the mean of these values, and their
spread gives its standard error.
"""

from typing import NamedTuple

import tensorflow as tf

from hvi_tf import arguments
from hvi_tf.inference import sandwich
from hvi_tf.inference.hmc import Posterior
from hvi_tf.inference.model import DistributionLike, Hierarchy


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
        return sandwich.score(self.name, self.distribution, z, z)

    def log_lower(self, z: tf.Tensor, K: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns the log-density of z."""
        del K, seed
        return sandwich.score(self.name, self.distribution, z, z)


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
        return sandwich.log_density_upper(self.hierarchy, z, psi_0, K=K, seed=seed)

    def log_lower(self, z: tf.Tensor, K: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns L_K."""
        return sandwich.log_density_lower(self.hierarchy, z, K=K, seed=seed)


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
