"""The file that 28x28 OMNIGLOT comes in: finding it, telling it from others, reading it.

Burda, Grosse & Salakhutdinov (2015) published it as `chardata.mat`. Files made anew from
the drawings share its layout but not its pixels, so a file is known by its md5 digest.
"""

import pathlib
import struct
import zlib
from typing import BinaryIO

import numpy as np

from hvi_tf.errors import UserError, first_line
from hvi_tf.storage import files

URL = "https://raw.githubusercontent.com/yburda/iwae/master/datasets/OMNIGLOT/chardata.mat"
ORIGINAL_MD5 = "21ecaf34373511aa7691cf2e0802aa3d"
SIDE = 28
KEYS = {"train": "data", "test": "testdata"}
COUNTS = {"train": 24_345, "test": 8_070}  # what makes it that data set

_MOST_BYTES = 2**30  # of a file; the original has 26 MB

# Of a MATLAB 5 file: its first bytes, the type of a compressed array, and what is unpacked at once.
_HEADER, _COMPRESSED, _PIECE = 128, 15, 1 << 20


def find(manual_dir: str) -> pathlib.Path:
    """The file itself, or the one of a folder: `chardata.mat`, else the only `chardata*.mat`.

    Raises:
        UserError: if there is none, or no telling which.
    """
    place = pathlib.Path(manual_dir).expanduser()
    if place.is_file():
        return place
    found = sorted(place.glob("chardata*.mat"))
    if place / "chardata.mat" in found:
        return place / "chardata.mat"
    if len(found) > 1:
        names = ", ".join(f.name for f in found)
        raise UserError(f"--manual_dir={manual_dir}: holds {names}; name one of these files")
    if not found:
        raise UserError(
            f"--manual_dir={manual_dir}: no chardata.mat there ({URL}, md5 {ORIGINAL_MD5}); "
            "name that file, one of its layout, or its folder"
        )
    return found[0]


def md5(path: pathlib.Path) -> str:
    """Returns the digest of a file, in hexadecimal.

    Raises:
        UserError: if it cannot be read, is no regular file or is too large to be chardata.mat.
    """
    try:
        return files.digest(path, _MOST_BYTES, "md5")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{path}: cannot be read ({reason}); name another file") from error


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The images of `train` and `test`, float32 `[N, 28, 28, 1]`, 0 to 1, in the file's order.

    Raises:
        UserError: if the file is damaged or has another layout.
    """
    import scipy.io

    try:
        files.check_regular([path], _MOST_BYTES)
        _check_sizes(path)
        _check_layout(path, {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(path)})
        arrays = scipy.io.loadmat(path, variable_names=list(KEYS.values()))
    except UserError:
        raise
    except Exception as error:  # whatever its parser makes of damaged bytes
        reason = first_line(error)
        raise UserError(
            f"{path}: damaged or no MATLAB file ({reason}); fetch it again (md5 {md5(path)} now, "
            f"{ORIGINAL_MD5} in the original)"
        ) from error
    return {split: _upright(path, key, arrays[key]) for split, key in KEYS.items()}


def _check_sizes(path: pathlib.Path) -> None:
    """Unpacks every compressed array piece by piece, and keeps none, to see that it is no bomb.

    A thousandth of its size is enough for zeros, and scipy unpacks before it looks at a shape.
    """
    import scipy.io

    if scipy.io.matlab.matfile_version(path)[0] != 1:  # only its format has compressed arrays
        return
    most = 2 * 8 * SIDE * SIDE * max(COUNTS.values()) + _PIECE
    with files.open_regular(path) as file:
        order = "<" if file.read(_HEADER)[-2:] == b"IM" else ">"
        while len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            if kind != _COMPRESSED:
                file.seek(size, 1)
            elif _unpacked_size(file, size, most) > most:
                raise UserError(
                    f"{path}: an array unpacks to more than {most >> 20} MB; wanted less"
                )


def _unpacked_size(file: BinaryIO, size: int, most: int) -> int:
    """Of the next `size` bytes of a file, or some number above `most`."""
    end, unpacker, unpacked = file.tell() + size, zlib.decompressobj(), 0
    while unpacked <= most and not unpacker.eof:
        packed = unpacker.unconsumed_tail or file.read(min(_PIECE, end - file.tell()))
        if not packed:
            break
        unpacked += len(unpacker.decompress(packed, _PIECE))
    file.seek(end)
    return unpacked


def _check_layout(path: pathlib.Path, found: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """Compares the shapes and kinds of the arrays, by name, before any is read."""
    for split, key in KEYS.items():
        wanted = (SIDE * SIDE, COUNTS[split])
        if key not in found:
            raise UserError(f"{path}: no array {key!r}; wanted one of shape {wanted}")
        shape, kind = found[key]
        if shape != wanted:
            raise UserError(f"{path}: {key!r} has shape {shape}; wanted {wanted}")
        if kind not in ("double", "single"):
            raise UserError(f"{path}: {key!r} holds {kind}; wanted intensities from 0 to 1")


def _upright(path: pathlib.Path, key: str, array: np.ndarray) -> np.ndarray:
    """One image per column, itself stored column by column -> `[N, 28, 28, 1]`."""
    if array.dtype.kind != "f":  # complex numbers are "double", too
        raise UserError(f"{path}: {key!r} holds {array.dtype} numbers; wanted real ones")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # so put, a NaN is caught too
        raise UserError(f"{path}: {key!r} goes from {low} to {high}; wanted values from 0 to 1")
    images = array.astype(np.float32)
    return np.ascontiguousarray(images.T.reshape(-1, SIDE, SIDE).transpose(0, 2, 1))[..., None]
