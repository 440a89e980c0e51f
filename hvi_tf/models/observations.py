"""Checks of the images that a library user passes to the autoencoder.

Shapes and dtypes are static, so they are checked while a step is traced. Values are checked on the
host before the first step, so the compiled step does no extra work.
"""

import types
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from hvi_tf.models.running_means import RunningMeans

_CHUNK = 10_000  # images that are checked at a time


class Pixels(Protocol):
    """The pixel values to which a likelihood assigns a probability."""

    values: str

    def contains(self, x: np.ndarray) -> np.ndarray:
        """Returns for each value whether the likelihood assigns it a probability."""


def images(data: Any, x_dim: int, name: str = "x") -> tf.Tensor:
    """Returns the batch of images `[B, Dx]`, float32, in the data that Keras passes to a step.

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
    """Raises ValueError for labels or weights, because the bound does not use them."""
    for name, value in extras.items():
        if value is not None:
            raise ValueError(f"{name}: the autoencoder takes only images; leave it out")


def checked(name: str, data: Any, x_dim: int, pixels: Pixels) -> Any:
    """Checks the images of `data`, an argument of `fit` or `evaluate`, and returns it.

    All images of an array are checked, but only the first batch of another source.

    Raises:
        ValueError: naming the argument, if the likelihood assigns no probability to a value, or
            if the shape or dtype is wrong.
    """
    if isinstance(data, types.GeneratorType):
        first = next(data, None)
        data = _again(first, data)
    else:
        first = _first(data)
    if first is None and data is not None:
        return data  # Keras warns about a source without batches
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
    """A Keras model of images `[B, x_dim]` that checks them once and reports means over all."""

    x_dim: int
    pixels: Any  # a Keras layer that is also `Pixels`
    # Keras's attributes: the compiled steps of `fit` and `evaluate`.
    train_function: Callable | None
    test_function: Callable | None

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self._running_means = RunningMeans()

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
        """Evaluates as `keras.Model.evaluate` does; raises ValueError as `fit` does."""
        if not kwargs.get("_use_cached_eval_dataset"):  # `fit` has checked that
            x = self._checked("x", x)
        return super().evaluate(x, *args, **kwargs)

    def train_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Takes a step as `keras.Model.train_on_batch` does; raises ValueError as `fit` does.

        Returns the metrics of this batch alone.
        """
        self.reset_metrics()
        return super().train_on_batch(self._checked("x", x), *args, **kwargs)

    def test_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as `keras.Model.test_on_batch` does; raises ValueError as `fit` does.

        Returns the bound of this batch alone.
        """
        self.reset_metrics()
        return super().test_on_batch(self._checked("x", x), *args, **kwargs)

    def make_train_function(self, force: bool = False) -> None:
        """Builds the step of Keras's `fit`, which returns running means of the metrics."""
        if self.train_function is None or force:
            self.train_function = self._make_function(self._running_means.wrap(self.train_step))

    def make_test_function(self, force: bool = False) -> None:
        """Builds the step of Keras's `evaluate`, which returns the running mean of the bound."""
        if self.test_function is None or force:
            self.test_function = self._make_function(self._running_means.wrap(self.test_step))

    def reset_metrics(self) -> None:
        """Resets the running means; Keras does so at the start of an epoch or an evaluation."""
        super().reset_metrics()
        self._running_means.reset()

    def _checked(self, name: str, data: Any) -> Any:
        return checked(name, data, self.x_dim, self.pixels)


def _chunks(x: Any) -> Iterator[Any]:
    """Yields a NumPy array in parts, to save memory, and any other array whole."""
    if isinstance(x, np.ndarray):
        yield from (x[i : i + _CHUNK] for i in range(0, len(x), _CHUNK))
    else:
        yield x


def _first(data: Any) -> Any:
    """Returns an array itself, or the first batch of a source; None if it has no batch."""
    if isinstance(data, tf.data.Dataset):
        return next(iter(data.take(1)), None)
    if isinstance(data, keras.utils.PyDataset):
        return data[0]
    return data


def _again(first: Any, rest: Iterator) -> Iterator:
    yield first
    yield from rest
