"""Named splits: rules that hold out training images, by their index in the stored order.

A split is a mask, not two arrays. So a reader of 600,000 images can put each into its place
without a second copy.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """A rule that holds out images for validation."""

    held_out: Callable[[int, int], np.ndarray]  # (number of images N, seed) -> bool [N]
    drawn: bool  # whether the mask depends on the seed


def hold_out_first(count: int) -> Split:
    """Returns the split that holds out the first `count` images."""
    return Split(lambda num_images, seed: np.arange(num_images) < count, drawn=False)


def hold_out_last(count: int) -> Split:
    """Returns the split that holds out the last `count` images."""
    return Split(lambda num_images, seed: np.arange(num_images) >= num_images - count, drawn=False)


def hold_out_drawn(count: int) -> Split:
    """Returns the split that holds out `count` images, drawn without replacement.

    They are the first `count` of a permutation that depends only on the seed and on N. So a larger
    held-out set contains a smaller one.
    """

    def held_out(num_images: int, seed: int) -> np.ndarray:
        # NumPy guarantees the stream of RandomState, but not that of default_rng.
        order = np.random.RandomState(seed).permutation(num_images)
        mask = np.zeros(num_images, bool)
        mask[order[:count]] = True
        return mask

    return Split(held_out, drawn=True)
