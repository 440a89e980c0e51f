"""What the arrays of a data set have to be, so that a wrong one is named and never trained on."""

import math
from collections.abc import Iterator

import numpy as np

from hvi_tf.config.settings import ModelConfig
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError

# Pixels looked at in one go: what comes from the disk stays in the processor's cache.
_CHUNK = 1 << 18


def check(data: Dataset, name: str) -> None:
    """Raises `UserError` at the first array that is not images as `Dataset` describes them.

    Nothing is copied. uint8 pixels need no look at any; float32 ones are read once.

    Args:
        data: the arrays.
        name: of the data set, for the message.
    """
    shape = data.image_shape
    if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise UserError(f"{name}: image_shape={shape}; wanted (height, width, channels)")
    for split in ("train", "validation", "test"):
        _check_split(f"{name}, {split}", getattr(data, split), shape)
    for split in ("validation", "test"):
        found = getattr(data, split).dtype
        if found != data.train.dtype:
            raise UserError(
                f"{name}, {split}: {found} pixels; those of train are {data.train.dtype}"
            )


def _check_split(name: str, images: np.ndarray, shape: tuple[int, ...]) -> None:
    if not isinstance(images, np.ndarray):
        raise UserError(f"{name}: a {type(images).__name__}; wanted a NumPy array")
    width = math.prod(shape)
    if images.ndim != 2 or images.shape[1] != width:
        raise UserError(
            f"{name}: shape {images.shape}; wanted (N, {width}), flat images of {_times(shape)}"
        )
    if not len(images):
        raise UserError(f"{name}: no images; at least one is needed")
    if images.dtype not in (np.uint8, np.float32):
        raise UserError(f"{name}: {images.dtype} pixels; wanted uint8 0 to 255 or float32 0 to 1")
    if images.dtype == np.float32:
        _check_range(name, images)


def _check_range(name: str, images: np.ndarray) -> None:
    for first, chunk in _chunks(images):
        if chunk.min() >= 0 and chunk.max() <= 1:  # so put, a NaN is caught too
            continue
        image, pixel = np.argwhere(~((chunk >= 0) & (chunk <= 1)))[0]
        raise UserError(
            f"{name}: pixel {pixel} of image {first + image} is {chunk[image, pixel]}; wanted "
            "0 to 1"
        )


def _chunks(images: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    rows = max(1, _CHUNK // images.shape[1])
    for first in range(0, len(images), rows):
        yield first, images[first : first + rows]


def check_networks(shape: tuple[int, ...], name: str, model: ModelConfig) -> None:
    """Raises `UserError` if the networks are for square images of one channel and these are not.

    Args:
        shape: of an image.
        name: of the data set, for the message.
        model: the configuration of the networks.
    """
    height, width, channels = shape
    for flag, convolutional in (("encoder", "resnet"), ("decoder", "pixelcnn")):
        if getattr(model, flag) == convolutional and (height != width or channels != 1):
            raise UserError(
                f"--{flag}={convolutional}: images of {name} are {_times(shape)}, and it is for "
                f"square ones of one channel; choose --{flag}=mlp"
            )


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
