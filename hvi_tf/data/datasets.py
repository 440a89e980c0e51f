"""Data sets through TFDS: prepared once, offline where the original files are at hand."""

import contextlib
import hashlib
import io
import pathlib
import shutil
import socket
import sys
import tempfile
import threading
import urllib.parse
import urllib.request
from typing import Any, NamedTuple

import numpy as np

from hvi_tf.config import DataConfig
from hvi_tf.errors import UserError

_PACKAGED_FILES = pathlib.Path(__file__).parent


class Source(NamedTuple):
    """A data set's TFDS builder and its named splits.

    TFDS shuffles once when it prepares, so a slice of `train` is a fixed pseudo-random
    subset.
    """

    builder: str
    train: str
    validation: str
    test: str
    packaged: bool = False


_MNIST_SPLITS = ("train[:55000]", "train[55000:]", "test")

SOURCES: dict[str, Source] = {
    "mnist": Source("mnist:3.0.1", *_MNIST_SPLITS, packaged=True),
    "fashion_mnist": Source("fashion_mnist:3.0.1", *_MNIST_SPLITS),
}


class Dataset(NamedTuple):
    """All images of a data set in memory, flattened, intensities 0 to 255."""

    train: np.ndarray  # uint8 [N, D]
    validation: np.ndarray  # uint8 [N, D]
    test: np.ndarray  # uint8 [N, D]
    image_shape: tuple[int, ...]  # of one image, with prod = D


def check_name(name: str) -> None:
    """Raises `UserError` unless `name` is a known data set."""
    if name not in SOURCES:
        raise UserError(f"--dataset={name}: unknown; choose one of {', '.join(SOURCES)}")


def load(config: DataConfig) -> Dataset:
    """Loads a data set, preparing it first where it is not prepared yet.

    Raises:
        UserError: for an unknown name, missing or damaged files, or no network when a
            download is needed.
    """
    check_name(config.dataset)
    source = SOURCES[config.dataset]
    import tensorflow as tf  # TFDS takes seconds to import; --help must not wait for it.
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(source.builder, data_dir=config.data_dir or None)
    except Exception as error:  # whatever its metadata parser makes of damaged bytes
        raise UserError(
            f"--data_dir={config.data_dir}: cannot read the prepared {config.dataset} there "
            f"({_first_line(error)}); delete its folder and it will be prepared anew"
        ) from error
    if not builder.is_prepared():
        _prepare(builder, source, config)
    try:
        splits = [_read(builder, s) for s in (source.train, source.validation, source.test)]
    except (tf.errors.OpError, ValueError, AssertionError) as error:
        raise UserError(
            f"{builder.data_dir}: the prepared data set is damaged ({_first_line(error)}); "
            "delete that folder and it will be prepared anew"
        ) from error
    train, validation, test = (s.reshape(len(s), -1) for s in splits)
    return Dataset(train, validation, test, image_shape=splits[0].shape[1:])


def _read(builder: Any, split: str) -> np.ndarray:
    import tensorflow_datasets as tfds

    options = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    images = builder.as_dataset(
        split=split, batch_size=-1, shuffle_files=False, read_config=options
    )
    return images["image"].numpy()


def _prepare(builder: Any, source: Source, config: DataConfig) -> None:
    """Verifies the files at hand, then lets TFDS prepare the data set from them."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    packaged = _PACKAGED_FILES / config.dataset if source.packaged else None
    manual_dir = pathlib.Path(config.manual_dir) if config.manual_dir else packaged
    infos = builder.url_infos
    if manual_dir is not None:
        _verify_files(manual_dir, infos, config)
    else:
        _require_network(infos, config)
    target = pathlib.Path(builder.data_dir).parent.parent
    print(f"Preparing {config.dataset} in {target} (once, some 15 s) ...", flush=True)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    extracted = None
    try:
        target.mkdir(parents=True, exist_ok=True)
        # One folder per preparation: mnist and fashion_mnist name their files alike, and
        # in a shared folder the second would silently be made of the first one's pixels.
        extracted = tempfile.mkdtemp(prefix=f"extract-{config.dataset}-", dir=target)
        with contextlib.redirect_stdout(io.StringIO()):  # "Downloading ...", even offline
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(
                    manual_dir=str(manual_dir) if manual_dir else None,
                    extract_dir=extracted,
                    force_checksums_validation=True,
                )
            )
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"--data_dir={target}: cannot prepare {config.dataset} there "
            f"({_first_line(error)}); name a folder with room for 200 MB that you may write to"
        ) from error
    finally:
        if extracted:
            shutil.rmtree(extracted, ignore_errors=True)


def _verify_files(folder: pathlib.Path, infos: dict[str, Any], config: DataConfig) -> None:
    """Compares each file that TFDS wants with its registered SHA-256 digest."""
    flag = f"--manual_dir={folder}"
    for info in infos.values():
        path = folder / info.filename
        if not path.is_file():
            raise UserError(
                f"{flag}: {path} is missing (expected SHA-256 {info.checksum}, {info.size})"
            )
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != info.checksum:
            raise UserError(
                f"{flag}: {path} is damaged or another file: expected SHA-256 "
                f"{info.checksum}, found {found} ({path.stat().st_size} bytes); fetch it again"
            )


def _require_network(infos: dict[str, Any], config: DataConfig) -> None:
    """Says at once what a user without network has to fetch by other means."""
    if _reachable(next(iter(infos))):
        return
    files = ", ".join(f"{u} (SHA-256 {i.checksum})" for u, i in infos.items())
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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
