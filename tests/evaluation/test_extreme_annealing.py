"""Annealed importance sampling of extreme likelihoods is finite."""

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf.evaluation import ais
from hvi_tf.models import distributions
from tests.oracles.extremes import FLOAT16, SEED, log_mean_exp


@pytest.mark.parametrize("value", [-FLOAT16, FLOAT16])
def test_the_evidence_of_a_flat_likelihood_is_its_value(value):
    target = ais.Target(
        lambda z: distributions.standard_normal([], 2).log_prob(z),
        lambda z: tf.fill(tf.shape(z)[:-1], tf.constant(value)) + 0.0 * tf.reduce_sum(z, -1),
    )
    settings = dict(step_size=0.1, num_steps=5, leapfrog_steps=1, seed=SEED)
    state = [tf.random.stateless_normal([5, 3, 2], SEED)]
    for direction in (ais.forward, ais.reverse):
        result = direction(target, state, **settings)
        np.testing.assert_allclose(result.log_evidence, value, rtol=1e-5)
        np.testing.assert_allclose(result.ess, 5.0, rtol=1e-2)


def test_weights_that_span_10_000_nats_are_finite_and_below_the_evidence():
    """The start of each chain is a draw of the prior; the step size adapts to the posterior."""
    target = ais.Target(
        lambda z: distributions.standard_normal([], 2).log_prob(z),
        lambda z: -1e4 * tf.reduce_sum(tf.square(z - 1.0), axis=-1),
    )
    state = [tf.random.stateless_normal([8, 2, 2], SEED)]
    size = ais.tune_step_size(target, state, leapfrog_steps=2, seed=SEED, num_steps=30)
    assert np.all(size < 0.05)  # the first size is 0.1, and the posterior has the width 0.007
    settings = dict(num_steps=20, leapfrog_steps=2, seed=SEED)
    tuned = ais.forward(target, state, step_size=size, **settings)
    stuck = ais.forward(target, state, step_size=1e-5, **settings)
    assert np.all(np.ptp(stuck.log_weights, axis=0) > 1e4)
    for result in (tuned, stuck):
        for name, value in result._asdict().items():
            assert np.all(np.isfinite(value)), name
        expected = log_mean_exp(result.log_weights.numpy().astype(np.float64))
        np.testing.assert_allclose(result.log_evidence, expected, rtol=1e-6)
    exact = 2 * (-0.5 * np.log(20_001) - 0.5 * 20_000 / 20_001)
    assert np.all(tuned.log_evidence < exact + 5.0)
