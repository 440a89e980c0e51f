"""Explicit and hierarchical priors behind one interface."""

from typing import NamedTuple, cast

import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.inference import pairs
from hvi_tf.inference.methods import Method
from hvi_tf.inference.mixtures import mixture
from hvi_tf.inference.model import Density, DistributionLike, Hierarchy


class ExplicitPrior(NamedTuple):
    """A prior p(z) of known density, without a zeta.

    Attributes:
        distribution: p(z), batch shape `[]` or `[B]`.
    """

    distribution: DistributionLike

    @property
    def hierarchical(self) -> bool:
        """Whether the prior has a zeta."""
        return False

    def sample(self, shape: int | tf.Tensor | list, seed: tf.Tensor) -> list[tf.Tensor]:
        """Draws z ~ p(z), which is the only latent variable.

        Args:
            shape: the sample shape.
            seed: int32 `[2]`.

        Returns:
            The list `[z]`, with z of shape `[*shape, Dz]`.
        """
        return [self.distribution.sample(shape, seed=seed)]

    def log_joint(self, z: tf.Tensor) -> tf.Tensor:
        """Returns log p(z).

        Args:
            z: `[..., Dz]`.

        Returns:
            `[...]`, nats.
        """
        return self.distribution.log_prob(z)

    def streams_zeta(self, method: Method) -> bool:
        """Returns False, since log p(z) needs no draws of zeta.

        Args:
            method: not used.
        """
        del method
        return False

    def shares_zeta(self, method: Method) -> bool:
        """Returns False, since there is no zeta.

        Args:
            method: not used.
        """
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
        """Returns None, since there is no zeta.

        Args:
            method: not used.
            z: not used.
            psi_0: not used.
            L: not used.
            seed: not used.
        """

    def log_ratios(self, method: Method, z: tf.Tensor, zeta: tf.Tensor | None) -> tf.Tensor:
        """Returns log p(z) as the single entry of axis l.

        Args:
            method: not used.
            z: `[M, B, Dz]`.
            zeta: not used.

        Returns:
            `[1, M, B]`, nats.
        """
        del method, zeta
        return self.distribution.log_prob(z)[tf.newaxis]


class HierarchicalPrior(NamedTuple):
    """A prior p(z) = int p(z|zeta) p(zeta) dzeta, whose log-density draws of zeta bound.

    Attributes:
        hierarchy: p(zeta), p(z|zeta) and rho(zeta|z).
    """

    hierarchy: Hierarchy

    @property
    def hierarchical(self) -> bool:
        """Whether the prior has a zeta."""
        return True

    def sample(self, shape: int | tf.Tensor | list, seed: tf.Tensor) -> list[tf.Tensor]:
        """Draws (z, zeta) ~ p(z,zeta).

        Args:
            shape: the sample shape.
            seed: int32 `[2]`.

        Returns:
            The list `[z, zeta]`, of shapes `[*shape, Dz]` and `[*shape, Dzeta]`.
        """
        return list(self.hierarchy.sample(shape, seed))

    def log_joint(self, z: tf.Tensor, zeta: tf.Tensor) -> tf.Tensor:
        """Returns log p(z,zeta) = log p(z|zeta) + log p(zeta).

        Args:
            z: `[..., Dz]`.
            zeta: `[..., Dzeta]`.

        Returns:
            `[...]`, nats.
        """
        p = self.hierarchy
        return p.conditional(zeta).log_prob(z) + p.mixing.log_prob(zeta)

    def streams_zeta(self, method: Method) -> bool:
        """Returns whether log p(z) is estimated from L draws of zeta.

        Args:
            method: decides where zeta comes from.
        """
        return not method.zeta_is_psi_0

    def shares_zeta(self, method: Method) -> bool:
        """Returns whether all z are scored at the same zeta.

        Args:
            method: decides where zeta comes from.
        """
        return method.shares_zeta

    def rho(self, method: Method, z: tf.Tensor) -> Density:
        """Returns the inverse model that the method draws zeta from, given all z.

        Args:
            method: decides whether rho is the mixture over all z.
            z: `[M, B, Dz]`, all draws of z.
        """
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
        """Draws zeta_l, l = 1..L, from the density that the method uses as rho(zeta|z).

        Args:
            method: decides which density rho is.
            z: `[M, B, Dz]`.
            psi_0: the psi that generated z, `[M, B, Dpsi]`. None if q is explicit.
            L: the number of draws for each z.
            seed: int32 `[2]`.

        Returns:
            `[L, M, B, Dzeta]`, or `[L, 1, B, Dzeta]` if all z share zeta. If zeta is psi_0,
            psi_0 `[1, M, B, Dpsi]`.
        """
        if method.zeta_is_psi_0 and psi_0 is not None:
            return psi_0[tf.newaxis]
        if method.zeta_from_prior:
            return self.draw_unconditional_zeta(L, tf.shape(z)[:2], seed)
        return self.rho(method, z).sample(L, seed=seed)

    def draw_unconditional_zeta(
        self, L: int | tf.Tensor, counts: tf.Tensor | list, seed: tf.Tensor
    ) -> tf.Tensor:
        """Draws zeta ~ p(zeta), whether or not p(zeta) has a batch axis.

        Args:
            L: the number of draws for each z.
            counts: (M, B).
            seed: int32 `[2]`.

        Returns:
            `[L, M, B, Dzeta]`.
        """
        mixing = self.hierarchy.mixing
        has_batch = len(getattr(mixing, "batch_shape", ())) > 0
        if has_batch:
            return mixing.sample([L, counts[0]], seed=seed)
        return randomness.draw(
            lambda shape: mixing.sample(shape, seed=seed), [L, counts[0], counts[1]]
        )

    def log_ratios(self, method: Method, z: tf.Tensor, zeta: tf.Tensor) -> tf.Tensor:
        """Returns log p(z,zeta) - log rho(zeta|z).

        If rho := p(zeta), this is log p(z|zeta).

        Args:
            method: decides which density rho is.
            z: `[M, B, Dz]`.
            zeta: `[L, M, B, Dzeta]`, or `[L, 1, B, Dzeta]` if all z share zeta.

        Returns:
            `[L, M, B]`, nats.
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
    """Returns the interface to the prior of a `Model`.

    Args:
        prior: a distribution or a hierarchy.
    """
    return HierarchicalPrior(prior) if isinstance(prior, Hierarchy) else ExplicitPrior(prior)


def hierarchical(prior: DistributionLike | Hierarchy) -> HierarchicalPrior:
    """Returns the interface to a prior that has to be a `Hierarchy`.

    Args:
        prior: the hierarchy. Its type is not checked.
    """
    return HierarchicalPrior(cast(Hierarchy, prior))
