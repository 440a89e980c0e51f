"""Preparing a data set by TFDS: once, offline where the original files are at hand."""

import contextlib
import io
import itertools
import pathlib
import socket
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from absl import logging

from hvi_tf.config.settings import DataConfig
from hvi_tf.errors import UserError, first_line
from hvi_tf.runtime.progress import duration
from hvi_tf.storage import files
from hvi_tf.storage.locks import InUseError, Lock


class Needs(NamedTuple):
    """What a preparation takes, for those who have to wait for it and make room."""

    time: str = "15 s"  # on two idle cores
    disk: str = "200 MB"  # downloads included
    memory: str = ""


SMALL = Needs()

# Bytes of a metadata file that TFDS writes for a prepared data set.
_MAX_METADATA = 16 * 2**20
_WAIT_SECONDS = 1.0  # between two looks at whether another process has finished
_TELL_SECONDS = 30.0  # between two lines in a log


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps TFDS's warnings, all of its own workings, from those who did not ask for more."""
    verbosity = logging.get_verbosity()
    if verbosity == logging.WARNING:
        logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def construct(make: Callable[[str], Any], config: DataConfig) -> Any:
    """Makes the TFDS builder of `--data_dir`, which reads the metadata of what is prepared there.

    Args:
        make: the builder of a folder, empty for TFDS's own.
        config: names the folder.

    Raises:
        UserError: if the metadata are damaged or a file there is no regular file.
    """
    try:
        _check_prepared(make, config)
        return make(config.data_dir)
    except Exception as error:  # whatever its metadata parser makes of damaged bytes
        raise UserError(
            f"--data_dir={config.data_dir}: cannot read the prepared {config.dataset} there "
            f"({first_line(error)}); delete its folder to prepare it again"
        ) from error


def _check_prepared(make: Callable[[str], Any], config: DataConfig) -> None:
    """Checks the files that TFDS opens by their paths: a FIFO among them would never end."""
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
    """Lets TFDS prepare a data set, or waits for another process that does.

    Unfinished files are in `preparing-NAME` next to the data set. The process that writes there
    holds a lock; leftovers of dead processes are removed.

    Args:
        make: the builder of a folder. Without registered digests it verifies its files itself.
        config: names the folder and the data set.
        manual_dir: the folder of the original files; None downloads them.
        needs: for the messages.

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
            if builder.is_prepared():  # by the process that was waited for
                return builder
            if any(final.glob("*")):
                raise UserError(f"{final}: not a whole data set; delete it to prepare it again")
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
            f"({first_line(error)}); name a folder with room for {needs.disk} that you may write to"
        ) from error
    return construct(make, config)


@contextlib.contextmanager
def _alone(folder: pathlib.Path, config: DataConfig) -> Iterator[None]:
    """Waits until no other process prepares the data set of this folder, and keeps it."""
    for look in itertools.count():
        try:
            lock = Lock(folder, "--data_dir")
            break
        except InUseError:
            if look % round(_TELL_SECONDS / _WAIT_SECONDS) == 0:
                print(
                    f"Waiting for another process that prepares {config.dataset} in "
                    f"{folder.parent} and holds {folder / '.lock'} ...",
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
    """Prepares in a folder of its own.

    mnist and fashion_mnist name their files alike: in a shared folder TFDS would make the second
    of the first one's pixels.
    """
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    memory = f" and {needs.memory}" if needs.memory else ""
    print(
        f"Preparing {config.dataset} in {target} (once; about {needs.time}{memory}, and minutes "
        "on a busy machine) ...",
        flush=True,
    )
    (tfds.enable_progress_bar if sys.stderr.isatty() else tfds.disable_progress_bar)()
    temporary.mkdir()
    builder = make(str(temporary))
    try:
        # TFDS prints "Downloading ...", even offline.
        with _still_at_work(config.dataset), contextlib.redirect_stdout(io.StringIO()):
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
            "put its original files into a folder and name it by --manual_dir"
        ) from error


@contextlib.contextmanager
def _still_at_work(dataset: str) -> Iterator[None]:
    """Prints a line now and then where no terminal shows the bars of TFDS."""
    ended, out, began = threading.Event(), sys.stdout, time.monotonic()

    def tell() -> None:
        while not ended.wait(_TELL_SECONDS):
            passed = duration(time.monotonic() - began)
            with contextlib.suppress(OSError, ValueError):  # nobody reads this, or it is closed
                print(f"Preparing {dataset}: {passed} so far ...", file=out, flush=True)

    thread = threading.Thread(target=tell, daemon=True)
    if not sys.stderr.isatty():
        thread.start()
    try:
        yield
    finally:
        ended.set()


def verify_files(folder: pathlib.Path, infos: dict[str, Any]) -> None:
    """Compares each file that TFDS wants with its registered SHA-256 digest.

    Raises:
        UserError: naming the first file that is missing or another one.
    """
    flag = f"--manual_dir={folder}"
    for info in infos.values():
        path = folder / info.filename
        if not path.is_file():
            found = "no regular file" if path.exists() else "missing"
            raise UserError(
                f"{flag}: {path} is {found} (expected SHA-256 {info.checksum}, {info.size})"
            )
        size = path.stat().st_size
        if size > info.size:  # which would be read for as long as it is large
            raise UserError(
                f"{flag}: {path} is damaged or another file: expected {int(info.size)} bytes, "
                f"found {size}; fetch it again"
            )
        found = files.digest(path)
        if found != info.checksum:
            raise UserError(
                f"{flag}: {path} is damaged or another file: expected SHA-256 "
                f"{info.checksum}, found {found} ({size} bytes); fetch it again"
            )


def require_network(url: str, files: str, config: DataConfig) -> None:
    """Says at once what a user without network has to fetch by other means.

    Args:
        url: one of the files.
        files: what to fetch, with digests.
        config: for the message.

    Raises:
        UserError: if the host of `url` does not answer.
    """
    if not _reachable(url):
        raise UserError(
            f"--dataset={config.dataset}: not prepared in --data_dir and no network answers; "
            f"put its original files into a folder and name it by --manual_dir: {files}"
        )


def _reachable(url: str, timeout: float = 0.8) -> bool:
    """Whether the host of `url`, or the proxy in front of it, accepts a connection."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy:
        parts = urllib.parse.urlsplit(proxy)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((parts.hostname, port), timeout=timeout).close()
            answered.set()
        except OSError:
            pass

    # A thread, because a name look-up has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout)
    return answered.is_set()
