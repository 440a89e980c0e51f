"""Checks of the arguments of `hvi.draw` and `hvi.value_and_gradients`."""

import pytest
import tensorflow as tf

import hvi_tf as hvi
from hvi_tf.inference import model_checks
from hvi_tf.inference.methods import METHODS
from tests.oracles.analytic import LinearGaussian

LG = LinearGaussian()
X = tf.constant(LG.observations(4))
ONES2 = tf.ones(2, tf.float64)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(method="iwhvi"), "method='iwhvi': must be a method"),
        (dict(estimator="zz"), "estimator='zz': bound='diwhvi' takes gdreg"),
        (dict(estimator=None), "estimator=None: bound='diwhvi' takes gdreg"),
        (dict(estimator="iwae-dreg"), "estimator='iwae-dreg': bound='diwhvi' takes"),
        (dict(inner=1.5), "inner=1.5: must be a number, from 0 to 1"),
        (dict(outer=float("nan")), "outer=nan: must be a number, from 0 to 1"),
        (dict(backward_samples=2), "backward_samples=2: must be below 2, the number of terms"),
        (dict(variables=None), "variables=None: must be hvi.ParameterGroups"),
        (dict(backward_samples=-1), "backward_samples=-1: .* at least 0"),
        (dict(backward_samples=True), "backward_samples=True: .* a whole number"),
        (dict(M=0), "M=0: .* at least 1"),
        (dict(L=2), "L=2: bound='diwhvi' with this prior fixes L=1"),
        (dict(method=METHODS["hvm"], K=0, M=1, backward_samples=2), "'hvm' has no sum"),
        (dict(method=METHODS["vae"], K=0, M=1, backward_samples=2), "'vae' has no sum"),
        (dict(seed=3), "seed=3: .* two whole numbers"),
        (dict(variables=hvi.ParameterGroups()), "no group holds a variable"),
        (dict(model=LG.model._replace(tau=None)), "tau=None: bound='diwhvi' needs it"),
    ],
)
def test_value_and_gradients_names_the_wrong_argument(values, message):
    v = tf.Variable(ONES2)
    given = dict(model=LG.model, method=METHODS["diwhvi"], x=X, K=2, M=2, seed=[0, 1])
    given |= dict(variables=hvi.ParameterGroups(phi=[v])) | values
    with pytest.raises((TypeError, ValueError), match=message):
        hvi.value_and_gradients(**given)


def test_each_model_is_checked_once(monkeypatch):
    checked = []
    monkeypatch.setattr(model_checks, "check_model", lambda *arguments: checked.append(arguments))
    given = dict(variables=hvi.ParameterGroups(phi=[tf.Variable(ONES2)]), K=2, M=2)
    for model in (LG.model, LG.model):  # equal models with different callables
        for seed in range(3):
            hvi.value_and_gradients(
                model, METHODS["diwhvi"], X, **given, seed=[seed, 1], estimator="gdreg"
            )
    assert len(checked) == 2


def test_draw_names_the_wrong_argument():
    given = dict(model=LG.model, method=METHODS["diwhvi"], x=X, K=1, M=2, seed=[0, 1])
    assert hvi.draw(**given).z.shape == (2, 4, 2)
    for values, message in (
        (dict(M=0), "M=0: .* at least 1"),
        (dict(K=True), "K=True: .* a whole number"),
        (dict(seed=0.5), "seed=0.5: .* two whole numbers"),
        (dict(model=None), "model=None: must be an hvi.Model"),
        (dict(method="vae"), "method='vae': must be a method"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            hvi.draw(**(given | values))
