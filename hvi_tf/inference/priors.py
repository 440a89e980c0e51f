"""Explicit and hierarchical priors behind one interface."""

from typing import NamedTuple, cast

import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.inference import pairs
from hvi_tf.inference.methods import Method
from hvi_tf.inference.mixtures import mixture
from hvi_tf.inference.model import Density, DistributionLike, Hierarchy


class ExplicitPrior(NamedTuple):
    """A prior p(z) of known density: there is no zeta."""

    distribution: DistributionLike

    @property
    def hierarchical(self) -> bool:
        """Whether there is a zeta."""
        return False

    def sample(self, shape: int | tf.Tensor | list, seed: tf.Tensor) -> list[tf.Tensor]:
        """Draws all latent variables of the prior, `[z]`, of shape `[*shape, Dz]`."""
        return [self.distribution.sample(shape, seed=seed)]

    def log_joint(self, z: tf.Tensor) -> tf.Tensor:
        """Returns log p(z) `[...]`."""
        return self.distribution.log_prob(z)

    def streams_zeta(self, method: Method) -> bool:
        """Returns whether log p(z) is estimated from L draws of zeta."""
        del method
        return False

    def shares_zeta(self, method: Method) -> bool:
        """Returns whether all z are scored at the same zeta."""
        del method
        return False

    def draw_zeta(
        self,
        method: Method,
        z: tf.Tensor,
        psi_0: tf.Tensor | None,
        L: int | tf.Tensor,
        seed: tf.Tensor,
    ) -> None:
        """Returns None: there is no zeta."""

    def log_ratios(self, method: Method, z: tf.Tensor, zeta: tf.Tensor | None) -> tf.Tensor:
        """Returns log p(z) `[1, M, B]`."""
        del method, zeta
        return self.distribution.log_prob(z)[tf.newaxis]


class HierarchicalPrior(NamedTuple):
    """A prior p(z) = int p(z|zeta) p(zeta) dzeta, bounded by draws of zeta."""

    hierarchy: Hierarchy

    @property
    def hierarchical(self) -> bool:
        """Whether there is a zeta."""
        return True

    def sample(self, shape: int | tf.Tensor | list, seed: tf.Tensor) -> list[tf.Tensor]:
        """Draws all latent variables of the prior, `[z, zeta]`, each `[*shape, D]`."""
        return list(self.hierarchy.sample(shape, seed))

    def log_joint(self, z: tf.Tensor, zeta: tf.Tensor) -> tf.Tensor:
        """Returns log p(z,zeta) `[...]`."""
        p = self.hierarchy
        return p.conditional(zeta).log_prob(z) + p.mixing.log_prob(zeta)

    def streams_zeta(self, method: Method) -> bool:
        """Returns whether log p(z) is estimated from L draws of zeta."""
        return not method.zeta_is_psi_0

    def shares_zeta(self, method: Method) -> bool:
        """Returns whether all z are scored at the same zeta."""
        return method.shares_zeta

    def rho(self, method: Method, z: tf.Tensor) -> Density:
        """Returns the density that the method draws zeta from, given all z `[M, B, Dz]`."""
        if method.shares_zeta:
            return mixture(self.hierarchy.inverse_at, z)
        return self.hierarchy.inverse_at(z)

    def draw_zeta(
        self,
        method: Method,
        z: tf.Tensor,
        psi_0: tf.Tensor | None,
        L: int | tf.Tensor,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        """Draws zeta `[L, M, B, Dzeta]` from rho, or from its stand-in.

        Returns:
            `[L, 1, B, Dzeta]` if all z share zeta; psi_0 `[1, M, B, Dpsi]` if zeta is psi_0.
        """
        if method.zeta_is_psi_0 and psi_0 is not None:
            return psi_0[tf.newaxis]
        if method.zeta_from_prior:
            return self.draw_unconditional_zeta(L, tf.shape(z)[:2], seed)
        return self.rho(method, z).sample(L, seed=seed)

    def draw_unconditional_zeta(
        self, L: int | tf.Tensor, counts: tf.Tensor | list, seed: tf.Tensor
    ) -> tf.Tensor:
        """Draws from p(zeta), `[L, M, B, Dzeta]` for `counts` (M, B), whether it has B or not."""
        mixing = self.hierarchy.mixing
        has_batch = len(getattr(mixing, "batch_shape", ())) > 0
        if has_batch:
            return mixing.sample([L, counts[0]], seed=seed)
        return randomness.draw(
            lambda shape: mixing.sample(shape, seed=seed), [L, counts[0], counts[1]]
        )

    def log_ratios(self, method: Method, z: tf.Tensor, zeta: tf.Tensor) -> tf.Tensor:
        """Returns log p(z,zeta) - log rho(zeta|z) `[L, M, B]`.

        Where rho := p(zeta) the two cancel, and log p(z|zeta) is left.
        """
        if method.shares_zeta:
            log_p = pairs.log_prob(self.hierarchy.conditional(zeta[:, 0]), z)
        else:
            log_p = self.hierarchy.conditional(zeta).log_prob(z)
        if not method.has_rho:
            return log_p
        log_mixing = self.hierarchy.mixing.log_prob(zeta)
        return log_p + log_mixing - self.rho(method, z).log_prob(zeta)


Prior = ExplicitPrior | HierarchicalPrior


def adapt(prior: DistributionLike | Hierarchy) -> Prior:
    """Returns the interface to the prior of a `Model`."""
    return HierarchicalPrior(prior) if isinstance(prior, Hierarchy) else ExplicitPrior(prior)


def hierarchical(prior: DistributionLike | Hierarchy) -> HierarchicalPrior:
    """Returns the interface to a prior that a method requires to be a `Hierarchy`."""
    return HierarchicalPrior(cast(Hierarchy, prior))
