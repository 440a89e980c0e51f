"""A distribution made from plain functions."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from hvi_tf.inference.model import SampleShape


class Callables(NamedTuple):
    """The part of a distribution that a `Model` uses, made from the user's functions.

    An unnormalized or hand-written likelihood needs no `sample_fn`. An implicit q(psi|x), which
    has draws but no density, needs no `log_prob_fn` if tau := q(psi|x) (the sivi methods).

    Attributes:
        log_prob_fn: value `[..., D]` -> log-density `[...]`, nats.
        sample_fn: (sample shape as a list of counts, int32 `[2]` seed) -> draws
            `[*sample_shape, *batch_shape, D]`, differentiable in the parameters.
    """

    log_prob_fn: Callable[[tf.Tensor], tf.Tensor] | None = None
    sample_fn: Callable[[list, tf.Tensor], tf.Tensor] | None = None

    def log_prob(self, value: tf.Tensor) -> tf.Tensor:
        """Returns the log-density `[...]`, nats.

        Args:
            value: `[..., D]`.

        Raises:
            NotImplementedError: if there is no `log_prob_fn`.
        """
        if self.log_prob_fn is None:
            raise NotImplementedError("these Callables have no log_prob_fn")
        return self.log_prob_fn(value)

    def sample(self, sample_shape: SampleShape = (), seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns draws `[*sample_shape, *batch_shape, D]`.

        Args:
            sample_shape: a count, or a list of counts.
            seed: int32 `[2]`.

        Raises:
            NotImplementedError: if there is no `sample_fn`.
        """
        if self.sample_fn is None:
            raise NotImplementedError("these Callables have no sample_fn")
        if isinstance(sample_shape, list | tuple):
            return self.sample_fn(list(sample_shape), seed)
        return self.sample_fn([sample_shape], seed)

    def experimental_sample_and_log_prob(
        self, sample_shape: SampleShape = (), seed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns draws `[*sample_shape, *batch_shape, D]` and their log-densities, nats.

        Args:
            sample_shape: a count, or a list of counts.
            seed: int32 `[2]`.

        Raises:
            NotImplementedError: if there is no `sample_fn` or no `log_prob_fn`.
        """
        value = self.sample(sample_shape, seed)
        return value, self.log_prob(value)
