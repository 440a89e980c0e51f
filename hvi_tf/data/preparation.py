"""Preparation of data sets by TFDS: once, and offline if the original files are available."""

import contextlib
import io
import itertools
import pathlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from absl import logging

from hvi_tf.config.settings import DataConfig
from hvi_tf.errors import UserError, first_line
from hvi_tf.runtime.progress import duration
from hvi_tf.storage import files
from hvi_tf.storage.locks import InUseError, Lock


class Needs(NamedTuple):
    """The time and space that a preparation needs, for messages."""

    time: str = "15 s"  # on two idle cores
    disk: str = "200 MB"  # downloads included
    memory: str = ""


SMALL = Needs()

# Largest accepted size of a metadata file of TFDS, in bytes.
_MAX_METADATA = 16 * 2**20
_WAIT_SECONDS = 1.0  # between two checks whether another process has finished
_REPORT_SECONDS = 30.0  # between two lines in a log


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences TFDS's internal warnings, unless the user has chosen another verbosity."""
    verbosity = logging.get_verbosity()
    if verbosity == logging.WARNING:
        logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def construct(make: Callable[[str], Any], config: DataConfig) -> Any:
    """Returns the TFDS builder of `--data_dir`, which reads the metadata of prepared data there.

    Args:
        make: returns the builder of a folder; an empty name means TFDS's default folder.
        config: has the folder's name.

    Raises:
        UserError: if the metadata are damaged, or a file there is not a regular file.
    """
    try:
        _check_prepared(make, config)
        return make(config.data_dir)
    except Exception as error:  # damaged bytes can raise anything in TFDS's metadata parser
        raise UserError(
            f"--data_dir={config.data_dir}: cannot read the prepared {config.dataset} there "
            f"({first_line(error)}); delete its folder to prepare it again"
        ) from error


def _check_prepared(make: Callable[[str], Any], config: DataConfig) -> None:
    """Checks that the files that TFDS will open are regular; to read a FIFO would never end."""
    with tempfile.TemporaryDirectory() as empty:
        builder = make(empty)
        place = pathlib.Path(builder.data_dir).relative_to(empty)
    import tensorflow_datasets as tfds

    root = pathlib.Path(config.data_dir or tfds.core.constants.DATA_DIR).expanduser()
    for path in (root / place).glob("*"):
        files.check_regular([path], _MAX_METADATA if path.suffix == ".json" else None)


def prepare(
    make: Callable[[str], Any],
    config: DataConfig,
    manual_dir: pathlib.Path | None = None,
    needs: Needs = SMALL,
) -> Any:
    """Prepares a data set by TFDS, or waits for another process that prepares it.

    Unfinished files are in `preparing-NAME` next to the data set. The process that writes there
    holds a lock. Files that a dead process left there are removed.

    Args:
        make: returns the builder of a folder. A builder without registered digests verifies its
            files itself.
        config: has the names of the folder and of the data set.
        manual_dir: the folder of the original files; None downloads them.
        needs: time and space, for the messages.

    Returns:
        The builder of the prepared data set.

    Raises:
        UserError: if the folder cannot be written or the download fails.
    """
    import tensorflow as tf

    builder = construct(make, config)
    target, final = pathlib.Path(builder.data_dir_root), pathlib.Path(builder.data_dir)
    temporary = target / f"preparing-{config.dataset}"
    try:
        (target / builder.name).mkdir(parents=True, exist_ok=True)
        with _alone(target / builder.name, config):
            builder = construct(make, config)
            if builder.is_prepared():  # by another process, in the meantime
                return builder
            if any(final.glob("*")):
                raise UserError(
                    f"{final}: incomplete data set; delete that folder to prepare it again"
                )
            _remove(temporary)
            try:
                _prepare_in(temporary, make, config, manual_dir, needs, target)
                final.parent.mkdir(parents=True, exist_ok=True)
                (temporary / final.relative_to(target)).rename(final)
            finally:
                _remove(temporary)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"--data_dir={target}: cannot prepare {config.dataset} there "
            f"({first_line(error)}); give a writable folder with {needs.disk} of free space"
        ) from error
    return construct(make, config)


@contextlib.contextmanager
def _alone(folder: pathlib.Path, config: DataConfig) -> Iterator[None]:
    """Waits until no other process prepares the data set of this folder, then locks it."""
    for attempt in itertools.count():
        try:
            lock = Lock(folder, "--data_dir")
            break
        except InUseError:
            if attempt % round(_REPORT_SECONDS / _WAIT_SECONDS) == 0:
                print(
                    f"Waiting for another process to prepare {config.dataset} in "
                    f"{folder.parent}; it holds {folder / '.lock'} ...",
                    flush=True,
                )
            time.sleep(_WAIT_SECONDS)
    with lock:
        yield


def _remove(folder: pathlib.Path) -> None:
    with contextlib.suppress(OSError):  # another process may remove it, too
        files.remove(folder)


def _prepare_in(
    temporary: pathlib.Path,
    make: Callable[[str], Any],
    config: DataConfig,
    manual_dir: pathlib.Path | None,
    needs: Needs,
    target: pathlib.Path,
) -> None:
    """Prepares the data set in a temporary folder.

    The files of mnist and fashion_mnist have the same names. In a shared folder TFDS would prepare
    the second data set from the first one's pixels.
    """
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    memory = f" and {needs.memory}" if needs.memory else ""
    print(
        f"Preparing {config.dataset} in {target} (once; takes about {needs.time}{memory}, or "
        "minutes on a busy machine) ...",
        flush=True,
    )
    (tfds.enable_progress_bar if sys.stderr.isatty() else tfds.disable_progress_bar)()
    temporary.mkdir()
    builder = make(str(temporary))
    try:
        # TFDS prints "Downloading ...", even offline.
        with _progress_lines(config.dataset), contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                download_dir=f"{temporary}/downloads",
                download_config=tfds.download.DownloadConfig(
                    manual_dir=str(manual_dir) if manual_dir else None,
                    extract_dir=f"{temporary}/extracted",
                    force_checksums_validation=builder.url_infos is not None,
                ),
            )
    except (
        requests.RequestException,
        tfds.download.DownloadError,
        NonMatchingChecksumError,
    ) as error:
        raise UserError(
            f"--dataset={config.dataset}: the download failed ({first_line(error)}); try again, or "
            "put its original files into a folder and pass that folder as --manual_dir"
        ) from error


@contextlib.contextmanager
def _progress_lines(dataset: str) -> Iterator[None]:
    """Prints a line at intervals if there is no terminal for the progress bars of TFDS."""
    ended, out, began = threading.Event(), sys.stdout, time.monotonic()

    def report() -> None:
        while not ended.wait(_REPORT_SECONDS):
            passed = duration(time.monotonic() - began)
            with contextlib.suppress(OSError, ValueError):  # the output is closed
                print(f"Preparing {dataset}: {passed} so far ...", file=out, flush=True)

    thread = threading.Thread(target=report, daemon=True)
    if not sys.stderr.isatty():
        thread.start()
    try:
        yield
    finally:
        ended.set()
