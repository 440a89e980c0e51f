"""A training step as the command line runs it, ready to be timed."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from hvi_tf.benchmark import operations
from hvi_tf.benchmark.cells import Cell
from hvi_tf.benchmark.operations import Operations
from hvi_tf.data import pipeline
from hvi_tf.models.vae import make_vae
from hvi_tf.training.steps import StepRunner

STEPS_PER_CALL = 10  # the default of --steps_per_call
_NEVER = 2**40


def noise_images(count: int, x_dim: int) -> np.ndarray:
    """Returns images `[count, x_dim]` of 8 bits, about as dark as MNIST."""
    drawn = np.random.default_rng(0).random((count, x_dim), np.float32)
    return np.where(drawn < 0.2, 255, 0).astype(np.uint8)


class Step:
    """The compiled step of a cell with its input pipeline."""

    def __init__(self, cell: Cell) -> None:
        self.cell, self.config = cell, cell.config
        self.model = make_vae(self.config, cell.x_dim)  # kept, because it has to outlive its graphs
        self.model.set_run_length(_NEVER)
        self.batches = self._batches()
        self._runner = StepRunner(self.model)
        self(2)

    def _batches(self) -> Iterator[tf.Tensor]:
        t, likelihood = self.config.training, self.config.model.likelihood
        images = noise_images(max(2_000, 2 * t.batch_size), self.cell.x_dim)
        return iter(
            pipeline.training_batches(
                images, t.batch_size, t.seed, 0, _NEVER, likelihood=likelihood
            )
        )

    def __call__(self, steps: int) -> None:
        """Runs `steps` steps, several in a call as in training."""
        while steps > 0:
            self._runner(self.batches, min(steps, STEPS_PER_CALL))
            steps -= STEPS_PER_CALL

    def one_by_one(self, steps: int) -> None:
        """Runs `steps` steps, each as a separate call."""
        for _ in range(steps):
            self._runner(self.batches, 1)

    def next_batches(self, count: int) -> None:
        """Reads `count` batches of the input."""
        for _ in range(count):
            next(self.batches)

    def batch(self) -> tf.Tensor:
        """Returns a batch `[B, x_dim]`."""
        return next(self.batches)

    def count(self) -> Operations:
        """Returns the operations of a step."""
        shape = [self.config.training.batch_size, self.cell.x_dim]
        step = tf.function(self.model.train_step)
        return operations.count(step.get_concrete_function(tf.TensorSpec(shape)))
