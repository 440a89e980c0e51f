"""Adam's learning rate per step and its weight decay, compared with Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hvi_tf.models.optimizers import Adam, rate_factor

STEPS = 40
KERAS = {
    "cosine": keras.optimizers.schedules.CosineDecay(0.3, STEPS, alpha=0.1),
    "linear": keras.optimizers.schedules.PolynomialDecay(0.3, STEPS, 0.03, power=1.0),
}


@pytest.mark.parametrize("schedule", KERAS)
def test_a_rate_falls_as_in_keras(schedule):
    for step in (0, 1, 20, 39, 40, 99):
        factor = rate_factor(tf.constant(step, tf.int64), schedule, STEPS, 0, 0.1)
        np.testing.assert_allclose(0.3 * factor, KERAS[schedule](step), rtol=1e-6)


def test_a_rate_with_warm_up_rises_first():
    factors = [float(rate_factor(tf.constant(s), "", 1, 4, 0.0)) for s in (0, 1, 3, 4, 99)]
    assert factors == [0.25, 0.5, 1.0, 1.0, 1.0]
    both = rate_factor(tf.constant(1), "linear", STEPS, 4, 0.0)
    np.testing.assert_allclose(both, 0.5 * (1 - 1 / STEPS), rtol=1e-6)


def path_of(optimizer, steps=5):
    """Returns the values of a kernel and a bias whose gradients are the values themselves."""
    kernel = keras.Variable(np.array([1.0, -2.0], np.float32), name="kernel")
    bias = keras.Variable(np.array([3.0], np.float32), name="bias")
    optimizer.build([kernel, bias])
    values = []
    for _ in range(steps):
        optimizer.apply([tf.identity(kernel.value), tf.identity(bias.value)], [kernel, bias])
        values.append(np.concatenate([kernel.numpy(), bias.numpy()]))
    return np.array(values)


def test_steps_are_those_of_keras_with_its_schedule():
    ours = Adam(0.3, schedule="cosine", final_fraction=0.1)
    ours.set_run_length(STEPS)
    theirs = keras.optimizers.Adam(KERAS["cosine"])
    np.testing.assert_allclose(path_of(ours), path_of(theirs), rtol=1e-6)


def test_an_assigned_rate_is_the_largest_rate():
    optimizer = Adam(0.3, warmup_steps=2)
    optimizer.learning_rate = 0.1
    np.testing.assert_allclose(optimizer.learning_rate, 0.05, rtol=1e-6)


def test_a_rate_without_a_run_length_does_not_fall():
    np.testing.assert_array_equal(path_of(Adam(0.3, schedule="cosine")), path_of(Adam(0.3)))


def test_a_rate_may_follow_the_steps_of_another_optimizer():
    step = tf.Variable(0, dtype=tf.int64)
    optimizer = Adam(0.3, schedule="linear", step=lambda: step)
    optimizer.set_run_length(10)
    optimizer.iterations.assign(7)
    np.testing.assert_allclose(optimizer.learning_rate, 0.3, rtol=1e-6)
    step.assign(1)
    np.testing.assert_allclose(optimizer.learning_rate, 0.27, rtol=1e-6)


def test_weights_decay_by_the_scheduled_rate_and_biases_do_not():
    def path(**options):
        optimizer = Adam(0.1, schedule="linear", **options)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        optimizer.set_run_length(2)
        return path_of(optimizer, steps=2)

    plain, decayed = path(), path(weight_decay=0.5)
    np.testing.assert_array_equal(decayed[:, 2], plain[:, 2])
    # Adam's first step is the rate, for gradients of any size.
    np.testing.assert_allclose(decayed[0, :2], [0.95 - 0.1, -1.9 + 0.1], rtol=1e-5)
    # The rate has fallen by half. Keras applies weight decay before the step.
    decay = decayed[0, 0] * 0.5 * 0.05
    assert decayed[0, 0] - decayed[1, 0] == pytest.approx(decay + 0.05, abs=0.005)
