"""Checks of the arrays of a data set, before a model is trained on them."""

import math
from collections.abc import Iterator

import numpy as np

from hvi_tf.config.settings import ModelConfig
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError

# Pixels that are checked at a time; so many fit into the processor's cache.
_CHUNK = 1 << 18


def check(data: Dataset, name: str) -> None:
    """Checks that the arrays are images as `Dataset` describes them, without a copy.

    Every uint8 pixel is valid, so only float32 pixels are read.

    Args:
        data: the arrays.
        name: of the data set, for the message.

    Raises:
        UserError: naming the first array that is wrong.
    """
    shape = data.image_shape
    if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise UserError(f"{name}: image_shape={shape}; wanted (height, width, channels)")
    for split in ("train", "validation", "test"):
        _check_split(f"{name}, {split}", getattr(data, split), shape)
    for split in ("validation", "test"):
        dtype = getattr(data, split).dtype
        if dtype != data.train.dtype:
            raise UserError(
                f"{name}, {split}: {dtype} pixels; those of train are {data.train.dtype}"
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
        if chunk.min() >= 0 and chunk.max() <= 1:  # false for a NaN, too
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


def check_networks(model: ModelConfig, shape: tuple[int, ...], name: str) -> None:
    """Checks that convolutional networks, if any, get square images of one channel.

    Args:
        model: the configuration of the networks.
        shape: of an image.
        name: of the data set, for the message.

    Raises:
        UserError: naming the network and the shape.
    """
    height, width, channels = shape
    for flag, convolutional in (("encoder", "resnet"), ("decoder", "pixelcnn")):
        if getattr(model, flag) == convolutional and (height != width or channels != 1):
            raise UserError(
                f"--{flag}={convolutional}: images of {name} are {_times(shape)}, but it takes "
                f"square images of one channel; choose --{flag}=mlp"
            )


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
