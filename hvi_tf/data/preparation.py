"""Preparing a data set by TFDS: once, offline where the original files are at hand."""

import contextlib
import io
import pathlib
import shutil
import socket
import sys
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from absl import logging

from hvi_tf import files
from hvi_tf.errors import UserError, first_line
from hvi_tf.settings import DataConfig


class Needs(NamedTuple):
    """What a preparation takes, for those who have to wait for it and make room."""

    time: str = "some 15 s"
    disk: str = "200 MB"  # downloads included


SMALL = Needs()


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


def construct(make: Callable[[], Any], config: DataConfig) -> Any:
    """Makes a TFDS builder, which reads the metadata of what is already prepared."""
    try:
        return make()
    except Exception as error:  # whatever its metadata parser makes of damaged bytes
        raise UserError(
            f"--data_dir={config.data_dir}: cannot read the prepared {config.dataset} there "
            f"({first_line(error)}); delete its folder and it will be prepared anew"
        ) from error


def prepare(
    builder: Any,
    config: DataConfig,
    manual_dir: pathlib.Path | None = None,
    needs: Needs = SMALL,
) -> None:
    """Lets TFDS prepare a data set.

    Args:
        builder: its TFDS builder. Without registered digests it verifies its files itself.
        config: for the messages.
        manual_dir: the folder of the original files; None downloads them.
        needs: for the messages.

    Raises:
        UserError: if the folder cannot be written or the download fails.
    """
    import requests
    import tensorflow as tf
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    target = pathlib.Path(builder.data_dir_root)
    print(f"Preparing {config.dataset} in {target} (once, {needs.time}) ...", flush=True)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    temporary = None
    try:
        target.mkdir(parents=True, exist_ok=True)
        # One folder per preparation: mnist and fashion_mnist name their files alike, and
        # in a shared folder the second would silently be made of the first one's pixels.
        temporary = tempfile.mkdtemp(prefix=f"preparing-{config.dataset}-", dir=target)
        with contextlib.redirect_stdout(io.StringIO()):  # "Downloading ...", even offline
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
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"--data_dir={target}: cannot prepare {config.dataset} there "
            f"({first_line(error)}); name a folder with room for {needs.disk} that you may write to"
        ) from error
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def verify_files(folder: pathlib.Path, infos: dict[str, Any]) -> None:
    """Compares each file that TFDS wants with its registered SHA-256 digest.

    Raises:
        UserError: naming the first file that is missing or another one.
    """
    flag = f"--manual_dir={folder}"
    for info in infos.values():
        path = folder / info.filename
        if not path.is_file():
            raise UserError(
                f"{flag}: {path} is missing (expected SHA-256 {info.checksum}, {info.size})"
            )
        found = files.digest(path)
        if found != info.checksum:
            raise UserError(
                f"{flag}: {path} is damaged or another file: expected SHA-256 "
                f"{info.checksum}, found {found} ({path.stat().st_size} bytes); fetch it again"
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
