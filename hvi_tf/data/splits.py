"""Named splits: pure functions of all training images, in the order they are stored."""

from collections.abc import Callable

import numpy as np

Split = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # all -> (train, validation)

PERMUTATION_SEED = 2015


def hold_out_first(count: int) -> Split:
    """The first `count` images are for validation."""
    return lambda images: (images[count:], images[:count])


def hold_out_last(count: int) -> Split:
    """The last `count` images are for validation."""
    return lambda images: (images[:-count], images[-count:])


def hold_out_drawn(count: int) -> Split:
    """`count` images drawn without replacement, always the same, are for validation.

    They are the first `count` of one permutation, so a larger set contains a smaller one.
    Both parts keep the stored order.
    """

    def split(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # RandomState and not default_rng: NumPy has frozen the streams of the former only.
        order = np.random.RandomState(PERMUTATION_SEED).permutation(len(images))
        held_out = np.zeros(len(images), bool)
        held_out[order[:count]] = True
        return images[~held_out], images[held_out]

    return split
