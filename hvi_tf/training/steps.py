"""Several training steps per call of one compiled loop."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf.models.vae import VAE


class StepMetrics(NamedTuple):
    """The metrics of consecutive steps, one row per step."""

    names: tuple[str, ...]
    values: np.ndarray  # [steps, len(names)]


class StepRunner:
    """Runs several training steps per call, with one compiled loop for each K."""

    def __init__(self, model: VAE) -> None:
        self._model = model
        self._loops: dict[int, Callable] = {}
        self._names: dict[int, tuple[str, ...]] = {}

    def __call__(self, batches: Iterator[tf.Tensor], count: int) -> StepMetrics:
        """Takes a step with each of `count` batches; stops after one that is not finite."""
        K = self._model.training_K
        if K not in self._loops:
            self._loops[K] = self._make_loop(K)
        values = self._loops[K](batches, tf.constant(count)).numpy()
        return StepMetrics(self._names[K], values)

    def _make_loop(self, K: int) -> Callable:
        step: Callable = self._model.train_step
        if tf.distribute.has_strategy():
            step = self._replicated_step
        # A step has nothing for autograph to convert, and its search takes a second.
        step = tf.autograph.experimental.do_not_convert(step)

        @tf.function
        def loop(batches: Iterator[tf.Tensor], count: tf.Tensor) -> tf.Tensor:
            rows = tf.TensorArray(tf.float32, size=0, dynamic_size=True)
            for i in tf.range(count):
                row = self._as_row(K, step(next(batches)))
                rows = rows.write(i, row)
                if not tf.reduce_all(tf.math.is_finite(row)):
                    break
            return rows.stack()

        return loop

    def _replicated_step(self, batch: tf.Tensor) -> dict[str, tf.Tensor]:
        """Takes `VAE.train_step` on a batch; each replica takes a share of its rows.

        All replicas apply the update or none does; that is decided between the step's halves.
        """
        strategy, model = tf.distribute.get_strategy(), self._model

        def of_share(compute: Callable, *arguments: Any) -> Any:
            context = tf.distribute.get_replica_context()
            rows = batch.shape[0] // context.num_replicas_in_sync
            first = rows * tf.convert_to_tensor(context.replica_id_in_sync_group)
            return compute(batch[first : first + rows], *arguments)

        def run_gradients(compute: Callable, *arguments: Any) -> tuple:
            reported, gradients = strategy.run(of_share, args=(compute, *arguments))
            local = {n: strategy.experimental_local_results(v)[0] for n, v in reported.items()}
            return local, gradients

        def run_update(apply: Callable, gradients: Any) -> None:
            strategy.run(apply, args=(gradients,))

        return model.take_step(run_gradients, run_update)

    def _as_row(self, K: int, metrics: dict[str, tf.Tensor]) -> tf.Tensor:
        self._names[K] = tuple(metrics)
        return tf.stack(list(metrics.values()))
