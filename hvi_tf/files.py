"""Files that a kill, a full disk or a stranger cannot spoil."""

import contextlib
import errno
import hashlib
import io
import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Collection
from typing import Any

import numpy as np

from hvi_tf.errors import UserError, first_line


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes so that a reader, or the next run, sees the old file or the new one.

    That holds when the machine itself goes down, too: what is renamed is on the disk.

    Raises:
        UserError: if the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # of this process alone
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise write_error(path, error) from error


def replace_folder(new: pathlib.Path, path: pathlib.Path) -> None:
    """Moves a folder, which is on the disk, to the place of another one.

    Folders cannot be exchanged, but moved as a whole: where a kill comes between the two moves,
    `restore_folder` brings back the old one.

    Raises:
        OSError: with the old one in its place, or, if only the disk is behind, the new one.
    """
    old = _aside(path)
    shutil.rmtree(old, ignore_errors=True)
    try:
        if path.exists():
            path.rename(old)
        new.rename(path)
    except OSError:
        restore_folder(path)
        raise
    sync(path.parent)  # before the old one goes
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(path: pathlib.Path) -> None:
    """Brings back a folder that `replace_folder` has moved aside, if no other is in its place."""
    old = _aside(path)
    if old.exists() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _aside(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.old")


def sync(path: pathlib.Path) -> None:
    """Puts a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
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


def write_json(path: pathlib.Path, value: Any) -> None:
    """`write_atomically` of indented JSON."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: if it is no JSON, or nests deeper than anything that is written here.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: pathlib.Path) -> Any:
    """What `write_json` has written.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no JSON.
    """
    return parse_json(path.read_text())


def write_arrays(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    """`write_atomically` of arrays by name, which `read_arrays` reads."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_arrays(path: pathlib.Path, names: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of an npz file that `write_arrays`, or `np.savez`, has written.

    Nothing in the file is run, and nothing is made that is larger than the file.

    Args:
        path: of the file.
        names: which arrays; none reads all that there are.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no such file, is damaged, lacks an array, or claims more than it has.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(max(m.file_size, m.compress_size) for m in archive.infolist())
            if claimed > path.stat().st_size:  # what zipfile would make room for
                raise ValueError(f"its {path.stat().st_size} bytes claim to hold {claimed}")
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


def digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):  # a file of SVHN has 1.3 GB
            found.update(chunk)
    return found.hexdigest()
