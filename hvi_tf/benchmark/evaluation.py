"""Streamed scores of images, ready to be timed."""

from typing import Any

import tensorflow as tf

from hvi_tf.benchmark import operations
from hvi_tf.benchmark.cells import Evaluation
from hvi_tf.benchmark.operations import Operations
from hvi_tf.benchmark.training import noise_images
from hvi_tf.inference import image_scores, plans, refined_scores
from hvi_tf.inference.methods import Counts
from hvi_tf.models.vae import make_vae


class Scoring:
    """The compiled scorer of an evaluation."""

    def __init__(self, task: Evaluation) -> None:
        self.model = make_vae(task.cell.config, task.cell.x_dim)
        method = self.model.method
        jit = task.cell.config.training.jit_compile == "on"
        self._score: Any
        if task.steps:
            settings = self.model.svi_settings(steps=task.steps)
            self.images = self.model.refined_images
            self._score = refined_scores.make_scorer(
                self.model.localize, method, settings, jit_compile=jit
            )
        else:
            plan = plans.make(method, Counts(K=task.K, M=task.M), rows=self.model.rows_per_call)
            self.images = plan.images
            self._score = image_scores.make_scorer(self.model.prepare, method, plan, jit)
        self._x = tf.cast(noise_images(self.images, task.cell.x_dim) > 0, tf.float32)

    def __call__(self, calls: int) -> None:
        """Scores the images `calls` times."""
        for i in range(calls):
            self._score(self._x, tf.constant([0, i])).log_likelihood.numpy()

    def count(self) -> Operations:
        """Returns the operations of one call."""
        specs = tf.TensorSpec(self._x.shape), tf.TensorSpec([2], tf.int32)
        return operations.count(self._score.get_concrete_function(*specs))
