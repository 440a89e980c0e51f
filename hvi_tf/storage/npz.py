"""Arrays in npz files; a reader that runs no code from a file and bounds its memory."""

import io
import os
import pathlib
import zipfile
from collections.abc import Collection
from typing import Any

import numpy as np

from hvi_tf.errors import first_line
from hvi_tf.storage import files

# Largest number of bytes of a file, far above the files of this package.
MAX_ARRAYS = 4 * 2**30


def write_arrays(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    """Writes arrays by name as an npz file, atomically; `read_arrays` reads it."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    files.write_atomically(path, buffer.getvalue())


def read_arrays(
    path: pathlib.Path, names: Collection[str] = (), most: int = MAX_ARRAYS
) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz file that `write_arrays` or `np.savez` has written.

    Runs no code from the file, and allocates no more memory than the size of the file.

    Args:
        path: path of the file.
        names: names of the arrays; empty for all.
        most: largest number of bytes of the file.

    Raises:
        OSError: if it cannot be read or is no regular file.
        ValueError: if it is no npz file, is too large or damaged, lacks an array, or declares
            more bytes than it has.
    """
    arrays = {}
    try:
        with files.open_regular(path, most) as opened, zipfile.ZipFile(opened) as archive:
            size = os.fstat(opened.fileno()).st_size
            claimed = sum(max(m.file_size, m.compress_size) for m in archive.infolist())
            if claimed > size:  # zipfile would allocate the claimed size
                raise ValueError(f"has {size} bytes and declares {claimed}")
            for name in names or [n.removesuffix(".npy") for n in archive.namelist()]:
                member = archive.getinfo(f"{name}.npy")
                if member.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{name} is compressed; np.savez does not compress")
                with archive.open(member) as file:
                    arrays[name] = _read_array(file.read())
    except (OSError, MemoryError):
        raise
    except Exception as error:  # zipfile and NumPy raise many types for damaged bytes
        reason = first_line(error).strip("'\"")
        raise ValueError(reason) from error
    return arrays


# Largest header of an array, in bytes; np.savez writes 118. A longer one could nest deeply.
_MAX_HEADER = 1_000


def _read_array(content: bytes) -> np.ndarray:
    """Returns the array in the bytes of an npy file, after checking the size it declares."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if header is None:
        raise ValueError(f"unknown version {version} of the npy format")
    shape, _, dtype = header(file, max_header_size=_MAX_HEADER)
    claimed = dtype.itemsize
    for size in shape:  # in Python, because a product in 64 bits may overflow
        claimed *= size
    in_range = all(type(size) is int and 0 <= size < 2**63 for size in shape)  # True is not a size
    if dtype.hasobject or not in_range or claimed != len(content) - file.tell():
        raise ValueError(f"an array of {shape} {dtype} does not fit {len(content)} bytes")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
