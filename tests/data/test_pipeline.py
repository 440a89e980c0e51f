"""The batch of a step is a pure function of (seed, step)."""

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.data import pipeline
from hvi_tf.errors import UserError

# Pixels are 0 or 255, so a binarized image still shows the index of its image.
IMAGES = np.where(np.arange(10)[:, None] >> np.arange(8)[None] & 1, 255, 0).astype(np.uint8)


def rows_of(batch):
    return (batch.numpy().astype(int) << np.arange(8)).sum(axis=1)


def test_each_epoch_is_another_permutation():
    batches = list(pipeline.training_batches(IMAGES, 5, seed=3, first_step=0, end_step=6))
    epochs = [np.concatenate([rows_of(b) for b in batches[2 * e : 2 * e + 2]]) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert not np.array_equal(epochs[0], epochs[1])


def test_starting_later_gives_the_same_batches():
    images = np.random.default_rng(0).integers(0, 256, (64, 9)).astype(np.uint8)
    whole = list(pipeline.training_batches(images, 16, seed=1, first_step=0, end_step=9))
    resumed = list(pipeline.training_batches(images, 16, seed=1, first_step=5, end_step=9))
    np.testing.assert_array_equal(np.stack(whole[5:]), np.stack(resumed))


def test_another_seed_gives_other_batches():
    one = next(iter(pipeline.training_batches(IMAGES, 5, 1, 0, 1)))
    other = next(iter(pipeline.training_batches(IMAGES, 5, 2, 0, 1)))
    assert not np.array_equal(one, other)


def test_every_visit_binarizes_again_with_the_intensity_as_probability(seed):
    images = np.array([[0, 51, 128, 255]], np.uint8)
    batches = pipeline.training_batches(images, 1, seed, 0, 4000)
    mean = np.concatenate(list(batches.as_numpy_iterator())).mean(axis=0)
    assert mean[0] == 0.0
    assert mean[3] == 1.0
    np.testing.assert_allclose(mean[1:3], [51 / 255, 128 / 255], atol=4.5 * 0.5 / np.sqrt(4000))


def test_intensities_from_0_to_1_draw_like_those_from_0_to_255():
    images = np.random.default_rng(0).integers(0, 256, (64, 9)).astype(np.uint8)
    scaled = images.astype(np.float32) / np.float32(255)
    for first, other in zip(
        pipeline.training_batches(images, 16, 1, 0, 6),
        pipeline.training_batches(scaled, 16, 1, 0, 6),
        strict=True,
    ):
        np.testing.assert_array_equal(first, other)


def test_float_intensities_are_not_rounded_to_256_levels(seed):
    images = np.array([[0.0, 0.0015, 0.3333, 1.0]], np.float32)
    draws = 100_000
    repeated = np.repeat(images, draws, axis=0)
    mean = pipeline.fixed_observation(repeated, "bernoulli", seed, 0).numpy().mean(0)
    assert (mean[0], mean[3]) == (0.0, 1.0)
    inner = images[0, 1:3]
    np.testing.assert_array_less(
        np.abs(mean[1:3] - inner), 4.5 * np.sqrt(inner * (1 - inner) / draws)
    )


def test_a_fixed_binarization_depends_on_the_purpose_alone():
    images = np.full((20, 30), 128, np.uint8)
    first = pipeline.fixed_observation(images, "bernoulli", 0, randomness.Purpose.VALIDATE)
    again = pipeline.fixed_observation(images, "bernoulli", 0, randomness.Purpose.VALIDATE)
    other = pipeline.fixed_observation(images, "bernoulli", 0, randomness.Purpose.EVALUATE)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == tf.float32


def test_the_rest_of_an_epoch_is_dropped():
    assert pipeline.steps_per_epoch(55_000, 256) == 214
    batches = list(pipeline.training_batches(IMAGES, 4, 0, 0, 4))  # 2 steps an epoch
    assert all(len(set(rows_of(b))) == 4 for b in batches)


LEVELS = np.arange(256, dtype=np.uint8)[None]


def test_levels_are_observed_unchanged_at_every_visit():
    first, second = pipeline.training_batches(
        LEVELS, 1, 0, 0, 2, likelihood="discretized_logistic"
    ).as_numpy_iterator()
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, LEVELS / np.float32(255))
    np.testing.assert_array_equal(first, second)


def test_an_observation_determines_its_level():
    seen = pipeline.fixed_observation(
        LEVELS, "discretized_logistic", 0, randomness.Purpose.VALIDATE
    )
    assert (float(seen[0, 0]), float(seen[0, -1])) == (0.0, 1.0)
    np.testing.assert_array_equal(np.rint(255 * seen.numpy()), LEVELS)


def test_the_likelihood_does_not_change_the_order_of_images():
    numbers = np.arange(12, dtype=np.uint8)[:, None]
    bits = np.where(numbers >> np.arange(4) & 1, 255, 0).astype(np.uint8)
    levels = pipeline.training_batches(numbers, 4, 3, 0, 6, likelihood="discretized_logistic")
    binary = pipeline.training_batches(bits, 4, 3, 0, 6)
    for level, drawn in zip(levels.as_numpy_iterator(), binary.as_numpy_iterator(), strict=True):
        visited = (drawn.astype(int) << np.arange(4)).sum(axis=1)
        np.testing.assert_array_equal(np.rint(255 * level[:, 0]), visited)


def test_the_error_names_a_likelihood_that_needs_levels():
    message = "--likelihood=discretized_logistic: omniglot has no 8-bit levels; choose bernoulli"
    with pytest.raises(UserError, match=message):
        pipeline.check_likelihood(np.dtype("float32"), "omniglot", "discretized_logistic")
    pipeline.check_likelihood(np.dtype("float32"), "omniglot", "bernoulli")
    pipeline.check_likelihood(np.dtype("uint8"), "svhn", "discretized_logistic")
    pipeline.check_likelihood(np.dtype("uint8"), "mnist", "bernoulli")
    with pytest.raises(ValueError, match="images of float32: only uint8 has 256 levels"):
        pipeline.fixed_observation(np.ones((2, 3), np.float32), "discretized_logistic", 0, 0)
