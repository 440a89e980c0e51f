"""`hvi.fit` of models of callables: data, variables and errors."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import hvi_tf as hvi
from tests.oracles.analytic import LinearGaussian, normal

LG = LinearGaussian()
X = tf.constant(LG.observations(4))
ONES2 = tf.ones(2, tf.float64)


class ForwardOnly(tfb.Bijector):
    """z = 2 y, without an inverse."""

    def __init__(self):
        super().__init__(forward_min_event_ndims=0, is_constant_jacobian=True, dtype=tf.float64)

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def _forward(self, y):
        return 2.0 * y

    def _forward_log_det_jacobian(self, y):
        return tf.math.log(tf.constant(2.0, tf.float64))


def test_a_flow_without_an_inverse_scores_its_own_draws():
    shift = tf.Variable(ONES2)

    def flow(psi, x):
        return tfd.TransformedDistribution(normal(x[:, :2] + shift, ONES2), ForwardOnly())

    model, variables = LG.model._replace(conditional=flow), hvi.ParameterGroups(phi=[shift])
    assert np.isfinite(hvi.evidence(model, X, bound="iwae", M=3, replicates=2).mean).all()
    assert np.isfinite(hvi.fit(model, X, variables, bound="vae", steps=1)).all()
    with pytest.raises(TypeError, match=r"conditional\(None, x\): no log_prob"):
        hvi.fit(model, X, variables, bound="vae", gradient="stl", steps=1)


def test_errors_name_a_variable_that_no_gradient_reaches():
    scale = tf.Variable(1.0, dtype=tf.float64, name="scale")
    fixed = normal(tf.zeros([4, 2], tf.float64), tf.exp(scale) * ONES2)  # made outside of the tape
    model = LG.model._replace(conditional=lambda psi, x: fixed)
    with pytest.raises(ValueError, match=r"no gradient reaches phi\[0\] \(scale"):
        hvi.fit(model, X, hvi.ParameterGroups(phi=[scale]), bound="vae", steps=2)
    with pytest.raises(ValueError, match="variables: no group holds a variable"):
        hvi.fit(model, X, hvi.ParameterGroups(), bound="vae")
    with pytest.raises(ValueError, match="gradient='dreg': bound='vae' takes reparameterized, stl"):
        hvi.fit(model, X, hvi.ParameterGroups(phi=[scale]), bound="vae", gradient="dreg")


def test_errors_name_the_wrong_argument():
    v = tf.Variable(ONES2)
    with pytest.raises(TypeError, match=r"is no list in hvi.ParameterGroups\(eta=\[...\]\)"):
        hvi.fit(LG.model, X, hvi.ParameterGroups(eta=v), bound="iwhvi", K=2)
    with pytest.raises(TypeError, match=r"variables=.*: must be hvi.ParameterGroups of lists"):
        hvi.fit(LG.model, X, [v], bound="iwhvi", K=2)
    with pytest.raises(ValueError, match="steps=0: must be a whole number, at least 1"):
        hvi.fit(LG.model, X, hvi.ParameterGroups(eta=[v]), bound="iwhvi", K=2, steps=0)
    with pytest.raises(ValueError, match="backward_samples=-1: must be a whole number"):
        hvi.fit(LG.model, X, hvi.ParameterGroups(eta=[v]), bound="iwhvi", K=2, backward_samples=-1)
    with pytest.raises(ValueError, match=r"x: shape \(3,\), wanted \(B, ...\)"):
        hvi.evidence(LG.model, X[0], bound="iwhvi", K=2)
    with pytest.raises(ValueError, match=r"float32.*use one dtype throughout"):
        hvi.evidence(LG.model, tf.cast(X, tf.float32), bound="iwhvi", K=2)


def test_minibatches_and_tf_variables_raise_the_bound():
    loc = tf.Variable(3.0 * ONES2)
    data = tf.constant(LG.observations(40))
    model = LG.model._replace(
        conditional=lambda psi, x: normal(loc + tf.zeros_like(x[:, :2]), 0.5 * ONES2)
    )
    course = hvi.fit(
        model,
        lambda step: tf.gather(data, (tf.range(8) + 8 * tf.cast(step, tf.int32)) % 40),
        hvi.ParameterGroups(phi=[loc]),
        bound="iwae",
        M=4,
        gradient="iwae-dreg",
        backward_samples=2,
        steps=100,
        seed=3,
        optimizer=tf.keras.optimizers.Adam(0.05),
    )
    assert course.shape == (100,)
    assert course[-20:].mean() > course[:20].mean()
