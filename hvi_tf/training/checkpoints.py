"""Checkpoints: the last few to resume from, some to keep, and the best one to evaluate."""

import contextlib
import math
import os
import pathlib
import re
from collections.abc import Callable

import tensorflow as tf

from hvi_tf.config import identity
from hvi_tf.errors import UserError, first_line
from hvi_tf.models.vae import VAE
from hvi_tf.runtime import replicas as distribution
from hvi_tf.storage import files
from hvi_tf.storage.workdir import Workdir
from hvi_tf.training.state import TrainingState

_SUFFIXES = (".data-00000-of-00001", ".index")  # of TensorFlow's files
_OVERHEAD = 64 * 2**20  # bytes of a file besides weights and optimizer, far above any
_OF_CHECKPOINT = re.compile(rf"ckpt-(\d+)({'|'.join(map(re.escape, (*_SUFFIXES, '.json')))})")
# In the object graph of a checkpoint; runs of version 0.1 have none.
_STATE = "state/.ATTRIBUTES/py_state"  # as TensorFlow spells it


class Checkpoints:
    """Saves and restores weights, their averages, optimizer, step and best validation bound.

    Seeds are folded from the step, so with `state` this is the whole of a run.

    Beside the files of `ckpt-N` lies `ckpt-N.json`, with the run that it belongs to and their
    digests. It is believed: a checkpoint that differs from it is passed over for the one before.

    Args:
        model: compiled.
        workdir: of the run.
        warn: called with one line for each damaged checkpoint that is passed over.
        keep: whether the checkpoint of a step is to stay when newer ones come.
        regular: whether an uninterrupted run, too, has a checkpoint of a step: one that can be
            rolled back to, if that is not to depend on interruptions.
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
        self._restored: int | None = None  # the step from which the run goes on
        self.state = TrainingState()
        self.best_bound = tf.Variable(-float("inf"), trainable=False, dtype=tf.float64)
        # The variables one by one: TensorFlow does not see the layers in a Keras layer's lists.
        tensors = {
            **{name: [v.value for v in layer.variables] for name, layer in model.networks.items()},
            "optimizer": model.optimizer,
            "best_bound": self.best_bound,
        }
        if model.tau_optimizer is not None:
            tensors["tau_optimizer"] = model.tau_optimizer
        weights = (math.prod(v.shape) for net in model.networks.values() for v in net.variables)
        # Float32, with their averages and three moments for each of two optimizers.
        self._most = _OVERHEAD + 32 * sum(weights)
        self._checkpoint = tf.train.Checkpoint(**tensors, state=self.state)
        self._without_state = tf.train.Checkpoint(**tensors)

    def save(self) -> None:
        """Saves the current step."""
        if self._current_step == self._restored:
            return  # as it is there, sound
        newest = self._workdir.config.training.keep_checkpoints

        def stays(steps: list[int]) -> set[int]:
            regular = [step for step in steps if self._regular(step)]
            return {*steps[-newest:], *regular[-1:], *filter(self._keep, steps)}

        self._save(self._workdir.checkpoints, stays)

    def save_if_best(self, validation_bound: float) -> bool:
        """Saves beside the others if the bound is the best so far."""
        if not validation_bound > float(self.best_bound.numpy()):
            return False
        self.best_bound.assign(validation_bound)
        # Of the run and not of the folder: a worker may look into that before the chief writes.
        self.state.best_step = self._current_step
        self._save(self._workdir.best, lambda steps: {steps[-1]})
        return True

    def restore_latest(self) -> int:
        """Restores the newest sound checkpoint and returns its step; 0 if there is none.

        Raises:
            UserError: if there are checkpoints but all are damaged.
        """
        self._restored = self._restore(self._workdir.checkpoints)
        step = self._restored or 0
        distribution.check_same("checkpoints, of steps", step)
        return step

    def roll_back(self) -> int:
        """Takes weights and optimizer of the newest regular checkpoint; all else stays.

        Returns:
            The step of that checkpoint, which is not taken.

        Raises:
            UserError: if there is none.
        """
        step, best_bound = self._current_step, self.best_bound.numpy()
        state = self.state.serialize()
        found = self._restore(self._workdir.checkpoints, self._regular)
        if found is None:
            raise UserError(f"{self._workdir.checkpoints}: no checkpoint there to roll back to")
        distribution.check_same("checkpoints, of steps", found)
        self._step.assign(step)
        self.best_bound.assign(best_bound)
        self.state.deserialize(state)
        return found

    def restore_best(self) -> int:
        """Restores the best checkpoint, or else the latest with a warning; returns its step.

        The weights are their averages, where the optimizer makes any: they were validated.

        Raises:
            UserError: if there is none.
        """
        step = None
        try:
            step = self._restore(self._workdir.best)
        except UserError as error:
            self._warn(f"warning: {error}")
        step = step or self._best_of_the_others() or self.restore_latest()
        if not step:
            raise UserError(
                f"--workdir={self._workdir.path}: no checkpoint yet; train it first (--mode=train)"
            )
        self._model.take_averages()
        return step

    def _best_of_the_others(self) -> int | None:
        """Restores the best checkpoint from those to resume from, if it is among them."""
        latest = self.restore_latest()  # its state holds the best step
        best = self.state.best_step
        if self.best_bound.numpy() == -math.inf:
            return latest or None  # no validation has chosen one yet
        with contextlib.suppress(UserError):  # a warning has named the damaged one
            if self._restore(self._workdir.checkpoints, lambda step: step == best):
                return best
        if latest:
            named = f", of step {best}" if best else ""  # version 0.1 does not store it
            self._warn(
                f"warning: using the latest checkpoint, of step {latest}, not the best one{named}"
            )
        return None

    @property
    def _current_step(self) -> int:
        return int(self._step.numpy())  # which, unlike int(), replicas have as well

    def _save(self, folder: pathlib.Path, stays: Callable[[list[int]], set[int]]) -> None:
        """Writes the current step; of those up to it `stays` says which are to stay."""
        if not distribution.is_chief():
            return
        self._workdir.check()
        try:
            folder.mkdir(exist_ok=True)
            self._write(folder, f"ckpt-{self._current_step}")
            _sweep(folder, stays([s for s in sorted(_steps(folder)) if s <= self._current_step]))
        except (tf.errors.OpError, OSError, UserError) as error:
            self._workdir.check()  # a folder that has gone is no full disk
            if isinstance(error, UserError):
                raise
            raise files.write_error(folder, error) from error

    def _write(self, folder: pathlib.Path, name: str) -> None:
        """In a folder of its own first: TensorFlow fills its index where that stays."""
        with files.temporary_folder(folder / name) as place:
            self._checkpoint.write(str(place / name))
            parts = [place / f"{name}{suffix}" for suffix in _SUFFIXES]
            for part in parts:
                files.sync(part)
            digests = {part.name: files.digest(part) for part in parts}
            about = {"run": self._run, "step": self._current_step, "sha256": digests}
            (folder / f"{name}.index").unlink(missing_ok=True)  # one that is written again
            files.write_json(_manifest(folder / name), about)
            for part in parts:  # the index last: with it there is a checkpoint
                os.replace(part, folder / part.name)
        files.sync(folder)
        _tell_tensorflow(folder, name)

    def _restore(
        self, folder: pathlib.Path, wanted: Callable[[int], bool] = lambda step: True
    ) -> int | None:
        paths = {step: path for step, path in _steps(folder).items() if wanted(step)}
        for step in sorted(paths, reverse=True):
            damage = self._damage(paths[step], step)
            if damage is None:
                self._complete_state_of_version_01(step)
                return step
            self._warn(f"warning: checkpoint {paths[step]} is damaged ({damage})")
        if paths:
            raise UserError(
                f"{folder}: every checkpoint there is damaged; restore one, or delete that folder"
            )
        return None

    def _complete_state_of_version_01(self, step: int) -> None:
        """Its best checkpoint is known by its name alone."""
        if not self.state.restored:
            earlier = (s for s in _steps(self._workdir.best) if s <= step)
            self.state.best_step = max(earlier, default=0)

    def _damage(self, prefix: pathlib.Path, step: int) -> str | None:
        """Restores a checkpoint; what is wrong with it if that cannot be done."""
        try:
            self._verify(prefix, step)
            of_version_01 = not tf.train.load_checkpoint(str(prefix)).has_tensor(_STATE)
            if not (of_version_01 or _manifest(prefix).exists()):
                return f"{_manifest(prefix).name} is missing"
            self.state.restored = False
            known = self._without_state if of_version_01 else self._checkpoint
            status = known.read(str(prefix)).expect_partial()
            status.assert_existing_objects_matched()
        except AssertionError:
            return "it lacks variables: another version of this package wrote it"
        except Exception as error:  # damaged bytes come to light in many ways
            return first_line(error)[:120]
        if self._current_step != step:
            return f"it holds step {self._current_step}"
        return None

    def _verify(self, prefix: pathlib.Path, step: int) -> None:
        """Raises `ValueError` if the files are not those that were written under this name.

        Those of version 0.1 are not known; TensorFlow's own checksums hold for them.
        """
        manifest = _manifest(prefix)
        parts = [prefix.with_name(f"{prefix.name}{suffix}") for suffix in _SUFFIXES]
        files.check_regular((part for part in parts if part.exists()), self._most)
        if not manifest.exists():
            return
        about = files.read_json(manifest)
        if about["step"] != step:
            raise ValueError(f"its {manifest.name} is that of step {about['step']}")
        if about["run"] != self._run:
            raise ValueError("it is another run's")
        for file in parts:
            if not file.exists():
                raise ValueError(f"{file.name} is missing")
            digest, found = about["sha256"][file.name], files.digest(file)
            if found != digest:
                raise ValueError(f"{file.name} has SHA-256 {found[:8]}..., not {digest[:8]}...")


def _manifest(prefix: pathlib.Path) -> pathlib.Path:
    return prefix.with_name(f"{prefix.name}.json")


def _sweep(folder: pathlib.Path, stay: set[int]) -> None:
    """Removes the files of all other checkpoints, also of those that have no index."""
    for file in sorted(folder.glob("ckpt-*"), key=lambda file: file.suffix != ".index"):
        step = _OF_CHECKPOINT.fullmatch(file.name)
        if step and int(step[1]) not in stay and not file.is_dir():
            file.unlink(missing_ok=True)


def _tell_tensorflow(folder: pathlib.Path, name: str) -> None:
    """Lets `tf.train.latest_checkpoint` find it; nothing here reads that."""
    files.write_atomically(folder / "checkpoint", f'model_checkpoint_path: "{name}"\n')


def _steps(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """The checkpoints in a folder by their step.

    The folder is read rather than TensorFlow's list of its content, so that a damaged list
    loses nothing.
    """
    return {
        int(match[1]): file.with_suffix("")
        for file in folder.glob("ckpt-*.index")
        if (match := re.fullmatch(r"ckpt-(\d+)\.index", file.name))
    }
