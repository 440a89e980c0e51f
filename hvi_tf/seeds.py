"""Stateless seeds: every draw is a pure function of (seed, purpose, step, ...).

There is no generator to save, so a resumed run draws what an unbroken one would.
"""

import enum

import numpy as np
import tensorflow as tf


class Purpose(enum.IntEnum):
    """What a seed is for; two purposes never share a draw."""

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


def fold(seed: int, purpose: Purpose, *indices: int | tf.Tensor) -> tf.Tensor:
    """The int32 `[2]` seed for `purpose` at `indices` (step, replica, chunk, ...)."""
    folded = tf.constant([seed, int(purpose)], tf.int32)
    for index in indices:
        folded = tf.random.fold_in(folded, tf.cast(index, tf.int32))
    return folded


def initializer_seeds(seed: int) -> np.random.Generator:
    """A source of distinct integer seeds for the weight initializers of one model."""
    return np.random.default_rng([seed, int(Purpose.INITIALIZE)])
