"""Small files with the layout of each data set's original files."""

import gzip
import hashlib
import shutil

import numpy as np
import scipy.io

from hvi_tf.data import datasets

PACKAGED_MNIST = datasets._PACKAGED_FILES / "mnist"
SVHN_URL = "http://ufldl.stanford.edu/housenumbers/"
SVHN_COUNTS = {"train": 7, "extra": 9, "test": 4}


def write_mnist(folder, pixel):
    """Writes files named like those of MNIST and Fashion-MNIST: 6 and 2 images of one pixel value.

    Returns:
        The SHA-256 digest and the size of each file, by its name.
    """
    folder.mkdir()
    infos = {}
    for part, count in (("train", 6), ("t10k", 2)):
        images = bytes(16) + bytes([pixel]) * (28 * 28 * count)  # a header, then the values
        for kind, content in (("images-idx3", images), ("labels-idx1", bytes(8 + count))):
            path = folder / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(content))
            infos[path.name] = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    return infos


def copy_packaged_mnist(folder):
    """Copies the packaged files of MNIST; returns the path of the training images."""
    shutil.copytree(PACKAGED_MNIST, folder)
    return folder / "train-images-idx3-ubyte.gz"


def write_omniglot(path, seed=0, **replaced):
    """Writes a small chardata.mat; returns its upright images and its MD5 digest.

    Args:
        path: of the file.
        seed: of the pixels.
        **replaced: arrays in place of `data` and `testdata`; None leaves one out.
    """
    rng = np.random.default_rng(seed)
    train, test = rng.uniform(size=(7, 28, 28)), rng.uniform(size=(3, 28, 28))
    arrays = {"data": _columns(train), "testdata": _columns(test)} | replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {k: v for k, v in arrays.items() if v is not None}
    scipy.io.savemat(path, kept, do_compression=True)
    return train.astype(np.float32), test.astype(np.float32), md5(path)


def _columns(images):
    """Returns images `[N, 28, 28]` as the file stores them: each a column, in column order."""
    return np.stack([image.flatten(order="F") for image in images], axis=1)


def md5(path):
    """Returns the MD5 digest of a file."""
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_svhn(folder):
    """Writes small files of SVHN's layout; returns their color images `[N, 32, 32, 3]`."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    images = {}
    for part, count in SVHN_COUNTS.items():
        # The first image of each part has no color; every other one has its own.
        images[part] = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        images[part][0] = images[part][0, :, :, :1]
        labels = rng.integers(1, 11, (count, 1)).astype(np.uint8)
        arrays = {"X": np.moveaxis(images[part], 0, -1), "y": labels}
        scipy.io.savemat(folder / f"{part}_32x32.mat", arrays, do_compression=True)
    return images


def svhn_infos(folder):
    """Returns the files of a folder as TFDS registers the files of the real data set."""
    from tensorflow_datasets.core.download import checksums

    return {
        SVHN_URL + path.name: checksums.UrlInfo(
            path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest(), path.name
        )
        for path in folder.glob("*_32x32.mat")
    }
