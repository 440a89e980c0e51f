"""Seeds and noise: every draw is a pure function of (seed, purpose, step, ...).

No generator has a state to save, so a resumed run draws the same numbers as an unbroken one.
Replicas that split a batch also draw what one device would draw for the whole batch. Each
replica draws the noise of the whole batch and keeps its own rows. This costs a few percent of
a step, and results do not depend on the number of replicas.
"""

import contextlib
import contextvars
import enum
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf


class Purpose(enum.IntEnum):
    """The purpose of a seed; two purposes never share a draw."""

    INITIALIZE = 0
    SHUFFLE = 1
    BINARIZE = 2
    TRAIN = 3
    VALIDATE = 4
    EVALUATE = 5
    SAMPLE_IMAGES = 6
    SIMULATE = 7
    ANNEAL = 8
    BRACKET = 9
    PILOT = 10
    TRAIN_TAU = 11


class ChunkStream(enum.IntEnum):
    """Streams below the seed of a chunk of z; the values are part of stored results."""

    PSI = 1
    OTHER_POSTERIOR_DRAW = -2
    ZETA = -3


class GroupStream(enum.IntEnum):
    """Streams below the seed of a group of z that share psi; its chunks of z are 0, 1, ..."""

    PSI = -1
    TAU_DIAGNOSTIC = -2
    OTHER_POSTERIOR_DRAW = -3
    ZETA = -4


class StepStream(enum.IntEnum):
    """Streams below the seed of a training step."""

    RESAMPLE = 1


class RefinementStream(enum.IntEnum):
    """Streams below the seed of an SVI loop; its own steps are 0, 1, ..."""

    RESAMPLE_POINT = -2
    FINAL_POINT = -3


class RefinementStepStream(enum.IntEnum):
    """Streams below the seed of one step of an SVI loop."""

    SECOND_DRAW = -1


class ObservationStream(enum.IntEnum):
    """Streams of `Purpose.BINARIZE`; the training steps are 0, 1, ..."""

    FIXED = -1


def fold(seed: int, purpose: Purpose, *indices: int | tf.Tensor) -> tf.Tensor:
    """Returns the int32 `[2]` seed for `purpose` at `indices` (step, replica, chunk, ...)."""
    folded = tf.constant([seed, int(purpose)], tf.int32)
    for index in indices:
        folded = tf.random.fold_in(folded, tf.cast(index, tf.int32))
    return folded


def substream(seed: tf.Tensor, stream: enum.IntEnum, index: int | tf.Tensor = 0) -> tf.Tensor:
    """Returns the int32 `[2]` seed of a named stream below `seed`.

    Args:
        seed: int32 `[2]`, the parent.
        stream: a member of the enumeration that belongs to the parent.
        index: of a chunk within the stream, from 0. Chunks count away from zero, so a
            negative stream never meets the nonnegative indices of steps.
    """
    value = int(stream)
    return tf.random.fold_in(seed, value + index if value > 0 else value - index)


def initializer_seeds(seed: int) -> np.random.Generator:
    """Returns a source of distinct integer seeds for the weight initializers of one model."""
    return np.random.default_rng([seed, int(Purpose.INITIALIZE)])


# (index, count) of the replica whose graph is being traced.
_share: contextvars.ContextVar[tuple[int | tf.Tensor, int]]
_share = contextvars.ContextVar("share", default=(0, 1))


@contextlib.contextmanager
def share(index: int | tf.Tensor, count: int) -> Iterator[None]:
    """Makes draws for B rows equal rows index B to (index+1) B - 1 of the draws for count B.

    Args:
        index: of the replica, from 0.
        count: of the replicas; 1 changes nothing.
    """
    token = _share.set((index, count))
    try:
        yield
    finally:
        _share.reset(token)


def normal(shape: tf.Tensor, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Draws standard normal noise `[..., B, D]`.

    The generator is named because TensorFlow's default is about 30 times slower under XLA
    on CPU.
    """
    return _rows(
        lambda whole: tf.random.stateless_normal(whole, seed, dtype=dtype, alg="philox"), shape, -2
    )


def uniform(shape: tf.Tensor, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Draws noise `[..., B]`, uniform from 0 to 1."""
    return _rows(
        lambda whole: tf.random.stateless_uniform(whole, seed, dtype=dtype, alg="philox"), shape, -1
    )


def draw(sample: Callable[[Any], tf.Tensor], shape: list) -> tf.Tensor:
    """Draws `sample(shape)`, of shape `[..., B, D]`, from a distribution without a batch axis.

    Args:
        sample: draws from it, such as `lambda shape: p.sample(shape, seed=seed)`.
        shape: `[..., B]`; the last axis holds the rows.
    """
    index, count = _share.get()
    if count == 1:
        return sample(shape)
    with share(0, 1):  # the distribution flattens its axes, so its last axis is not the rows
        everything = sample([*shape[:-1], count * shape[-1]])
    return everything[..., index * shape[-1] : (index + 1) * shape[-1], :]


def _rows(make: Callable[[tf.Tensor], tf.Tensor], shape: tf.Tensor, axis: int) -> tf.Tensor:
    """Draws the noise of all replicas and returns the rows of this one; rows lie on `axis`."""
    index, count = _share.get()
    if count == 1:
        return make(shape)
    shape = tf.convert_to_tensor(shape)
    at_rows = tf.one_hot(tf.size(shape) + axis, tf.size(shape), dtype=shape.dtype)
    begin = at_rows * tf.cast(index, shape.dtype) * shape
    return tf.slice(make(shape * (1 + (count - 1) * at_rows)), begin, shape)
