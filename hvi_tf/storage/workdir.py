"""The folder of one run: its configuration, its lock, and the paths of its files."""

import contextlib
import dataclasses
import pathlib
import shutil
import time
from collections.abc import Iterator

from hvi_tf.config.config import PROVENANCE, Config
from hvi_tf.config.identity import differences, identity_digest
from hvi_tf.errors import UserError
from hvi_tf.storage import files, origins
from hvi_tf.storage.locks import Lock

MIN_FREE_BYTES = 256 * 2**20
# The folders of a run.
_FOLDERS = ("checkpoints", "best", "tensorboard", "evaluation", "nonfinite", "saved_model")


def new_path(config: Config, root: str = "runs") -> pathlib.Path:
    """Returns an unused readable path, such as `runs/mnist-iwhvi-K50-seed0-20261122-091500`."""
    m = config.method
    counts = "".join(
        f"-{name}{getattr(m, name)}"
        for name in ("K", "M")
        if getattr(config.chosen_method, name).free
    )
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"{config.data.dataset}-{m.bound}{counts}-seed{config.training.seed}-{stamp}"
    path = pathlib.Path(root) / name
    number = 2
    while path.exists():  # of the same second, or from before the clock was set back
        path = pathlib.Path(root) / f"{name}-{number}"
        number += 1
    return path


class Workdir:
    """An open workdir, locked by the process that writes into it."""

    def __init__(self, path: pathlib.Path, config: Config, lock: Lock | None) -> None:
        self.path = path
        self.config = config
        self._lock = lock

    @property
    def checkpoints(self) -> pathlib.Path:
        """The folder of the latest checkpoints, from which a run resumes."""
        return self.path / "checkpoints"

    @property
    def best(self) -> pathlib.Path:
        """The folder of the checkpoint with the best validation bound."""
        return self.path / "best"

    @property
    def tensorboard(self) -> pathlib.Path:
        """The folder of TensorBoard event files."""
        return self.path / "tensorboard"

    @property
    def metrics(self) -> pathlib.Path:
        """The file with the scalars of TensorBoard, one line of JSON per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def evaluation(self) -> pathlib.Path:
        """The folder of per-image scores and their summaries."""
        return self.path / "evaluation"

    @property
    def saved_model(self) -> pathlib.Path:
        """The folder of the exported SavedModel."""
        return self.path / "saved_model"

    def check(self) -> None:
        """Raises `UserError` if the folder was removed or replaced since it was opened."""
        if self._lock is not None:
            self._lock.check()

    def close(self) -> None:
        """Releases the lock of the workdir."""
        if self._lock is not None:
            self._lock.close()


def reconcile(path: pathlib.Path, config: Config) -> Config:
    """Returns the configuration with which a run in `path` continues when `config` is given.

    Settings outside the identity of a run may change, and the epochs may grow.
    `--jit_compile=auto`, an unknown data file and the epochs of `--minutes` take the stored
    values.

    Raises:
        UserError: if the workdir holds another run; the message lists the differences.
    """
    stored = _read_config(path)
    if stored is None:
        return config
    if config.training.jit_compile == "auto":
        jit = stored.training.jit_compile
        training = dataclasses.replace(config.training, jit_compile=jit)
        config = dataclasses.replace(config, training=training)
    if not config.data.data_digest:
        data = dataclasses.replace(config.data, data_digest=stored.data.data_digest)
        config = dataclasses.replace(config, data=data)
    if 0 < config.training.minutes == stored.training.minutes:  # the epochs were planned before
        training = dataclasses.replace(config.training, epochs=stored.training.epochs)
        config = dataclasses.replace(config, training=training)
    changes = differences(stored, config)
    if changes:
        raise UserError(
            f"--workdir={path} holds another configuration: {'; '.join(changes)}; "
            "name another --workdir, or repeat its flags"
        )
    return config


def check_not_in_use(path: pathlib.Path) -> None:
    """Raises `UserError` if another process runs in an existing workdir."""
    if (path / "config.json").exists():
        Lock(path).close()


def create_or_open(path: pathlib.Path, config: Config, writes: bool = True) -> Workdir:
    """Makes the workdir of a run, or opens it again, and stores the configuration.

    Also stores the provenance of the numbers, once for each command that continued the run on
    another machine, or with other versions or flags.

    Args:
        path: path of the workdir.
        config: configuration of the run.
        writes: whether this process writes into the workdir. That process must call first.

    Raises:
        UserError: if the workdir holds another run, a run on other data, or files of another
            program. The error also means that it is in use, is damaged or cannot be written, or
            that a folder in it is a link.
    """
    if not writes:
        origins.check_same_data(path, config)
        return open_existing(path, writes=False)
    try:
        path.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path).free
    except OSError as error:
        raise files.write_error(path, error) from error
    if free < MIN_FREE_BYTES:
        raise UserError(
            f"--workdir={path}: {free >> 20} MB free on that disk; a run needs "
            f"{MIN_FREE_BYTES >> 20} MB: free some space or name another --workdir"
        )
    lock = Lock(path)
    try:
        _check_links(path)
        config = reconcile(path, config)
        _check_own(path, config)
        origins.check_same_data(path, config)
        stored = {**dataclasses.asdict(config), PROVENANCE: origins.updated(path, config)}
        files.write_json(path / "config.json", stored)
        workdir = Workdir(path, config, lock)
        _remove_leftovers(workdir)
        return workdir
    except BaseException:
        lock.close()
        raise


def _check_links(path: pathlib.Path) -> None:
    """Raises `UserError` if a folder of the run is a link."""
    for name in _FOLDERS:
        if (path / name).is_symlink():
            raise UserError(
                f"--workdir={path}: {name} is a link, and a run writes into its own folder only; "
                "replace the link by a folder, or make the whole --workdir a link"
            )


def _check_own(path: pathlib.Path, config: Config) -> None:
    """Raises `UserError` if config.json is missing and the files are not those of this run."""
    if (path / "config.json").exists():
        return
    runs = set()
    for manifest in (path / "checkpoints").glob("ckpt-*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            runs.add(files.read_json(manifest)["run"])
    if runs - {identity_digest(config)}:
        raise UserError(
            f"--workdir={path}: config.json is missing, and the checkpoints belong to a run "
            "with other flags; repeat those flags, or name another --workdir"
        )
    taken = [name for name in (*_FOLDERS, "metrics.jsonl") if (path / name).exists()]
    if taken and not runs:
        raise UserError(
            f"--workdir={path}: config.json is missing, so no run has made {', '.join(taken)} "
            "there; name another --workdir"
        )


def _remove_leftovers(workdir: Workdir) -> None:
    """Removes unfinished files of killed processes; this process must hold the lock."""
    files.restore_folder(workdir.saved_model)
    for folder in (workdir.path, *(workdir.path / name for name in _FOLDERS)):
        files.remove_leftovers(folder)


def open_existing(path: pathlib.Path, writes: bool = True) -> Workdir:
    """Opens the workdir of a run with the configuration stored in it.

    Args:
        path: path of the workdir.
        writes: whether this process writes into the workdir. It then takes the lock, and
            removes unfinished files of a killed process.

    Raises:
        UserError: if the workdir holds no run, is damaged or in use, or if a folder in it is a
            link.
    """
    config = _read_config(path)
    if config is None:
        raise UserError(f"--workdir={path}: no config.json there; name the workdir of a run")
    if not writes:
        return Workdir(path, config, None)
    lock = Lock(path)
    try:
        _check_links(path)
    except UserError:
        lock.close()
        raise
    workdir = Workdir(path, config, lock)
    _remove_leftovers(workdir)
    return workdir


def _read_config(path: pathlib.Path) -> Config | None:
    """Returns the stored configuration, or None if there is none.

    Raises:
        UserError: if it cannot be read.
    """
    file = path / "config.json"
    if not file.exists():
        return None
    try:
        return Config.from_json(files.read_text(file, files.MAX_JSON))
    except (OSError, ValueError, UserError) as error:
        raise origins.unreadable(path, error) from error


@contextlib.contextmanager
def locked(path: pathlib.Path, flag: str) -> Iterator[None]:
    """Makes a folder and holds its lock while entered.

    Raises:
        UserError: if another process holds the lock, or the folder cannot be written. The
            message names `flag`.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.write_error(path, error) from error
    with Lock(path, flag):
        yield
