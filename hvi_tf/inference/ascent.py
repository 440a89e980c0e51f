"""Gradient ascent in chunks of steps, which can be interrupted and undoes a divergent step."""

import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from hvi_tf import arguments
from hvi_tf.inference.model import Parameter

# Python handles Ctrl-C between two chunks.
_CHUNK_SECONDS = 0.5
_MAX_CHUNK = 1024

# Maps the int64 step to the value and an ascent direction for each variable.
Direction = Callable[[tf.Tensor], tuple[tf.Tensor, list[tf.Tensor]]]


class FitInterrupted(KeyboardInterrupt):
    """An interruption of a fit by Ctrl-C, after which the last finished step is in place.

    Attributes:
        course: the value at each finished step, float64 `[finished steps]`.
    """

    def __init__(self, course: np.ndarray, steps: int) -> None:
        super().__init__(
            f"stopped after {len(course)} of {steps} steps; the variables have the values of the "
            "last finished step, and `course` of this exception has the bound at each step"
        )
        self.course = course


class FitDiverged(ValueError):
    """An error for a value, a gradient or an updated variable that is not finite.

    The variables and the optimizer are restored to the last step at which all were finite.

    Attributes:
        course: the value at each step before, float64 `[finite steps]`.
    """

    def __init__(self, course: np.ndarray) -> None:
        super().__init__(
            f"step {len(course)}: the bound, its gradient or an updated variable is not finite; "
            "the variables and the optimizer are restored to the last finite step; try a smaller "
            "step size"
        )
        self.course = course


def as_optimizer(
    value: keras.optimizers.Optimizer | type | str | dict | None,
) -> keras.optimizers.Optimizer:
    """Returns a Keras 3 optimizer.

    Args:
        value: an optimizer, its class, its name or its config.

    Raises:
        TypeError: for anything else, such as an optimizer of tf_keras.
    """
    optimizer = value
    try:
        if isinstance(value, type) and issubclass(value, keras.optimizers.Optimizer):
            optimizer = value()
        if optimizer is None:  # Keras would return None.
            raise TypeError("no optimizer")
        return keras.optimizers.get(optimizer)
    except (TypeError, ValueError) as error:
        kind = value if isinstance(value, type) else type(value)
        is_keras_2 = kind.__module__.startswith("tf_keras")
        raise TypeError(
            f"optimizer={arguments.shown(value)}: must be an optimizer of Keras 3"
            + (", this one is of tf_keras (Keras 2)" if is_keras_2 else "")
            + "; pass keras.optimizers.Adam(1e-3), its class or a name such as 'adam'"
        ) from error


class Ascent:
    """A compiled loop of optimizer steps v <- v + update(ascent direction).

    Args:
        direction: the int64 step -> the value and an ascent direction for each variable.
        variables: the variables to be updated.
        optimizer: an optimizer that is built on the variables.
        check: a function that is called after tracing, before the first update.
    """

    def __init__(
        self,
        direction: Direction,
        variables: Sequence[Parameter],
        optimizer: keras.optimizers.Optimizer,
        check: Callable[[], None],
    ) -> None:
        state = [*variables, *optimizer.variables]
        # The state at the last finite value.
        backup = [tf.Variable(tf.convert_to_tensor(v), trainable=False) for v in state]
        values = tf.Variable(tf.zeros([_MAX_CHUNK], tf.float64), trainable=False)
        finished = tf.Variable(0, dtype=tf.int64, trainable=False)

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64)] * 2)
        def run(first: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
            finite = tf.constant(True)
            for step in tf.range(first, first + count):
                value, ascent = direction(step)
                finite = _all_finite([value, *ascent])
                if finite:
                    for copy, variable in zip(backup, state, strict=True):
                        copy.assign(tf.convert_to_tensor(variable))
                    optimizer.apply([-g for g in ascent], variables)
                    finite = _all_finite(variables)
                if not finite:
                    for copy, variable in zip(backup, state, strict=True):
                        variable.assign(tf.convert_to_tensor(copy))
                    break
                values.scatter_nd_update([[step - first]], [tf.cast(value, tf.float64)])
                finished.assign(step + 1)
            return finite

        self._run, self._check, self._values, self._finished = run, check, values, finished

    def climb(self, steps: int) -> np.ndarray:
        """Runs the steps and returns the value at each.

        Args:
            steps: the number of steps.

        Returns:
            float64 `[steps]`.

        Raises:
            FitDiverged: if a value, a gradient or an updated variable is not finite.
            FitInterrupted: on KeyboardInterrupt, at the end of the current chunk.
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
        """Returns the values of the finished steps that are not in `chunks` yet."""
        return self._values.numpy()[: int(self._finished) - sum(map(len, chunks))]


def _all_finite(tensors: Sequence[Parameter]) -> tf.Tensor:
    """Returns whether all entries of all tensors are finite."""
    return tf.reduce_all(
        [tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(t))) for t in tensors]
    )
