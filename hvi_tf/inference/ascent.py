"""Gradient ascent in chunks of steps: interruptible, and undone where it diverges."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvi_tf import arguments

# Python sees Ctrl-C between two chunks.
_CHUNK_SECONDS = 0.5
_MAX_CHUNK = 1024

# The int64 step -> the value and an ascent direction for each variable.
Direction = Callable[[tf.Tensor], tuple[tf.Tensor, list[tf.Tensor]]]


class FitInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a fit; the variables are those of the last finished step.

    Attributes:
        course: the value at each finished step.
    """

    def __init__(self, course: np.ndarray, steps: int) -> None:
        super().__init__(
            f"after {len(course)} of {steps} steps; the variables are those of the last finished "
            "step, and `course` of this exception has the value at each"
        )
        self.course = course


class FitDiverged(ValueError):
    """A value, a gradient or an updated variable is not finite.

    The variables and the optimizer are as they were where all three were last finite.

    Attributes:
        course: the value at each step before, all finite.
    """

    def __init__(self, course: np.ndarray) -> None:
        super().__init__(
            f"step {len(course)}: the bound, its gradient or an updated variable is not finite; "
            "the variables and the optimizer are back where all were last finite; try a smaller "
            "step size"
        )
        self.course = course


def as_optimizer(value: Any) -> keras.optimizers.Optimizer:
    """Returns the Keras 3 optimizer that is passed, as itself, a class, a name or a config.

    Raises:
        TypeError: for anything else, such as an optimizer of tf_keras.
    """
    made = value
    try:
        if isinstance(value, type) and issubclass(value, keras.optimizers.Optimizer):
            made = value()
        if made is None:  # for which Keras returns None
            raise TypeError("no optimizer")
        return keras.optimizers.get(made)
    except (TypeError, ValueError) as error:
        kind = value if isinstance(value, type) else type(value)
        old = kind.__module__.startswith("tf_keras")
        raise TypeError(
            f"optimizer={arguments.shown(value)}: must be an optimizer of Keras 3"
            + (", this one is of tf_keras (Keras 2)" if old else "")
            + "; pass keras.optimizers.Adam(1e-3), its class or a name such as 'adam'"
        ) from error


class Ascent:
    """One compiled loop over the steps.

    Args:
        direction: of each step.
        variables: to be updated.
        optimizer: built on them.
        check: called after tracing, before the first update.
    """

    def __init__(
        self,
        direction: Direction,
        variables: Sequence[Any],
        optimizer: keras.optimizers.Optimizer,
        check: Callable[[], None],
    ) -> None:
        state = [*variables, *optimizer.variables]
        # As they were where the last finite value was computed.
        kept = [tf.Variable(tf.convert_to_tensor(v), trainable=False) for v in state]
        values = tf.Variable(tf.zeros([_MAX_CHUNK], tf.float64), trainable=False)
        done = tf.Variable(0, dtype=tf.int64, trainable=False)

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64)] * 2)
        def run(first: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
            finite = tf.constant(True)
            for step in tf.range(first, first + count):
                value, ascent = direction(step)
                finite = _all_finite([value, *ascent])
                if finite:
                    for copy, variable in zip(kept, state, strict=True):
                        copy.assign(tf.convert_to_tensor(variable))
                    optimizer.apply([-g for g in ascent], variables)
                    finite = _all_finite(variables)
                if not finite:
                    for copy, variable in zip(kept, state, strict=True):
                        variable.assign(tf.convert_to_tensor(copy))
                    break
                values.scatter_nd_update([[step - first]], [tf.cast(value, tf.float64)])
                done.assign(step + 1)
            return finite

        self._run, self._check, self._values, self._done = run, check, values, done

    def climb(self, steps: int) -> np.ndarray:
        """Does the steps and returns the value at each, `[steps]`.

        Raises:
            FitDiverged: where something is not finite.
            FitInterrupted: on KeyboardInterrupt, after at most a chunk or a step.
        """
        chunks: list[np.ndarray] = []
        try:
            self._run.get_concrete_function()
            self._check()
            size = 1
            while (first := sum(map(len, chunks))) < steps:
                started = time.monotonic()
                count = min(size, steps - first)
                finite = self._run(tf.constant(first, tf.int64), tf.constant(count, tf.int64))
                chunks.append(self._unread(chunks))
                if not finite:
                    raise FitDiverged(np.concatenate(chunks))
                rate = (time.monotonic() - started) / count
                size = int(min(2 * size, _MAX_CHUNK, max(1.0, _CHUNK_SECONDS / rate)))
        except KeyboardInterrupt:
            raise FitInterrupted(np.concatenate([*chunks, self._unread(chunks)]), steps) from None
        return np.concatenate(chunks)

    def _unread(self, chunks: list[np.ndarray]) -> np.ndarray:
        """Returns the values of the last chunk's finished steps."""
        return self._values.numpy()[: int(self._done) - sum(map(len, chunks))]


def _all_finite(tensors: Sequence[Any]) -> tf.Tensor:
    return tf.reduce_all(
        [tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(t))) for t in tensors]
    )
