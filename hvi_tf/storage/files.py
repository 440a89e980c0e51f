"""Files that a kill, a full disk or a stranger cannot spoil."""

import contextlib
import errno
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import stat
import zipfile
from collections.abc import Collection, Iterable, Iterator
from typing import Any, BinaryIO, TextIO

import numpy as np

from hvi_tf.config import strict_json
from hvi_tf.errors import UserError, first_line

# Bytes that a file of each kind may have, far above what this package writes.
MAX_TEXT = 64 * 2**20
MAX_JSON = 16 * 2**20
MAX_ARRAYS = 4 * 2**30


def open_regular(path: pathlib.Path, most: int | None = None) -> BinaryIO:
    """Opens a regular file to read its bytes; every file that this package reads is opened here.

    A FIFO would wait for another process, and a device such as /dev/zero has no end.

    Args:
        path: of the file; links are followed.
        most: bytes that it may have, None for any number.

    Raises:
        OSError: if it cannot be opened or is no regular file.
        ValueError: if it is larger.
    """
    file = os.fdopen(_open(path, os.O_RDONLY), "rb")
    size = os.fstat(file.fileno()).st_size
    if most is not None and size > most:
        file.close()
        raise ValueError(f"has {size} bytes; wanted at most {most}")
    return file


def open_to_append(path: pathlib.Path) -> TextIO:
    """Opens a regular file to write text at its end, and makes it if there is none.

    Raises:
        OSError: if it cannot be opened, is a link or is no regular file.
    """
    return os.fdopen(_open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW), "a")


def _open(path: pathlib.Path, flags: int) -> int:
    """Returns a descriptor of a regular file."""
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o644)  # or a FIFO would block here
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise OSError(number, "is no regular file", str(path))


def check_regular(paths: Iterable[pathlib.Path], most: int | None = None) -> None:
    """Checks files that a library is about to open by their paths, as `open_regular` does."""
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
    if len(content) > most:  # of a file that grows, or in /proc, where sizes are 0
        raise ValueError(f"has more than {most} bytes")
    return content


def read_text(path: pathlib.Path, most: int = MAX_TEXT, errors: str = "strict") -> str:
    """Returns the text of a regular file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: if it cannot be read or is no regular file.
        ValueError: if it is larger, or, unless `errors` are replaced, no such text.
    """
    return read_bytes(path, most).decode("utf-8-sig", errors)


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes so that a reader, or the next run, sees the old file or the new one.

    That holds when the machine itself goes down, too: what is renamed is on the disk.

    Raises:
        UserError: if the disk is full or the folder cannot be written.
    """
    beside = temporary(path)
    try:
        remove(beside)
        with beside.open("xb") as file:  # which follows no link
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            remove(beside)
        raise write_error(path, error) from error


def temporary(path: pathlib.Path) -> pathlib.Path:
    """Returns a hidden place next to `path`, for what this process alone writes there.

    `remove_leftovers` recognizes the name: it holds the program's and the process id.
    """
    return path.with_name(f".{path.name}.hvi_tf-{os.getpid()}.tmp")


_TEMPORARY = re.compile(r"\..+\.hvi_tf-\d+\.tmp", re.DOTALL)


@contextlib.contextmanager
def temporary_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a folder of the name `temporary(path)`, and removes it at the end if it is there."""
    folder = temporary(path)
    remove(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            remove(folder)


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes what killed processes left under names of `temporary`, and nothing else."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    remove(path)


def remove(path: pathlib.Path) -> None:
    """Removes a file, a folder with all in it, or a link but not its target; or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace_folder(new: pathlib.Path, path: pathlib.Path) -> None:
    """Moves a folder, which is on the disk, to the place of another one.

    Folders cannot be exchanged, but moved as a whole: where a kill comes between the two moves,
    `restore_folder` brings back the old one.

    Raises:
        OSError: with the old one in its place, or, if only the disk is behind, the new one.
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
    sync(path.parent)  # before the old one goes
    with contextlib.suppress(OSError):
        remove(old)


def restore_folder(path: pathlib.Path) -> None:
    """Moves a folder back that `replace_folder` has moved aside, if no other is in its place."""
    old = _aside(path)
    with contextlib.suppress(OSError):
        if old.exists() and not path.exists():
            old.rename(path)
        remove(old)


def _aside(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.name}.hvi_tf-old")


def sync(path: pathlib.Path) -> None:
    """Puts a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # or a FIFO would block here
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems know it of files only.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


def write_error(path: pathlib.Path, error: BaseException) -> UserError:
    """The one line for a file that could not be written."""
    reason = getattr(error, "strerror", None) or first_line(error)
    return UserError(f"cannot write {path} ({reason}); free some space or name another folder")


def read_error(path: pathlib.Path, error: BaseException) -> UserError:
    """Returns the one line for a file of a run that cannot be read."""
    reason = getattr(error, "strerror", None) or first_line(error)
    return UserError(f"cannot read {path} ({reason}); move it away")


def write_json(path: pathlib.Path, value: Any) -> None:
    """`write_atomically` of indented JSON."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def read_json(path: pathlib.Path) -> Any:
    """Returns what `write_json` has written.

    Raises:
        OSError: if it cannot be read or is no regular file.
        ValueError: if it is no JSON, or larger than any that is written here.
    """
    return strict_json.parse(read_text(path, MAX_JSON))


def write_arrays(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    """`write_atomically` of arrays by name, which `read_arrays` reads."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_arrays(
    path: pathlib.Path, names: Collection[str] = (), most: int = MAX_ARRAYS
) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz file that `write_arrays`, or `np.savez`, has written.

    Nothing in the file is run, and nothing is made that is larger than the file.

    Args:
        path: of the file.
        names: which arrays; none reads all that there are.
        most: bytes that the file may have.

    Raises:
        OSError: if it cannot be read or is no regular file.
        ValueError: if it is no such file, is larger or damaged, lacks an array, or claims more
            than it has.
    """
    arrays = {}
    try:
        with open_regular(path, most) as opened, zipfile.ZipFile(opened) as archive:
            size = os.fstat(opened.fileno()).st_size
            claimed = sum(max(m.file_size, m.compress_size) for m in archive.infolist())
            if claimed > size:  # what zipfile would make room for
                raise ValueError(f"its {size} bytes claim to hold {claimed}")
            for name in names or [n.removesuffix(".npy") for n in archive.namelist()]:
                member = archive.getinfo(f"{name}.npy")
                if member.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{name} is compressed, which np.savez does not")
                with archive.open(member) as file:
                    arrays[name] = _read_array(file.read())
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever zipfile and NumPy make of damaged bytes
        reason = first_line(error).strip("'\"")
        raise ValueError(reason) from error
    return arrays


# Of an array's header, in bytes; np.savez's have 118. A longer one nests deeper than is parsed.
_MAX_HEADER = 1_000


def _read_array(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if header is None:
        raise ValueError(f"unknown version {version} of an array's format")
    shape, _, dtype = header(file, max_header_size=_MAX_HEADER)
    claimed = dtype.itemsize
    for size in shape:  # not their product in 64 bits, which may wrap around
        claimed *= size
    in_range = all(type(size) is int and 0 <= size < 2**63 for size in shape)  # True is none
    if dtype.hasobject or not in_range or claimed != len(content) - file.tell():
        raise ValueError(f"an array of {shape} {dtype} does not lie in {len(content)} bytes")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def digest(path: pathlib.Path, most: int | None = None, algorithm: str = "sha256") -> str:
    """Returns the digest of a regular file, in hexadecimal.

    Args:
        path: of the file.
        most: bytes that it may have, None for any number.
        algorithm: of `hashlib`. MD5 tells files apart and guards nothing.

    Raises:
        OSError: if it cannot be read or is no regular file.
        ValueError: if it is larger.
    """
    found = hashlib.new(algorithm, usedforsecurity=algorithm != "md5")  # for a FIPS machine
    with open_regular(path, most) as file:
        while chunk := file.read(1 << 20):  # a file of SVHN has 1.3 GB
            found.update(chunk)
    return found.hexdigest()
