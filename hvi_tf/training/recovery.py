"""The policies of `--on_nonfinite` for a training step that is not finite."""

import tensorflow as tf

from hvi_tf.config.config import Config
from hvi_tf.data import pipeline
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError
from hvi_tf.models.vae import VAE
from hvi_tf.storage.workdir import Workdir
from hvi_tf.training import nonfinite
from hvi_tf.training.checkpoints import Checkpoints

MAX_IN_EPOCH = 10  # every policy stops after more


def advice(workdir: Workdir) -> str:
    """Returns where a stopped training left its checkpoints, and what to try next."""
    kept = "no checkpoint yet"
    if workdir.checkpoints.exists():
        kept = f"the checkpoints in {workdir.checkpoints} are from earlier steps"
    return f"training stopped, {kept}; try a smaller --learning_rate or a warm-up"


class Recovery:
    """Stops a training, skips the step, or rolls back to the last checkpoint.

    A step is a function of the weights, its images and its seed, so the same step with the same
    weights would fail again. Both other policies continue with the next step: `skip` with the
    weights before the failed one, `rollback` with those of a checkpoint, in case the weights
    have diverged.

    Args:
        config: the run's configuration.
        model: the model in training.
        data: the images that it is trained on.
        workdir: the run's workdir; a dump of the step is stored in it.
        checkpoints: the run's checkpoints, to roll back to.
    """

    def __init__(
        self,
        config: Config,
        model: VAE,
        data: Dataset,
        workdir: Workdir,
        checkpoints: Checkpoints,
    ) -> None:
        self._config, self._model, self._images = config, model, data.train
        self._workdir, self._checkpoints = workdir, checkpoints

    def recover(self, metrics: dict[str, float], number: int) -> str:
        """Dumps a step and prepares the next one; returns a warning with the step and its cause.

        Args:
            metrics: the step's metrics, not all finite.
            number: number of the step, from 1.

        Raises:
            UserError: if the policy is `stop`, or cannot help.
        """
        model, policy = self._model, self._config.training.on_nonfinite
        step = self._step(number)
        finding = nonfinite.examine(model, step, metrics)
        report = f"step {number}: {finding}; {nonfinite.dump(model, step, finding, self._workdir)}"
        state = self._checkpoints.state
        state.not_finite += 1
        too_many = state.not_finite > MAX_IN_EPOCH
        if policy == "stop" or too_many or (policy == "skip" and finding.of_weights):
            count = f"; {state.not_finite} such steps in this epoch" * too_many
            other = "" if policy == "rollback" else " or --on_nonfinite=rollback"
            raise UserError(f"{report}{count}; {advice(self._workdir)}{other}")
        done = "skipped"
        if policy == "rollback":
            restored = self._checkpoints.roll_back()
            model.set_schedule(*step.schedule)
            done = f"continuing with the weights of step {restored}"
        model.optimizer.iterations.assign(number)
        return f"warning: {report}; {done}"

    def _step(self, number: int) -> nonfinite.Step:
        t, images = self._config.training, self._images
        index = tf.constant(number - 1, tf.int64)
        rows = pipeline.training_rows(len(images), t.batch_size, t.seed, index).numpy()
        batch = pipeline.observe_step(
            tf.constant(images[rows]), self._config.model.likelihood, t.seed, index
        )
        epoch = (number - 1) // pipeline.steps_per_epoch(len(images), t.batch_size)
        return nonfinite.Step(number, batch, rows, self._config.schedule(epoch))
