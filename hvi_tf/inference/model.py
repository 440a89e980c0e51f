"""Models as callables that return TFP distributions.

Axes follow TFP's sample + batch + event order: k, then m, then the batch of observations.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import tensorflow as tf

# A count, or counts along several axes.
SampleShape: TypeAlias = int | tf.Tensor | Sequence[int | tf.Tensor]
# A variable of TensorFlow or Keras (which has no types), or its gradient.
Parameter: TypeAlias = tf.Variable | tf.Tensor


class Density(Protocol):
    """A density to draw from and to evaluate, such as a proposal of psi."""

    def log_prob(self, value: tf.Tensor, /) -> tf.Tensor:
        """Returns the log-density `[...]`, nats.

        Args:
            value: `[..., D]`.
        """

    def sample(self, sample_shape: SampleShape, /, seed: tf.Tensor) -> tf.Tensor:
        """Returns draws `[*sample_shape, *batch_shape, D]`.

        Args:
            sample_shape: a count, or counts along several axes.
            seed: int32 `[2]`.
        """


class DistributionLike(Protocol):
    """The part of a TFP distribution that the bounds use; see also `callables.Callables`."""

    def log_prob(self, value: tf.Tensor, /) -> tf.Tensor:
        """Returns the log-density `[...]`, nats.

        Args:
            value: `[..., D]`.
        """

    def sample(self, sample_shape: SampleShape = (), /, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns draws `[*sample_shape, *batch_shape, D]`.

        Args:
            sample_shape: a count, or counts along several axes.
            seed: int32 `[2]`.
        """

    def experimental_sample_and_log_prob(
        self, sample_shape: SampleShape = (), /, seed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns draws `[*sample_shape, *batch_shape, D]` and their log-densities, nats.

        Args:
            sample_shape: a count, or counts along several axes.
            seed: int32 `[2]`.
        """


class Hierarchy(NamedTuple):
    """A hierarchy q(z) = int q(z|psi) q(psi) dpsi with an inverse model tau(psi|z).

    In a prior p(z), psi is called zeta and the inverse is called rho.

    Attributes:
        mixing: q(psi), batch shape `[]` or `[B]`.
        conditional: psi `[..., Dpsi]` -> q(z|psi), batch shape `[...]`.
        inverse: z `[..., Dz]` -> tau(psi|z), batch shape `[...]`. The bounds hold for any
            inverse and are exact for the true q(psi|z). None if no bound needs it.
    """

    mixing: DistributionLike
    conditional: Callable[[tf.Tensor], DistributionLike]
    inverse: Callable[[tf.Tensor], DistributionLike] | None = None

    def sample(self, n: int | tf.Tensor | list, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws (z, psi_0) ~ q(z,psi), so that psi_0 is an exact draw from q(psi|z).

        Args:
            n: the sample shape.
            seed: int32 `[2]`.

        Returns:
            z `[*n, ..., Dz]` and psi_0 `[*n, ..., Dpsi]`.
        """
        psi_seed, z_seed = tf.unstack(tf.random.split(seed, 2))
        psi_0 = self.mixing.sample(n, seed=psi_seed)
        return self.conditional(psi_0).sample(seed=z_seed), psi_0

    def inverse_at(self, z: tf.Tensor) -> DistributionLike:
        """Returns tau(psi|z).

        Args:
            z: `[..., Dz]`.

        Raises:
            ValueError: if the hierarchy has no inverse.
        """
        if self.inverse is None:
            raise ValueError("inverse=None: this bound needs an inverse model tau(psi|z)")
        return self.inverse(z)


class Model(NamedTuple):
    """A latent variable model p(x,z) and a proposal q(z|x), hierarchical or explicit.

    A part that the method does not use may be None. Some methods use only `sample` or only
    `log_prob` of a part. `callables.Callables` makes such a part from functions.

    Attributes:
        prior: p(z), batch shape `[]` or `[B]`; or p(z) = int p(z|zeta) p(zeta) dzeta.
        likelihood: z `[M, B, Dz]` -> p(x|z), batch shape `[M, B]`.
        conditional: (psi `[..., B, Dpsi]`, x) -> q(z|psi,x), batch shape `[..., B]`.
            For an explicit proposal: (None, x) -> q(z|x), batch shape `[B]`.
        mixing: x -> q(psi|x), batch shape `[B]`. It is not called for an explicit proposal.
        tau: (z `[M, B, Dz]`, x) -> tau(psi|z,x), batch shape `[M, B]`. Only methods with a tau
            call it.
    """

    prior: DistributionLike | Hierarchy
    likelihood: Callable[[tf.Tensor], DistributionLike]
    conditional: Callable[[tf.Tensor | None, tf.Tensor], DistributionLike]
    mixing: Callable[[tf.Tensor], DistributionLike] = None  # type: ignore[assignment]
    tau: Callable[[tf.Tensor, tf.Tensor], DistributionLike] = None  # type: ignore[assignment]


# Maps x [B, ...] to the model for x, and computes once everything that depends on x alone.
Prepare = Callable[[tf.Tensor], Model]


def prepared(model: Model | Prepare, x: tf.Tensor) -> Model:
    """Returns the model for x, to be called several times.

    Args:
        model: the callables, or a function that makes them for x.
        x: observations `[B, ...]`.
    """
    return model if isinstance(model, Model) else model(x)


class LocalModel(NamedTuple):
    """A model whose proposal has local parameters lambda for each observation.

    Attributes:
        start: lambda_0 `[B, P]`, unconstrained.
        at: lambda `[B, P]` -> the model with the proposal q_lambda. It is called at every
            step, so anything that does not depend on lambda should be computed outside of it.
    """

    start: tf.Tensor
    at: Callable[[tf.Tensor], Model]


# Maps x [B, ...] to the local model of x.
Localize = Callable[[tf.Tensor], LocalModel]


class LatentSample(NamedTuple):
    """One draw of every latent variable. The axes are k or l, then m, B and the event.

    Attributes:
        z: `[M, B, Dz]`.
        psi_0: the psi that generated z, `[M, B, Dpsi]`. None if q is explicit.
        psi: `[K, M, B, Dpsi]`, or `[K, 1, B, Dpsi]` or `[M K, 1, B, Dpsi]` if all z share psi.
            None if q is explicit.
        zeta: `[L, M, B, Dzeta]`, or `[L, 1, B, Dzeta]` if all z share zeta. None if the prior is
            explicit.
        log_q_z: log q(z|x) `[M, B]` of an explicit q, if it is computed with the draw.
    """

    z: tf.Tensor
    psi_0: tf.Tensor | None = None
    psi: tf.Tensor | None = None
    zeta: tf.Tensor | None = None
    log_q_z: tf.Tensor | None = None

    def copy(self) -> "LatentSample":
        """Returns the same values in new tensors."""
        return LatentSample(*(None if part is None else tf.identity(part) for part in self))


class ParameterGroups(NamedTuple):
    """Trainable variables, or their gradients, grouped by the density that they belong to.

    Attributes:
        theta: those of the model p(x,z).
        phi: those of the proposal q(z,psi|x).
        eta: those of its inverse tau(psi|z,x).
        rho: those of the prior's inverse rho(zeta|z).
        pi: the logits of the weights pi of a buffer of proposals.
    """

    theta: Sequence[Parameter] = ()
    phi: Sequence[Parameter] = ()
    eta: Sequence[Parameter] = ()
    rho: Sequence[Parameter] = ()
    pi: Sequence[Parameter] = ()
