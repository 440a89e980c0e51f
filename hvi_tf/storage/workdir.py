"""The folder of one run: its configuration, its lock, and where everything lies."""

import contextlib
import dataclasses
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

from hvi_tf.config.config import PROVENANCE, Config
from hvi_tf.config.identity import differences, identity_digest
from hvi_tf.errors import UserError
from hvi_tf.storage import files, provenance
from hvi_tf.storage.locks import Lock

MIN_FREE_BYTES = 256 * 2**20
MAX_ORIGINS = 100  # in a config.json
# The folders of a run.
_FOLDERS = ("checkpoints", "best", "tensorboard", "evaluation", "nonfinite", "saved_model")


def new_path(config: Config, root: str = "runs") -> pathlib.Path:
    """A readable name that no run has yet, such as `runs/mnist-iwhvi-K50-seed0-20261122-0915`."""
    m = config.method
    counts = "".join(
        f"-{name}{getattr(m, name)}" for name in ("K", "M") if getattr(config.row, name).free
    )
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"{config.data.dataset}-{m.bound}{counts}-seed{config.training.seed}-{stamp}"
    path = pathlib.Path(root) / name
    again = 2
    while path.exists():  # begun in the same second, or before the clock was set back
        path = pathlib.Path(root) / f"{name}-{again}"
        again += 1
    return path


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
    def metrics(self) -> pathlib.Path:
        """The scalars of TensorBoard, a line of JSON for each epoch."""
        return self.path / "metrics.jsonl"

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
    """Returns the configuration to go on with when `config` is asked for in the workdir `path`.

    Settings that are no part of a run's identity may have changed, and epochs may have
    grown. `--jit_compile=auto`, an unknown data file, the epochs of `--minutes` and settings that
    the run does not use take what the run began with.

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
    if 0 < config.training.minutes == stored.training.minutes:  # it was planned once
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

    With it goes where its numbers come from (`provenance`), once for each command that went on
    with it elsewhere, or with other versions or flags.

    Args:
        path: of the workdir.
        config: of the run.
        writes: whether this process is the one that writes; it has to come first.

    Raises:
        UserError: if it holds another run, one on other data, or what no run has made; is in
            use; has a folder that is a link; or cannot be written.
    """
    if not writes:
        check_same_data(path, config)
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
        origins = _origins(path)
        now = {**provenance.record(config.data), "flags": sys.argv[1:]}
        check_same_data(path, config)
        if not origins or _undated(origins[-1]) != _undated(now):
            origins = [*origins[:1], *origins[1:][2 - MAX_ORIGINS :], now]  # the first, the last
        stored = {**dataclasses.asdict(config), PROVENANCE: origins}
        files.write_json(path / "config.json", stored)
        workdir = Workdir(path, config, lock)
        _remove_leftovers(workdir)
        return workdir
    except BaseException:
        lock.close()
        raise


def _check_links(path: pathlib.Path) -> None:
    """Raises `UserError` if a folder of the run is a link to files that are none of the run's."""
    for name in _FOLDERS:
        if (path / name).is_symlink():
            raise UserError(
                f"--workdir={path}: {name} is a link, and a run keeps to its own folder; put a "
                "folder in its place, or link the whole --workdir"
            )


def _check_own(path: pathlib.Path, config: Config) -> None:
    """Raises `UserError` if there are files of something else, and no config.json of this run."""
    if (path / "config.json").exists():
        return
    runs = set()
    for manifest in (path / "checkpoints").glob("ckpt-*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            runs.add(files.read_json(manifest)["run"])
    if runs - {identity_digest(config)}:
        raise UserError(
            f"--workdir={path}: config.json is missing, and the checkpoints are of a run "
            "with other flags; repeat those, or name another --workdir"
        )
    taken = [name for name in (*_FOLDERS, "metrics.jsonl") if (path / name).exists()]
    if taken and not runs:
        raise UserError(
            f"--workdir={path}: config.json is missing, so no run has made {', '.join(taken)} "
            "there; name another --workdir"
        )


def check_same_data(path: pathlib.Path, config: Config) -> None:
    """Compares a run's data, as this process has loaded them, with those that it began with.

    Raises:
        UserError: if they are others, though they have the same name.
    """
    now = provenance.record(config.data)["data"]
    for origin in _origins(path)[:1]:
        for name, digests in origin["data"].items():
            for split, digest in digests.items():
                found = now.get(name, digests).get(split)
                if found != digest:
                    raise UserError(
                        f"--workdir={path}: this run began with other images ({name}, {split}: "
                        f"SHA-256 {digest[:8]}..., not {str(found)[:8]}...); name the --data_dir "
                        "that it had"
                    )


def _origins(path: pathlib.Path) -> list[dict[str, Any]]:
    """Where the numbers of a run come from, as its workdir tells; a first run's tells nothing.

    Raises:
        UserError: if it is nothing that this package has written.
    """
    file = path / "config.json"
    if not file.exists():
        return []
    found = files.read_json(file).get(PROVENANCE, [])
    if not (isinstance(found, list) and all(map(_is_origin, found))):
        raise UserError(f"--workdir={path}: cannot read {PROVENANCE} in {file}; take it out")
    return found


def _is_origin(value: Any) -> bool:
    data = value.get("data") if isinstance(value, dict) else None
    if not (isinstance(data, dict) and all(isinstance(d, dict) for d in data.values())):
        return False
    return all(isinstance(digest, str) for digests in data.values() for digest in digests.values())


def _undated(origin: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in origin.items() if name != "date"}


def _remove_leftovers(workdir: Workdir) -> None:
    """Removes what killed processes left unfinished, now that this one has the folder."""
    files.restore_folder(workdir.saved_model)
    for folder in (workdir.path, *(workdir.path / name for name in _FOLDERS)):
        files.remove_leftovers(folder)


def open_existing(path: pathlib.Path, writes: bool = True) -> Workdir:
    """Opens a run's workdir with the configuration stored in it.

    Args:
        path: of the workdir.
        writes: whether this process is the one that writes: it takes the lock, and removes what
            a killed one has left unfinished.

    Raises:
        UserError: if there is no run, it is in use, or a folder in it is a link.
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
    file = path / "config.json"
    if not file.exists():
        return None
    try:
        return Config.from_json(files.read_text(file, files.MAX_JSON))
    except (OSError, ValueError, UserError) as error:
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
