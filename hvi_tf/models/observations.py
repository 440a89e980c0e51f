"""Checks of the images that a library user gives to the autoencoder.

Shapes and dtypes are static, so their check is part of tracing. Values are checked on the host,
before the first step: the compiled step does no more work for it.
"""

import types
from collections.abc import Iterator
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

_CHUNK = 10_000  # images that are checked at a time


class Pixels(Protocol):
    """Pixel values that a likelihood gives a probability."""

    values: str

    def contains(self, x: np.ndarray) -> np.ndarray:
        """Whether each value has a probability of its own."""


def images(data: Any, x_dim: int, name: str = "x") -> tf.Tensor:
    """The batch of images `[B, Dx]`, float32, in what Keras hands to a step.

    Raises:
        ValueError: if it is of another shape or dtype, or comes with labels or weights.
    """
    x = _array(data, x_dim, name)
    try:
        x = tf.convert_to_tensor(x)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {x.dtype}, wanted real numbers ({error})") from error
    if not (x.dtype.is_floating or x.dtype.is_integer or x.dtype.is_bool):
        raise ValueError(f"{name}: {x.dtype.name}, wanted real numbers")
    return tf.cast(x, tf.float32)


def _array(data: Any, x_dim: int, name: str) -> Any:
    """Returns the array in what Keras hands to a step; raises ValueError for another shape."""
    x = data
    if isinstance(data, tuple):
        x, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        refuse_extras(y=labels, sample_weight=weights)
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise ValueError(f"{name}: a {type(x).__name__}, wanted an array of shape (B, {x_dim})")
    shape = tf.TensorShape(x.shape)
    if not shape.is_compatible_with([None, x_dim]):
        raise ValueError(f"{name}: shape {tuple(shape)}, wanted (B, {x_dim}), a row per image")
    return x


def refuse_extras(**extras: Any) -> None:
    """Raises ValueError for labels or weights, which the bound has no use for."""
    for name, value in extras.items():
        if value is not None:
            raise ValueError(f"{name}: the autoencoder takes images alone; leave it out")


def checked(name: str, data: Any, x_dim: int, pixels: Pixels) -> Any:
    """Returns `data`, an argument of `fit` or `evaluate`, once its images are checked.

    All images of an array are checked, and of other sources those of the first batch.

    Raises:
        ValueError: naming the argument, if the likelihood gives its values no probability, or
            its shape or dtype is wrong.
    """
    if isinstance(data, types.GeneratorType):
        first = next(data, None)
        data = _again(first, data)
    else:
        first = _first(data)
    if first is None and data is not None:
        return data  # Keras warns of a source without batches
    count = 0
    for chunk in _chunks(_array(first, x_dim, name)):
        with tf.device("CPU:0"):
            x = images(chunk, x_dim, name).numpy()
        outside = ~pixels.contains(x)
        if outside.any():
            image, pixel = np.argwhere(outside)[0]
            raise ValueError(
                f"{name}: {x[image, pixel]:g} at pixel {pixel} of image {count + image}; this "
                f"likelihood takes pixels that are {pixels.values}"
            )
        count += len(x)
    if not count:
        raise ValueError(f"{name}: no images")
    return data


class ImageModel(keras.Model):
    """A Keras model of images `[B, x_dim]` whose entry points check the images once."""

    x_dim: int
    pixels: Any  # a Keras layer that is also `Pixels`

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, on images that the likelihood supports.

        Raises:
            ValueError: if images have other values, such as gray ones under a Bernoulli
                likelihood, another shape, or labels.
        """
        refuse_extras(
            sample_weight=kwargs.get("sample_weight"), class_weight=kwargs.get("class_weight")
        )
        if kwargs.get("validation_data") is not None:
            kwargs["validation_data"] = self._checked("validation_data", kwargs["validation_data"])
        return super().fit(self._checked("x", x), *args, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Scores as `keras.Model.evaluate` does; raises ValueError as `fit` does."""
        if not kwargs.get("_use_cached_eval_dataset"):  # which `fit` has checked already
            x = self._checked("x", x)
        return super().evaluate(x, *args, **kwargs)

    def train_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Takes a step as `keras.Model.train_on_batch` does; raises ValueError as `fit` does."""
        return super().train_on_batch(self._checked("x", x), *args, **kwargs)

    def test_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Scores as `keras.Model.test_on_batch` does; raises ValueError as `fit` does."""
        return super().test_on_batch(self._checked("x", x), *args, **kwargs)

    def _checked(self, name: str, data: Any) -> Any:
        return checked(name, data, self.x_dim, self.pixels)


def _chunks(x: Any) -> Iterator[Any]:
    """Yields a NumPy array in parts, which need little memory, and any other array as it is."""
    if isinstance(x, np.ndarray):
        yield from (x[i : i + _CHUNK] for i in range(0, len(x), _CHUNK))
    else:
        yield x


def _first(data: Any) -> Any:
    """An array as it is, or the first batch of a source of batches; None if there is none."""
    if isinstance(data, tf.data.Dataset):
        return next(iter(data.take(1)), None)
    if isinstance(data, keras.utils.PyDataset):
        return data[0]
    return data


def _again(first: Any, rest: Iterator) -> Iterator:
    yield first
    yield from rest
