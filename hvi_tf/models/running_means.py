"""Means of a step's metrics over the images of several batches, for Keras's loops."""

from collections.abc import Callable

import tensorflow as tf

from hvi_tf.models.metrics import Metrics


class RunningMeans:
    """Means of metrics, weighted by the number of images in each batch.

    Keras does not track their variables, so the model's variables do not include them.
    """

    def __init__(self) -> None:
        self._means: dict[str, tf.Variable] = {}
        self._counts: dict[str, tf.Variable] = {}

    def reset(self) -> None:
        """Forgets all batches."""
        for variable in (*self._means.values(), *self._counts.values()):
            variable.assign(0.0)

    def wrap(self, step: Callable[[tf.Tensor], Metrics]) -> Callable[[tf.Tensor], Metrics]:
        """Returns a step whose metrics are their means over all batches since `reset`.

        Args:
            step: maps a batch to its metrics, which are means over its images.
        """

        def averaged(data: tf.Tensor) -> Metrics:
            metrics = step(data)
            if tf.distribute.has_strategy():  # each replica would need its own means
                return metrics
            images = tf.cast(tf.shape(tf.nest.flatten(data)[0])[0], tf.float32)
            return {name: self._add(name, value, images) for name, value in metrics.items()}

        return averaged

    def _add(self, name: str, value: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        if name not in self._means:
            with tf.init_scope():  # because a step may be traced when its metric first appears
                self._means[name] = tf.Variable(0.0, trainable=False)
                self._counts[name] = tf.Variable(0.0, trainable=False)
        mean, count = self._means[name], self._counts[name].assign_add(images)
        # In this form the mean of one batch is its value to the last bit.
        return mean.assign_add((tf.cast(value, tf.float32) - mean) * (images / count))
