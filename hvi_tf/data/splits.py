"""Named splits: which training images are held out, by their number in the stored order.

A split is a mask and not two arrays, so that whoever reads 600,000 images can put each one
where it belongs and never holds them twice.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Which images are held out for validation."""

    held_out: Callable[[int, int], np.ndarray]  # (number of images N, seed) -> bool [N]
    drawn: bool  # whether the seed makes a difference


def hold_out_first(count: int) -> Split:
    """The first `count` images are for validation."""
    return Split(lambda num_images, seed: np.arange(num_images) < count, drawn=False)


def hold_out_last(count: int) -> Split:
    """The last `count` images are for validation."""
    return Split(lambda num_images, seed: np.arange(num_images) >= num_images - count, drawn=False)


def hold_out_drawn(count: int) -> Split:
    """`count` images drawn without replacement, by the seed alone, are for validation.

    They are the first `count` of one permutation, so a larger set contains a smaller one.
    """

    def held_out(num_images: int, seed: int) -> np.ndarray:
        # RandomState and not default_rng: NumPy has frozen the streams of the former only.
        order = np.random.RandomState(seed).permutation(num_images)
        mask = np.zeros(num_images, bool)
        mask[order[:count]] = True
        return mask

    return Split(held_out, drawn=True)
