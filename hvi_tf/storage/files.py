"""Files that survive a kill and a full disk, and readers that survive hostile content."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, TextIO

from hvi_tf.config import strict_json
from hvi_tf.errors import UserError, first_line

# Largest number of bytes of a file of each kind, far above the files of this package.
MAX_TEXT = 64 * 2**20
MAX_JSON = 16 * 2**20


def open_regular(path: pathlib.Path, most: int | None = None) -> BinaryIO:
    """Opens a regular file to read its bytes; all reading of this package begins here.

    A FIFO would block until another process writes, and a device such as /dev/zero is endless.

    Args:
        path: path of the file; links are followed.
        most: largest number of bytes; None for any number.

    Raises:
        OSError: if it cannot be opened or is no regular file.
        ValueError: if it is larger.
    """
    file = os.fdopen(_open(path, os.O_RDONLY), "rb")
    size = os.fstat(file.fileno()).st_size
    if most is not None and size > most:
        file.close()
        raise ValueError(f"has {size} bytes; must have at most {most}")
    return file


def open_to_append(path: pathlib.Path) -> TextIO:
    """Opens a regular file to append text, and makes it if it does not exist.

    Raises:
        OSError: if it cannot be opened, is a link or is no regular file.
    """
    return os.fdopen(_open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW), "a")


def _open(path: pathlib.Path, flags: int) -> int:
    """Returns a descriptor of a regular file."""
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o644)  # a FIFO must not block here
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise OSError(number, "is no regular file", str(path))


def check_regular(paths: Iterable[pathlib.Path], most: int | None = None) -> None:
    """Checks files before a library opens them by their paths, as `open_regular` does."""
    for path in paths:
        open_regular(path, most).close()


def read_bytes(path: pathlib.Path, most: int = MAX_TEXT) -> bytes:
    """Returns the content of a regular file.

    Raises:
        OSError: if it cannot be read or is no regular file.
        ValueError: if it has more than `most` bytes.
    """
    with open_regular(path, most) as file:
        content = file.read(most + 1)
    if len(content) > most:  # the file has grown, or is in /proc, where sizes are 0
        raise ValueError(f"has more than {most} bytes")
    return content


def read_text(path: pathlib.Path, most: int = MAX_TEXT, errors: str = "strict") -> str:
    """Returns the text of a regular file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: if it cannot be read or is no regular file.
        ValueError: if it is larger, or not UTF-8 (unless `errors` replaces such bytes).
    """
    return read_bytes(path, most).decode("utf-8-sig", errors)


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file so that every reader sees the complete old or the complete new content.

    This also holds if the machine goes down, because the data are on the disk before the rename.

    Raises:
        UserError: if the disk is full or the folder cannot be written.
    """
    new = temporary(path)
    try:
        remove(new)
        with new.open("xb") as file:  # mode x follows no link
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            remove(new)
        raise write_error(path, error) from error


def temporary(path: pathlib.Path) -> pathlib.Path:
    """Returns a hidden path next to `path` for temporary data of this process.

    The name contains the name of the program and the process id, by which `remove_leftovers`
    recognizes it.
    """
    return path.with_name(f".{path.name}.hvi_tf-{os.getpid()}.tmp")


_TEMPORARY = re.compile(r"\..+\.hvi_tf-\d+\.tmp", re.DOTALL)


@contextlib.contextmanager
def temporary_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes the folder `temporary(path)`, and removes it at the end if it still exists."""
    folder = temporary(path)
    remove(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            remove(folder)


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes the temporary files and folders of killed processes, and nothing else."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    remove(path)


def remove(path: pathlib.Path) -> None:
    """Removes a file, a folder with its content, or a link without its target, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace_folder(new: pathlib.Path, path: pathlib.Path) -> None:
    """Replaces a folder by a new one, which must be on the disk already.

    This takes two renames. If the process is killed between them, `restore_folder` moves the
    old folder back.

    Raises:
        OSError: if a rename fails, after moving the old folder back. The same error, with the new
            folder in place, means that the names cannot be put on the disk.
    """
    old = _aside(path)
    remove(old)
    try:
        if path.exists():
            path.rename(old)
        new.rename(path)
    except OSError:
        restore_folder(path)
        raise
    sync(path.parent)  # before the old folder is removed
    with contextlib.suppress(OSError):
        remove(old)


def restore_folder(path: pathlib.Path) -> None:
    """Moves a folder back that `replace_folder` moved aside, if its place is empty."""
    old = _aside(path)
    with contextlib.suppress(OSError):
        if old.exists() and not path.exists():
            old.rename(path)
        remove(old)


def _aside(path: pathlib.Path) -> pathlib.Path:
    """Returns the path of an old folder while `replace_folder` works."""
    return path.with_name(f".{path.name}.hvi_tf-old")


def sync(path: pathlib.Path) -> None:
    """Flushes a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO must not block here
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync a folder.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


def write_error(path: pathlib.Path, error: BaseException) -> UserError:
    """Returns the error for a file that cannot be written."""
    reason = getattr(error, "strerror", None) or first_line(error)
    return UserError(f"cannot write {path} ({reason}); free some space or name another folder")


def read_error(path: pathlib.Path, error: BaseException) -> UserError:
    """Returns the error for a file of a run that cannot be read."""
    reason = getattr(error, "strerror", None) or first_line(error)
    return UserError(f"cannot read {path} ({reason}); move it away")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def read_json(path: pathlib.Path) -> Any:
    """Returns the value in a JSON file.

    Raises:
        OSError: if it cannot be read or is no regular file.
        ValueError: if it is not JSON, or larger than `MAX_JSON`.
    """
    return strict_json.parse(read_text(path, MAX_JSON))


def digest(path: pathlib.Path, most: int | None = None, algorithm: str = "sha256") -> str:
    """Returns the digest of a regular file, in hexadecimal.

    Args:
        path: path of the file.
        most: largest number of bytes; None for any number.
        algorithm: name of an algorithm of `hashlib`. MD5 only distinguishes files.

    Raises:
        OSError: if it cannot be read or is no regular file.
        ValueError: if it is larger.
    """
    digester = hashlib.new(algorithm, usedforsecurity=algorithm != "md5")  # for a FIPS machine
    with open_regular(path, most) as file:
        while chunk := file.read(1 << 20):  # a file of SVHN has 1.3 GB
            digester.update(chunk)
    return digester.hexdigest()
