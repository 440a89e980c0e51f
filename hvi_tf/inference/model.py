"""Models as callables that return TFP distributions.

Axes follow TFP's sample + batch + event order: k, then m, then the batch of observations.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf


class Density(Protocol):
    """A density to draw from and to evaluate, such as a proposal of psi."""

    def log_prob(self, value: tf.Tensor, /) -> tf.Tensor:
        """Returns the log-density, nats; the last axis of the value is the event."""

    def sample(self, sample_shape: Any, /, seed: tf.Tensor) -> tf.Tensor:
        """Returns draws `[*sample_shape, *batch_shape, D]`."""


class DistributionLike(Protocol):
    """The part of a TFP distribution that the bounds use; see also `callables.Callables`."""

    def log_prob(self, value: tf.Tensor, /) -> tf.Tensor:
        """Returns the log-density, nats; the last axis of the value is the event."""

    def sample(self, sample_shape: Any = (), /, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns draws `[*sample_shape, *batch_shape, D]`."""

    def experimental_sample_and_log_prob(
        self, sample_shape: Any = (), /, seed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns draws and their log-densities."""


class Hierarchy(NamedTuple):
    """q(z) = int q(z|psi) q(psi) dpsi with an inverse model tau(psi|z).

    As a prior p(z), psi is called zeta and the inverse rho.

    Attributes:
        mixing: q(psi), batch shape `[]` or `[B]`.
        conditional: psi `[..., Dpsi]` -> q(z|psi), batch shape `[...]`.
        inverse: z `[..., Dz]` -> tau(psi|z), batch shape `[...]`. The bounds hold for any
            inverse and are exact for the true q(psi|z). None where no bound needs it.
    """

    mixing: DistributionLike
    conditional: Callable[[tf.Tensor], DistributionLike]
    inverse: Callable[[tf.Tensor], DistributionLike] | None = None

    def sample(self, n: int | tf.Tensor | list, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws (z, psi_0) ~ q(z,psi), each `[n, ...]`: psi_0 is an exact draw from q(psi|z)."""
        psi_seed, z_seed = tf.unstack(tf.random.split(seed, 2))
        psi_0 = self.mixing.sample(n, seed=psi_seed)
        return self.conditional(psi_0).sample(seed=z_seed), psi_0

    def inverse_at(self, z: tf.Tensor) -> DistributionLike:
        """Returns tau(psi|z).

        Raises:
            ValueError: if the hierarchy has no inverse.
        """
        if self.inverse is None:
            raise ValueError("inverse=None: this bound needs an inverse model tau(psi|z)")
        return self.inverse(z)


class Model(NamedTuple):
    """A latent variable model p(x,z) and a proposal q(z|x), hierarchical or explicit.

    A part that the method does not use may be None. Some methods need only `sample` or only
    `log_prob` of a part: see `callables.Callables` for functions in place of distributions.

    Attributes:
        prior: p(z), batch shape `[]` or `[B]`; or p(z) = int p(z|zeta) p(zeta) dzeta.
        likelihood: z `[M, B, Dz]` -> p(x|z), batch shape `[M, B]`.
        conditional: (psi `[..., B, Dpsi]`, x) -> q(z|psi,x), batch shape `[..., B]`.
            For an explicit proposal: (None, x) -> q(z|x), batch shape `[B]`.
        mixing: x -> q(psi|x), batch shape `[B]`; not called for an explicit proposal.
        tau: (z `[M, B, Dz]`, x) -> tau(psi|z,x), batch shape `[M, B]`; called
            only by methods that have a tau.
    """

    prior: DistributionLike | Hierarchy
    likelihood: Callable[[tf.Tensor], DistributionLike]
    conditional: Callable[[tf.Tensor | None, tf.Tensor], DistributionLike]
    mixing: Callable[[tf.Tensor], DistributionLike] = None  # type: ignore[assignment]
    tau: Callable[[tf.Tensor, tf.Tensor], DistributionLike] = None  # type: ignore[assignment]


# x -> the model for these observations, with everything that depends on x alone computed once.
Prepare = Callable[[tf.Tensor], Model]


def prepared(model: Model | Prepare, x: tf.Tensor) -> Model:
    """Returns the model, for several calls with the same observations."""
    return model if isinstance(model, Model) else model(x)


class LocalModel(NamedTuple):
    """A model whose proposal has local parameters lambda, one row per observation.

    Attributes:
        start: lambda_0 `[B, P]`, unconstrained.
        at: lambda `[B, P]` -> the model with the proposal q_lambda. It is called at every
            step, so compute outside of it whatever does not depend on lambda.
    """

    start: tf.Tensor
    at: Callable[[tf.Tensor], Model]


Localize = Callable[[tf.Tensor], LocalModel]  # x [B, ...] -> the local model of these rows


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


class ParameterGroups(NamedTuple):
    """Trainable variables, or their gradients, by the density that they belong to."""

    theta: Sequence[Any] = ()  # the model p(x,z)
    phi: Sequence[Any] = ()  # the proposal q(z,psi|x)
    eta: Sequence[Any] = ()  # its inverse tau(psi|z,x)
    rho: Sequence[Any] = ()  # the prior's inverse rho(zeta|z)
    pi: Sequence[Any] = ()  # the weights of a buffer of proposals
