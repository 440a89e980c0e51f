"""What --on_nonfinite says is to be done with a step that is not finite."""

import tensorflow as tf

from hvi_tf.config.config import Config
from hvi_tf.data import pipeline
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError
from hvi_tf.models.vae import VAE
from hvi_tf.storage.workdir import Workdir
from hvi_tf.training import nonfinite
from hvi_tf.training.checkpoints import Checkpoints

MAX_IN_EPOCH = 10  # after which no policy goes on


def advice(workdir: Workdir) -> str:
    """What a training leaves that is stopped, and what to try."""
    kept = "no checkpoint yet"
    if workdir.checkpoints.exists():
        kept = f"the checkpoints in {workdir.checkpoints} are from before"
    return f"training stopped, {kept}; try a smaller --learning_rate or a warm-up"


class Recovery:
    """Stops a training, skips the step, or rolls back to the last checkpoint.

    A step is a function of the weights, its images and its seed, so the same step with the same
    weights would fail again. Both policies go on behind it: `skip` with the weights that it
    found, `rollback` with older ones, where it is the weights that have gone astray.

    Args:
        config: of the run.
        model: that is trained.
        data: what it is trained on.
        workdir: where the step is dumped.
        checkpoints: what to roll back to.
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
        """Dumps a step and goes on behind it; returns a line that says so.

        Args:
            metrics: of the step, not all finite.
            number: of the step, from 1.

        Raises:
            UserError: if the policy is to stop, or is of no use.
        """
        model, policy = self._model, self._config.training.on_nonfinite
        step = self._step(number)
        finding = nonfinite.examine(model, step, metrics)
        what = f"step {number}: {finding}; {nonfinite.dump(model, step, finding, self._workdir)}"
        state = self._checkpoints.state
        state.not_finite += 1
        too_many = state.not_finite > MAX_IN_EPOCH
        if policy == "stop" or too_many or (policy == "skip" and finding.of_weights):
            count = f"; {state.not_finite} such steps in this epoch" * too_many
            other = "" if policy == "rollback" else " or --on_nonfinite=rollback"
            raise UserError(f"{what}{count}; {advice(self._workdir)}{other}")
        done = "skipped"
        if policy == "rollback":
            found = self._checkpoints.roll_back()
            model.set_schedule(*step.schedule)
            done = f"going on with the weights of step {found}"
        model.optimizer.iterations.assign(number)
        return f"warning: {what}; {done}"

    def _step(self, number: int) -> nonfinite.Step:
        t, images = self._config.training, self._images
        index = tf.constant(number - 1, tf.int64)
        rows = pipeline.training_rows(len(images), t.batch_size, t.seed, index).numpy()
        batch = pipeline.observe_step(
            tf.constant(images[rows]), self._config.model.likelihood, t.seed, index
        )
        epoch = (number - 1) // pipeline.steps_per_epoch(len(images), t.batch_size)
        return nonfinite.Step(number, batch, rows, self._config.schedule(epoch))
