"""The folder of one run: its configuration, its lock, and where everything lies."""

import contextlib
import dataclasses
import pathlib
import shutil
import time
from collections.abc import Iterator

from hvi_tf import files
from hvi_tf.config import Config, differences
from hvi_tf.errors import UserError
from hvi_tf.locks import Lock

MIN_FREE_BYTES = 256 * 2**20


def new_path(config: Config, root: str = "runs") -> pathlib.Path:
    """A readable name that no run has yet, such as `runs/mnist-iwhvi-K50-seed0-20261122-0915`."""
    m = config.method
    counts = "".join(
        f"-{name}{getattr(m, name)}" for name in ("K", "M") if getattr(config.row, name).free
    )
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"{config.data.dataset}-{m.bound}{counts}-seed{config.training.seed}-{stamp}"
    return pathlib.Path(root) / name


class Workdir:
    """An open workdir, locked by the process that writes. See the functions below."""

    def __init__(self, path: pathlib.Path, config: Config, lock: Lock | None) -> None:
        self.path = path
        self.config = config
        self._lock = lock

    @property
    def checkpoints(self) -> pathlib.Path:
        """The last few checkpoints, to resume from."""
        return self.path / "checkpoints"

    @property
    def best(self) -> pathlib.Path:
        """The checkpoint with the best validation bound."""
        return self.path / "best"

    @property
    def tensorboard(self) -> pathlib.Path:
        """Event files."""
        return self.path / "tensorboard"

    @property
    def evaluation(self) -> pathlib.Path:
        """Per-image scores and their summaries."""
        return self.path / "evaluation"

    @property
    def saved_model(self) -> pathlib.Path:
        """The exported SavedModel."""
        return self.path / "saved_model"

    def check(self) -> None:
        """Raises `UserError` if the folder has gone or been replaced since it was opened."""
        if self._lock is not None:
            self._lock.check()

    def close(self) -> None:
        """Gives the workdir free for another run."""
        if self._lock is not None:
            self._lock.close()


def reconcile(path: pathlib.Path, config: Config) -> Config:
    """The configuration to go on with when `config` is asked for in the workdir `path`.

    Settings that are no part of a run's identity may have changed, and epochs may have
    grown. `--jit_compile=auto` and an unknown data file take what the run began with.

    Raises:
        UserError: if the workdir holds another run; lists what differs.
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

    Args:
        path: of the workdir.
        config: of the run.
        writes: whether this process is the one that writes; it has to come first.

    Raises:
        UserError: if it holds another run, is in use, or cannot be written.
    """
    if not writes:
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
    config = reconcile(path, config)
    files.write_atomically(path / "config.json", config.to_json())
    return Workdir(path, config, lock)


def open_existing(path: pathlib.Path, writes: bool = True) -> Workdir:
    """Opens a run's workdir with the configuration stored in it.

    Args:
        path: of the workdir.
        writes: whether this process is the one that writes, and so has the lock.

    Raises:
        UserError: if there is no run, or it is in use.
    """
    config = _read_config(path)
    if config is None:
        raise UserError(f"--workdir={path}: no config.json there; name the workdir of a run")
    return Workdir(path, config, Lock(path) if writes else None)


def _read_config(path: pathlib.Path) -> Config | None:
    file = path / "config.json"
    if not file.exists():
        return None
    try:
        return Config.from_json(file.read_text())
    except (OSError, ValueError, AttributeError, TypeError, UserError) as error:
        raise UserError(
            f"--workdir={path}: cannot read {file} ({error}); restore it or name another --workdir"
        ) from error


@contextlib.contextmanager
def locked(path: pathlib.Path, flag: str) -> Iterator[None]:
    """Makes a folder and keeps it for this process while entered.

    Raises:
        UserError: naming `flag`, if another process has it or it cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.write_error(path, error) from error
    with Lock(path, flag):
        yield
