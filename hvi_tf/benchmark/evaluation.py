"""The streamed scores of `log_likelihood` and `svi_scores`, to be timed."""

from typing import Any

import tensorflow as tf

from hvi_tf.benchmark import operations
from hvi_tf.benchmark.cells import Evaluation
from hvi_tf.benchmark.operations import Operations
from hvi_tf.benchmark.training import noise_images
from hvi_tf.inference import image_scores as log_likelihood
from hvi_tf.inference import plans
from hvi_tf.inference import refined_scores as svi_scores
from hvi_tf.inference.methods import Counts
from hvi_tf.models.vae import make_vae


class Scoring:
    """The scorer of an evaluation, compiled and ready."""

    def __init__(self, task: Evaluation) -> None:
        self.model = make_vae(task.cell.config, task.cell.x_dim)
        row = self.model.method
        jit = task.cell.config.training.jit_compile == "on"
        self._score: Any
        if task.steps:
            settings = self.model.svi_settings(steps=task.steps)
            self.images = self.model.refined_images
            self._score = svi_scores.make_scorer(
                self.model.localize, row, settings, jit_compile=jit
            )
        else:
            plan = plans.make(row, Counts(K=task.K, M=task.M), rows=self.model.rows_per_call)
            self.images = plan.images
            self._score = log_likelihood.make_scorer(self.model.prepare, row, plan, jit)
        self._x = tf.cast(noise_images(self.images, task.cell.x_dim) > 0, tf.float32)

    def __call__(self, calls: int) -> None:
        """Scores the images so many times."""
        for i in range(calls):
            self._score(self._x, tf.constant([0, i])).log_likelihood.numpy()

    def count(self) -> Operations:
        """What one call executes."""
        specs = tf.TensorSpec(self._x.shape), tf.TensorSpec([2], tf.int32)
        return operations.count(self._score.get_concrete_function(*specs))
