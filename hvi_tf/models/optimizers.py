"""Adam with a learning rate per step and gradients averaged over replicas."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from hvi_tf.config.settings import TrainingConfig


class Adam(keras.optimizers.Adam):
    """Keras's Adam with two changes.

    * `learning_rate` is the largest rate, and a schedule over the steps of a run may lower it. A
      Keras schedule would replace the variable of the rate, but `VAE.set_schedule` sets that
      variable.
    * Gradients are already means over the replicas. Keras would clip the gradient of each replica
      and then add them up, which does not clip the gradient of the batch.

    Args:
        learning_rate: the largest rate.
        schedule: cosine or linear; with any other name the rate does not fall.
        warmup_steps: steps over which the rate rises from 0.
        final_fraction: fraction of the largest rate at the end of the run.
        step: returns the step of the run; the default counts applications.
        **options: of `keras.optimizers.Adam`.
    """

    def __init__(
        self,
        learning_rate: float,
        *,
        schedule: str = "",
        warmup_steps: int = 0,
        final_fraction: float = 0.0,
        step: Callable[[], Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        falls = schedule in ("cosine", "linear")
        self._of_schedule = schedule if falls else "", warmup_steps, final_fraction
        self._step = step
        self._run_steps: int | None = None

    def set_run_length(self, steps: int) -> None:
        """Sets the step at which the schedule ends; without it the rate does not fall."""
        self._run_steps = steps

    @property
    def learning_rate(self) -> Any:
        """The rate of the next step; assignment sets the largest rate."""
        rate = super().learning_rate
        schedule, warmup_steps, final_fraction = self._of_schedule
        if self._run_steps is None:
            schedule = ""
        if not (schedule or warmup_steps):
            return rate
        step = tf.convert_to_tensor(self._step() if self._step else self.iterations)
        steps = self._run_steps or 1
        return rate * rate_factor(step, schedule, steps, warmup_steps, final_fraction)

    @learning_rate.setter
    def learning_rate(self, rate: Any) -> None:
        keras.optimizers.Adam.learning_rate.fset(self, rate)

    def _all_reduce_sum_gradients(self, grads_and_vars: list) -> list:
        return grads_and_vars


def rate_factor(
    step: tf.Tensor, schedule: str, steps: int, warmup_steps: int, final_fraction: float
) -> tf.Tensor:
    """Returns the learning rate at a step as a fraction of the largest rate, float32.

    Args:
        step: from 0, int64.
        schedule: cosine or linear; with any other name the rate does not fall.
        steps: length of the run, at whose end the fraction is `final_fraction`.
        warmup_steps: steps over which it rises; step `warmup_steps - 1` has the whole rate.
        final_fraction: in [0, 1].
    """
    step = tf.cast(step, tf.float64)
    done = tf.minimum(step / steps, 1.0)
    left = {"cosine": 0.5 * (1.0 + tf.cos(math.pi * done)), "linear": 1.0 - done}
    factor = final_fraction + (1.0 - final_fraction) * left.get(schedule, 1.0)
    if warmup_steps:
        factor *= tf.minimum((step + 1.0) / warmup_steps, 1.0)
    return tf.cast(factor, tf.float32)


def make(training: TrainingConfig, **options: Any) -> Adam:
    """Returns the optimizer of a configuration; biases have no weight decay."""
    t = training
    optimizer = Adam(
        t.learning_rate,
        schedule=t.lr_schedule,
        warmup_steps=t.lr_warmup_steps,
        final_fraction=t.lr_final_fraction,
        amsgrad=t.optimizer == "amsgrad",
        weight_decay=t.weight_decay if t.optimizer == "adamw" else None,
        global_clipnorm=t.clip_norm or None,
        **options,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def applier(
    optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable], jit_compile: bool
) -> Callable[[list[tf.Tensor]], None]:
    """Returns a function that takes a step along gradients; on one device XLA may compile it."""

    def apply(gradients: list[tf.Tensor]) -> None:
        optimizer.apply([-g for g in gradients], variables)

    if jit_compile and not tf.distribute.has_strategy():
        return tf.function(apply, jit_compile=True, autograph=False)
    return apply


def apply_if_finite(reported: dict[str, tf.Tensor], apply: Callable[[], None]) -> tf.Tensor:
    """Calls `apply` if all reported terms and gradient norms of a step are finite.

    Returns:
        Whether they are.
    """
    finite = tf.reduce_all([tf.math.is_finite(m) for m in reported.values()])

    def applied() -> tf.Tensor:
        apply()
        return finite

    return tf.cond(finite, applied, lambda: finite)


def build(optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]) -> None:
    """Creates the optimizer's variables; averages of weights start at the initial weights."""
    optimizer.build(variables)
    if optimizer.use_ema:  # Keras starts them at 0 and corrects that only at the first step
        averages = optimizer._model_variables_moving_average
        for average, variable in zip(averages, variables, strict=True):
            average.assign(variable)


@contextlib.contextmanager
def averaged(
    optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]
) -> Iterator[None]:
    """Replaces weights by their averages inside the context, if the optimizer has any."""
    if not optimizer.use_ema:
        yield
        return
    raw = [tf.identity(v.value) for v in variables]
    optimizer.finalize_variable_values(variables)
    try:
        yield
    finally:
        for variable, value in zip(variables, raw, strict=True):
            variable.assign(value)
