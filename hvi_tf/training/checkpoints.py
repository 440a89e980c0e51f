"""Checkpoints: the latest few to resume from, some to keep, and the best one to evaluate."""

import math
import pathlib
from collections.abc import Callable

import tensorflow as tf

from hvi_tf.config import identity
from hvi_tf.errors import UserError, first_line
from hvi_tf.models.vae import VAE
from hvi_tf.runtime import replicas
from hvi_tf.storage import files
from hvi_tf.storage.workdir import Workdir
from hvi_tf.training import checkpoint_files
from hvi_tf.training.state import TrainingState


class Checkpoints:
    """Saves and restores weights, their averages, optimizer, step and best validation bound.

    Seeds are folded from the step, so these and `state` are all that a resumed run needs. A
    damaged checkpoint is skipped with a warning, and the one before it is restored.

    Args:
        model: the compiled model.
        workdir: the run's workdir.
        warn: called with one line for each damaged checkpoint.
        keep: returns whether the checkpoint of a step is kept when newer ones are saved.
        regular: returns whether an uninterrupted run also saves a checkpoint at a step. Only
            such a checkpoint is rolled back to, so that an interruption changes no result.
    """

    def __init__(
        self,
        model: VAE,
        workdir: Workdir,
        warn: Callable[[str], None] = print,
        keep: Callable[[int], bool] = lambda step: False,
        regular: Callable[[int], bool] = lambda step: True,
    ) -> None:
        self._workdir, self._warn = workdir, warn
        self._keep, self._regular = keep, regular
        self._run = identity.identity_digest(workdir.config)
        self._model, self._step = model, model.optimizer.iterations
        self._restored: int | None = None  # the step that the run resumed from
        self._reported: set[pathlib.Path] = set()  # damaged checkpoints with a warning
        self.state = TrainingState()
        self.best_bound = tf.Variable(-float("inf"), trainable=False, dtype=tf.float64)
        # Variables one by one, because TensorFlow does not track layers in a Keras layer's lists.
        tensors = {
            **{name: [v.value for v in layer.variables] for name, layer in model.networks.items()},
            "optimizer": model.optimizer,
            "best_bound": self.best_bound,
        }
        if model.tau_optimizer is not None:
            tensors["tau_optimizer"] = model.tau_optimizer
        variables = [v for network in model.networks.values() for v in network.variables]
        self._weights = sum(math.prod(v.shape) for v in variables)
        self._checkpoint = tf.train.Checkpoint(**tensors, state=self.state)

    def save(self) -> None:
        """Saves the current step, unless the run was just restored from its checkpoint."""
        if self._current_step == self._restored:
            return
        newest = self._workdir.config.training.keep_checkpoints

        def kept(steps: list[int]) -> set[int]:
            regular = [step for step in steps if self._regular(step)]
            return {*steps[-newest:], *regular[-1:], *filter(self._keep, steps)}

        self._save(self._workdir.checkpoints, kept)

    def save_if_best(self, validation_bound: float) -> bool:
        """Saves the best checkpoint if the bound exceeds all earlier ones; returns whether."""
        if not validation_bound > float(self.best_bound.numpy()):
            return False
        self.best_bound.assign(validation_bound)
        # Stored here and not read from the folder, which the chief may not have written yet.
        self.state.best_step = self._current_step
        self._save(self._workdir.best, lambda steps: {steps[-1]})
        return True

    def restore_latest(self) -> int:
        """Restores the newest sound checkpoint and returns its step; 0 if there are none.

        Raises:
            UserError: if all checkpoints are damaged.
        """
        self._restored = self._restore(self._workdir.checkpoints)
        step = self._restored or 0
        replicas.check_same("checkpoints, of steps", step)
        return step

    def roll_back(self) -> int:
        """Restores weights and optimizer from the newest regular checkpoint, but not its step.

        Returns:
            The step of that checkpoint.

        Raises:
            UserError: if there is none.
        """
        step, best_bound = self._current_step, self.best_bound.numpy()
        state = self.state.serialize()
        restored = self._restore(self._workdir.checkpoints, self._regular)
        if restored is None:
            raise UserError(f"{self._workdir.checkpoints}: no checkpoint there to roll back to")
        replicas.check_same("checkpoints, of steps", restored)
        self._step.assign(step)
        self.best_bound.assign(best_bound)
        self.state.deserialize(state)
        return restored

    def restore_best(self) -> int:
        """Restores the best checkpoint, or else the latest with a warning; returns its step.

        The model gets the averages of its weights if the optimizer keeps any, because
        validation chose the best step by them.

        Raises:
            UserError: if there is no sound checkpoint.
        """
        best = self._workdir.best
        step = self._restore_sound(best) or self._restore_best_of_latest() or self.restore_latest()
        if not step and checkpoint_files.steps(best):
            raise _all_damaged(best)
        if not step:
            raise UserError(
                f"--workdir={self._workdir.path}: no checkpoint yet; train it first (--mode=train)"
            )
        self._model.take_averages()
        return step

    def _restore_best_of_latest(self) -> int | None:
        """Restores the best step from the checkpoints to resume from, if one of them has it."""
        latest = self.restore_latest()  # its state holds the best step
        best = self.state.best_step
        if self.best_bound.numpy() == -math.inf:
            return latest or None  # because no validation has chosen a best step yet
        if self._restore_sound(self._workdir.checkpoints, lambda step: step == best):
            return best
        if latest:
            self._warn(
                f"warning: using the latest checkpoint, of step {latest}, not the best one, "
                f"of step {best}"
            )
        return None

    @property
    def _current_step(self) -> int:
        return int(self._step.numpy())  # int() alone fails for a variable of several replicas

    def _save(self, folder: pathlib.Path, kept: Callable[[list[int]], set[int]]) -> None:
        """Writes the current step; `kept` chooses the steps to keep among those up to it."""
        if not replicas.is_chief():
            return
        self._workdir.check()
        step = self._current_step
        try:
            folder.mkdir(exist_ok=True)
            checkpoint_files.write(self._checkpoint, folder, step, self._run)
            steps = [s for s in sorted(checkpoint_files.steps(folder)) if s <= step]
            checkpoint_files.remove_except(folder, kept(steps))
        except (tf.errors.OpError, OSError, UserError) as error:
            self._workdir.check()  # a deleted folder must not be reported as a full disk
            if isinstance(error, UserError):
                raise
            raise files.write_error(folder, error) from error

    def _restore(
        self, folder: pathlib.Path, wanted: Callable[[int], bool] = lambda step: True
    ) -> int | None:
        """Restores the newest sound checkpoint of a wanted step; None if there is no such step.

        Raises:
            UserError: if all of them are damaged.
        """
        step = self._restore_sound(folder, wanted)
        if step is None and any(map(wanted, checkpoint_files.steps(folder))):
            raise _all_damaged(folder)
        return step

    def _restore_sound(
        self, folder: pathlib.Path, wanted: Callable[[int], bool] = lambda step: True
    ) -> int | None:
        """Restores the newest sound checkpoint of a wanted step; None if there is none."""
        paths = checkpoint_files.steps(folder)
        for step in filter(wanted, sorted(paths, reverse=True)):
            damage = self._try_to_restore(paths[step], step)
            if damage is None:
                return step
            if paths[step] not in self._reported:
                self._reported.add(paths[step])
                self._warn(f"warning: checkpoint {paths[step]} is damaged ({damage})")
        return None

    def _try_to_restore(self, prefix: pathlib.Path, step: int) -> str | None:
        """Restores a checkpoint; returns the reason if that fails."""
        try:
            checkpoint_files.verify(prefix, step, self._run, self._weights)
            status = self._checkpoint.read(str(prefix)).expect_partial()
            status.assert_existing_objects_matched()
        except AssertionError:
            return "it lacks variables: another version of this package wrote it"
        except Exception as error:  # because damaged bytes raise many types of error
            return first_line(error)[:120]
        if self._current_step != step:
            return f"it holds step {self._current_step}"
        return None


def _all_damaged(folder: pathlib.Path) -> UserError:
    return UserError(
        f"{folder}: every checkpoint there is damaged; restore one, or delete that folder"
    )
