"""Plain functions in place of a distribution."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf


class Callables(NamedTuple):
    """What a `Model` needs of a distribution, from functions of the user's own.

    An unnormalised or hand-written likelihood needs no `sample_fn`, and an implicit
    q(psi|x), of which only draws exist, no `log_prob_fn` where tau := q(psi|x) (the sivi rows).

    Attributes:
        log_prob_fn: value -> log-density, nats, the last axis being the event.
        sample_fn: (sample shape as a list of counts, int32 `[2]` seed) -> draws
            `[*sample_shape, *batch_shape, D]`, differentiable by the parameters.
    """

    log_prob_fn: Callable[[tf.Tensor], tf.Tensor] | None = None
    sample_fn: Callable[[list, tf.Tensor], tf.Tensor] | None = None

    def log_prob(self, value: tf.Tensor) -> tf.Tensor:
        """The log-density at `value`."""
        if self.log_prob_fn is None:
            raise NotImplementedError("these Callables have no log_prob_fn")
        return self.log_prob_fn(value)

    def sample(self, sample_shape: Any = (), seed: tf.Tensor | None = None) -> tf.Tensor:
        """Draws of the given sample shape."""
        if self.sample_fn is None:
            raise NotImplementedError("these Callables have no sample_fn")
        if isinstance(sample_shape, list | tuple):
            return self.sample_fn(list(sample_shape), seed)
        return self.sample_fn([sample_shape], seed)

    def experimental_sample_and_log_prob(
        self, sample_shape: Any = (), seed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws and their log-densities."""
        value = self.sample(sample_shape, seed)
        return value, self.log_prob(value)
