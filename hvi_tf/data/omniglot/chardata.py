"""The file that 28x28 OMNIGLOT comes in: finding it, telling it from others, reading it.

Burda, Grosse & Salakhutdinov (2015) published it as `chardata.mat`. Files made anew from
the drawings share its layout but not its pixels, so a file is known by its md5 digest.
"""

import hashlib
import pathlib

import numpy as np

from hvi_tf.errors import UserError

URL = "https://raw.githubusercontent.com/yburda/iwae/master/datasets/OMNIGLOT/chardata.mat"
ORIGINAL_MD5 = "21ecaf34373511aa7691cf2e0802aa3d"
SIDE = 28
KEYS = {"train": "data", "test": "testdata"}
COUNTS = {"train": 24_345, "test": 8_070}  # what makes it that data set


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
    """The digest of a file, in hexadecimal.

    Raises:
        UserError: if the file cannot be read.
    """
    try:
        # Tells files apart and guards nothing, which is what a FIPS machine wants to know.
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name another file") from error


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The images of `train` and `test`, float32 `[N, 28, 28, 1]`, 0 to 1, in the file's order.

    Raises:
        UserError: if the file is damaged or has another layout.
    """
    import scipy.io

    try:
        arrays = scipy.io.loadmat(path, variable_names=list(KEYS.values()))
    except Exception as error:  # whatever its parser makes of damaged bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: damaged or no MATLAB file ({reason}); fetch it again (md5 {md5(path)} now, "
            f"{ORIGINAL_MD5} in the original)"
        ) from error
    return {split: _upright(path, key, arrays, COUNTS[split]) for split, key in KEYS.items()}


def _upright(path: pathlib.Path, key: str, arrays: dict[str, np.ndarray], count: int) -> np.ndarray:
    """One image per column, itself stored column by column -> `[N, 28, 28, 1]`."""
    wanted = (SIDE * SIDE, count)
    if key not in arrays:
        raise UserError(f"{path}: no array {key!r}; wanted one of shape {wanted}")
    array = arrays[key]
    if array.shape != wanted:
        raise UserError(f"{path}: {key!r} has shape {array.shape}; wanted {wanted}")
    if array.dtype.kind != "f":
        raise UserError(f"{path}: {key!r} holds {array.dtype}; wanted intensities from 0 to 1")
    images = array.astype(np.float32)
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):  # so put, a NaN is caught too
        raise UserError(f"{path}: {key!r} goes from {low} to {high}; wanted values from 0 to 1")
    return np.ascontiguousarray(images.T.reshape(count, SIDE, SIDE).transpose(0, 2, 1))[..., None]
