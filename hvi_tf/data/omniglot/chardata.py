"""The original file of 28x28 OMNIGLOT: where it is, its digest and its images.

Burda, Grosse & Salakhutdinov (2015) published it as `chardata.mat`. Files that others rebuilt from
the drawings have its layout but not its pixels, so a file is identified by its MD5 digest.
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
COUNTS = {"train": 24_345, "test": 8_070}  # images of each split

_MAX_BYTES = 2**30  # of a file; the original has 26 MB

_HEADER = 128  # bytes at the beginning of a MATLAB 5 file
_COMPRESSED = 15  # type of a compressed array
_PIECE = 1 << 20  # bytes that are unpacked at a time


def find(manual_dir: str) -> pathlib.Path:
    """Returns the path of the original file.

    Args:
        manual_dir: that file, or a folder with `chardata.mat` or one other `chardata*.mat`.

    Raises:
        UserError: if there is no such file, or several without a `chardata.mat`.
    """
    place = pathlib.Path(manual_dir).expanduser()
    if place.is_file():
        return place
    paths = sorted(place.glob("chardata*.mat"))
    if place / "chardata.mat" in paths:
        return place / "chardata.mat"
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise UserError(f"--manual_dir={manual_dir}: contains {names}; give one of these files")
    if not paths:
        raise UserError(
            f"--manual_dir={manual_dir}: no chardata.mat there ({URL}, MD5 {ORIGINAL_MD5}); "
            "give that file, another file with its layout, or the folder of the file"
        )
    return paths[0]


def md5(path: pathlib.Path) -> str:
    """Returns the MD5 digest of a file, in hexadecimal.

    Raises:
        UserError: if the file cannot be read, is not a regular file or is too large.
    """
    try:
        return files.digest(path, _MAX_BYTES, "md5")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{path}: cannot read this file ({reason}); give another one") from error


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the images of `train` and `test`, float32 `[N, 28, 28, 1]`, in the file's order.

    Raises:
        UserError: if the file is damaged or has another layout.
    """
    import scipy.io

    try:
        files.check_regular([path], _MAX_BYTES)
        _check_sizes(path)
        _check_layout(path, {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(path)})
        arrays = scipy.io.loadmat(path, variable_names=list(KEYS.values()))
    except UserError:
        raise
    except Exception as error:  # damaged bytes can raise anything in scipy's parser
        reason = first_line(error)
        raise UserError(
            f"{path}: damaged, or not a MATLAB file ({reason}); download it again (its MD5 is "
            f"{md5(path)}, that of the original {ORIGINAL_MD5})"
        ) from error
    return {split: _upright(path, key, arrays[key]) for split, key in KEYS.items()}


def _check_sizes(path: pathlib.Path) -> None:
    """Checks the unpacked size of every compressed array, piece by piece and without keeping any.

    Zeros compress to a thousandth of their size, and scipy unpacks before it checks a shape. So a
    small file could fill the memory.
    """
    import scipy.io

    if scipy.io.matlab.matfile_version(path)[0] != 1:  # only format 5 has compressed arrays
        return
    limit = 2 * 8 * SIDE * SIDE * max(COUNTS.values()) + _PIECE
    with files.open_regular(path) as file:
        order = "<" if file.read(_HEADER)[-2:] == b"IM" else ">"
        while len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            if kind != _COMPRESSED:
                file.seek(size, 1)
            elif _unpacked_size(file, size, limit) > limit:
                raise UserError(
                    f"{path}: an array unpacks to more than {limit >> 20} MB; wanted less"
                )


def _unpacked_size(file: BinaryIO, size: int, limit: int) -> int:
    """Returns the unpacked size of the next `size` bytes, or some number above `limit`."""
    end, unpacker, unpacked = file.tell() + size, zlib.decompressobj(), 0
    while unpacked <= limit and not unpacker.eof:
        packed = unpacker.unconsumed_tail or file.read(min(_PIECE, end - file.tell()))
        if not packed:
            break
        unpacked += len(unpacker.decompress(packed, _PIECE))
    file.seek(end)
    return unpacked


def _check_layout(path: pathlib.Path, arrays: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """Checks the shape and the kind of each array, by its name, before any is read."""
    for split, key in KEYS.items():
        wanted = (SIDE * SIDE, COUNTS[split])
        if key not in arrays:
            raise UserError(f"{path}: no array {key!r}; wanted one of shape {wanted}")
        shape, kind = arrays[key]
        if shape != wanted:
            raise UserError(f"{path}: {key!r} has shape {shape}; wanted {wanted}")
        if kind not in ("double", "single"):
            raise UserError(f"{path}: {key!r} holds {kind}; wanted intensities from 0 to 1")


def _upright(path: pathlib.Path, key: str, array: np.ndarray) -> np.ndarray:
    """Returns images `[N, 28, 28, 1]` of an array whose columns are images in column order."""
    if array.dtype.kind != "f":  # complex numbers are "double", too
        raise UserError(f"{path}: {key!r} holds {array.dtype} numbers; wanted real ones")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # false for a NaN, too
        raise UserError(f"{path}: {key!r} has values from {low} to {high}; wanted 0 to 1")
    images = array.astype(np.float32)
    return np.ascontiguousarray(images.T.reshape(-1, SIDE, SIDE).transpose(0, 2, 1))[..., None]
