"""Checks of the original files of data sets: their digests, and the network to download them."""

import pathlib
import socket
import threading
import urllib.parse
import urllib.request
from typing import Any

from hvi_tf.config.settings import DataConfig
from hvi_tf.errors import UserError
from hvi_tf.storage import files


def verify_files(folder: pathlib.Path, infos: dict[str, Any]) -> None:
    """Checks each file that TFDS needs against its registered SHA-256 digest.

    Args:
        folder: that should contain the files.
        infos: TFDS's `UrlInfo` of each file, by its URL.

    Raises:
        UserError: naming the first file that is missing or different.
    """
    flag = f"--manual_dir={folder}"
    for info in infos.values():
        path = folder / info.filename
        if not path.is_file():
            fault = "not a regular file" if path.exists() else "missing"
            raise UserError(
                f"{flag}: {path} is {fault} (expected SHA-256 {info.checksum}, {info.size})"
            )
        size = path.stat().st_size
        if size > info.size:  # a huge file would take long to read
            raise UserError(
                f"{flag}: {path} is damaged or another file: expected {int(info.size)} bytes, "
                f"found {size}; download it again"
            )
        digest = files.digest(path)
        if digest != info.checksum:
            raise UserError(
                f"{flag}: {path} is damaged or another file: expected SHA-256 "
                f"{info.checksum}, found {digest} ({size} bytes); download it again"
            )


def require_network(url: str, names: str, config: DataConfig) -> None:
    """Checks at once that the network answers; else names the files to fetch by other means.

    Args:
        url: of one of the files.
        names: the files with their digests, for the message.
        config: has the name of the data set, for the message.

    Raises:
        UserError: if the host of `url` does not answer.
    """
    if not _reachable(url):
        raise UserError(
            f"--dataset={config.dataset}: not prepared in --data_dir, and there is no network; put "
            f"its original files into a folder and pass that folder as --manual_dir: {names}"
        )


def _reachable(url: str, timeout: float = 0.8) -> bool:
    """Returns whether the host of `url`, or the proxy in front of it, accepts a connection."""
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

    # In a thread, because a name look-up has no time limit.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout)
    return answered.is_set()
