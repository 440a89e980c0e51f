"""The noise of every draw in a training step, and the share of it that a replica gets.

Replicas that split a batch draw what one device would draw for all of it: each makes the
noise of the whole batch and keeps its own rows. That is more noise than it needs, a few
percent of a step; in return results do not depend on how many replicas there are.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

# Which share of how many; known while a graph is traced.
_share: contextvars.ContextVar[tuple[int | tf.Tensor, int]]
_share = contextvars.ContextVar("share", default=(0, 1))


@contextlib.contextmanager
def share(index: int | tf.Tensor, count: int) -> Iterator[None]:
    """While entered, draws for B rows are rows index B to (index+1) B - 1 of those for count B.

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
    """Standard normal noise `[..., B, D]`.

    The generator is named: TensorFlow's own choice is some 30 times slower under XLA on CPU.
    """
    return _rows(
        lambda whole: tf.random.stateless_normal(whole, seed, dtype=dtype, alg="philox"), shape, -2
    )


def uniform(shape: tf.Tensor, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Noise `[..., B]`, uniform from 0 to 1."""
    return _rows(
        lambda whole: tf.random.stateless_uniform(whole, seed, dtype=dtype, alg="philox"), shape, -1
    )


def draw(sample: Callable[[Any], tf.Tensor], shape: list) -> tf.Tensor:
    """`sample(shape)`, of shape `[..., B, D]`, of a distribution that does not know B.

    Args:
        sample: draws from it, such as `lambda shape: p.sample(shape, seed=seed)`.
        shape: `[..., B]`, whose last axis is that of the rows.
    """
    index, count = _share.get()
    if count == 1:
        return sample(shape)
    with share(0, 1):  # or the flat axis of all draws would be taken for the rows
        everything = sample([*shape[:-1], count * shape[-1]])
    return everything[..., index * shape[-1] : (index + 1) * shape[-1], :]


def _rows(make: Callable[[tf.Tensor], tf.Tensor], shape: tf.Tensor, axis: int) -> tf.Tensor:
    index, count = _share.get()
    if count == 1:
        return make(shape)
    shape = tf.convert_to_tensor(shape)
    at_rows = tf.one_hot(tf.size(shape) + axis, tf.size(shape), dtype=shape.dtype)
    begin = at_rows * tf.cast(index, shape.dtype) * shape
    return tf.slice(make(shape * (1 + (count - 1) * at_rows)), begin, shape)
