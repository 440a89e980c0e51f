"""Checkpoints: the last few to resume from, and the best one to evaluate."""

import pathlib
import re
from collections.abc import Callable

import tensorflow as tf

from hvi_tf import distribution, files
from hvi_tf.errors import UserError
from hvi_tf.models.vae import VAE
from hvi_tf.workdir import Workdir

KEEP = 3


class Checkpoints:
    """Saves and restores weights, optimizer, step and best validation bound.

    Seeds are folded from the step, so this is the whole state of a run.

    Args:
        model: compiled.
        workdir: of the run.
        warn: called with one line for each damaged checkpoint that is passed over.
    """

    def __init__(self, model: VAE, workdir: Workdir, warn: Callable[[str], None] = print) -> None:
        self._workdir, self._warn = workdir, warn
        self._step = model.optimizer.iterations
        self.best_bound = tf.Variable(-float("inf"), trainable=False, dtype=tf.float64)
        # The variables one by one: TensorFlow does not see the layers in a Keras layer's lists.
        weights = {
            name: [v.value for v in layer.variables] for name, layer in model.networks.items()
        }
        self._checkpoint = tf.train.Checkpoint(
            **weights,
            optimizer=model.optimizer,
            best_bound=self.best_bound,
        )
        # TensorFlow's own, made when first asked for: all workers make a variable together.
        _ = self._checkpoint.save_counter
        self._latest = tf.train.CheckpointManager(
            self._checkpoint, str(workdir.checkpoints), max_to_keep=KEEP
        )
        self._best = tf.train.CheckpointManager(self._checkpoint, str(workdir.best), max_to_keep=1)
        # Of the best checkpoint, 0 before there is one. Counted here: whether training ends is
        # decided by it, and a worker may look into the folder before the chief has written.
        self.best_step = max(_steps(workdir.best), default=0)

    def save(self) -> None:
        """Saves the current step atomically."""
        self._save(self._latest, self._workdir.checkpoints)

    def save_if_best(self, validation_bound: float) -> bool:
        """Saves beside the others if the bound is the best so far."""
        if not validation_bound > float(self.best_bound.numpy()):
            return False
        self.best_bound.assign(validation_bound)
        self.best_step = self._current_step
        self._save(self._best, self._workdir.best)
        return True

    def restore_latest(self) -> int:
        """Restores the newest intact checkpoint and returns its step; 0 if there is none.

        Raises:
            UserError: if there are checkpoints but all are damaged.
        """
        step = self._restore(self._workdir.checkpoints) or 0
        distribution.check_same("checkpoints, of steps", step)
        return step

    def restore_best(self) -> int:
        """Restores the best checkpoint, or else the latest, and returns its step.

        Raises:
            UserError: if there is none.
        """
        step = None
        try:
            step = self._restore(self._workdir.best)
        except UserError as error:
            self._warn(f"warning: {error}; using the latest checkpoint instead")
        step = step or self.restore_latest()
        if not step:
            raise UserError(
                f"--workdir={self._workdir.path}: no checkpoint yet; train it first (--mode=train)"
            )
        return step

    @property
    def _current_step(self) -> int:
        return int(self._step.numpy())  # which, unlike int(), replicas have as well

    def _save(self, manager: tf.train.CheckpointManager, folder: pathlib.Path) -> None:
        if not distribution.is_chief():
            return
        try:
            manager.save(checkpoint_number=self._current_step)
        except (tf.errors.OpError, OSError) as error:
            raise files.write_error(folder, error) from error

    def _restore(self, folder: pathlib.Path) -> int | None:
        paths = _steps(folder)
        for step in sorted(paths, reverse=True):
            try:
                status = self._checkpoint.read(paths[step]).expect_partial()
                status.assert_existing_objects_matched()
            except Exception as error:  # damaged bytes come to light in many ways
                reason = (str(error).splitlines() or ["unknown"])[0][:120]
                if isinstance(error, AssertionError):
                    reason = "it lacks variables: another version of this package wrote it"
                self._warn(f"warning: checkpoint {paths[step]} is damaged ({reason})")
                continue
            if self._current_step == step:
                return step
            self._warn(f"warning: checkpoint {paths[step]} holds step {self._current_step}")
        if paths:
            raise UserError(
                f"{folder}: every checkpoint there is damaged; restore it or begin anew"
            )
        return None


def _steps(folder: pathlib.Path) -> dict[int, str]:
    """The checkpoints in a folder by their step.

    The folder is read rather than TensorFlow's list of its content, so that a damaged list
    loses nothing.
    """
    return {
        int(match[1]): str(file.with_suffix(""))
        for file in folder.glob("ckpt-*.index")
        if (match := re.fullmatch(r"ckpt-(\d+)\.index", file.name))
    }
