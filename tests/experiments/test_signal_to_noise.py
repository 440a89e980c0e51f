"""The ratio of a gradient's mean to its noise, against NumPy on the same draws."""

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf.errors import UserError
from hvi_tf.experiments.iwhvi import gradient_snr_toy, signal_to_noise
from hvi_tf.inference import gradients, methods
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.objective import record

DRAWS = 40


@pytest.fixture
def toy():
    return gradient_snr_toy.Toy(dim=3, seed=0)


def test_ratios_equal_those_of_the_single_gradients(toy):
    model, variables = toy.upper()
    names, x, seed = ("reparameterized", "dreg"), tf.zeros([7, 1]), tf.constant([1, 2])
    settings = dict(K=2, M=1)
    ratios = signal_to_noise.make_ratios(
        model, methods.look_up("iwhvi"), variables, "eta", names, draws=DRAWS, **settings
    )(x, seed)
    for name, found in zip(names, ratios, strict=True):
        sample = []
        for i in range(DRAWS):
            _, own = tf.unstack(tf.random.split(tf.random.fold_in(seed, i), 2))
            _, ascent = gradients.value_and_gradients(
                model,
                methods.look_up("iwhvi"),
                x,
                variables,
                Counts(**settings),
                own,
                estimator=name,
            )
            sample.append(np.concatenate([g.numpy().ravel() for g in ascent.eta]))
        sample = np.array(sample, np.float64)
        expected = np.abs(sample.mean(axis=0)) / sample.std(axis=0, ddof=1)
        np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_a_parameter_without_noise_has_no_ratio(toy):
    """x is 0 for all draws. A multiplies z = 0, so its gradient is exactly 0."""
    model, variables = toy.lower()
    ratios = signal_to_noise.make_ratios(
        model, methods.look_up("iwae"), variables, "phi", ["reparameterized"], K=0, M=2, draws=5
    )(tf.zeros([4, 3]), tf.constant([0, 0]))
    of_A, of_b = ratios[0, :9], ratios[0, 9:]
    assert np.isnan(of_A).all()
    assert np.isfinite(of_b).all()


def test_a_single_draw_is_an_error(toy):
    model, variables = toy.upper()
    with pytest.raises(UserError, match="draws=1"):
        signal_to_noise.make_ratios(
            model, methods.look_up("iwhvi"), variables, "eta", ["dreg"], K=1, draws=1
        )


def test_minibatches_are_averaged_before_parameters():
    ratios = np.array([[1.0, 3.0, np.nan], [3.0, np.nan, np.nan]])
    found = signal_to_noise.summarize(ratios)
    assert found.mean == pytest.approx((2.0 + 3.0) / 2)
    assert (found.low, found.high) == (pytest.approx(2.05), pytest.approx(2.95))


def test_the_toys_bounds_meet_at_the_true_inverse(toy):
    """log N(z; 1, 2 I) is between L_K of IWAE and U_K, with tau near the true inverse."""
    toy.A.assign(0.5 * np.eye(3, dtype=np.float32))
    toy.b.assign(0.5 * np.ones(3, np.float32))
    z = toy.draw_z(4_000, tf.constant([3, 4]))
    exact = -0.25 * np.sum((z - 1.0) ** 2, axis=-1) - 1.5 * np.log(4.0 * np.pi)
    upper = -_bound(*toy.upper(), "iwhvi", tf.zeros([4_000, 1]), K=20, M=1)
    lower = _bound(*toy.lower(), "iwae", z, K=0, M=20)
    assert lower < exact.mean() < upper
    assert upper - lower < 0.2


def _bound(model, variables, name, x, K, M):
    method, counts = methods.look_up(name), Counts(K=K, M=M)
    _, objective = record(model, method, x, variables, counts, tf.constant([5, 6]))
    return float(objective.value)
