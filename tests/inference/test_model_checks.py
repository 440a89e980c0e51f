"""Checks of a model: errors name the argument and the shapes."""

import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import hvi_tf as hvi
from hvi_tf.inference.methods import METHODS
from hvi_tf.inference.model_checks import check_model
from tests.oracles.analytic import HierarchicalPrior, LinearGaussian, Refinable, normal

LG = LinearGaussian()
X = tf.constant(LG.observations(4))
ONES2, ONES3 = tf.ones(2, tf.float64), tf.ones(3, tf.float64)

# Changed parts of a model, and the message.
BAD_MODELS = {
    "tau's event": (
        dict(tau=lambda z, x: normal(tf.zeros([*z.shape[:-1], 5], tf.float64), 1.0)),
        r"tau\(z, x\): draws psi of event shape \(5,\), but mixing\(x\) draws psi of event shape"
        r" \(2,\)",
    ),
    "tau without the batch": (
        dict(tau=lambda z, x: normal(ONES2, ONES2)),
        r"tau\(z, x\): draws: shape \(5, 2\), wanted \(5, 2, 4, D\) for x of shape \(4, 3\)",
    ),
    "tau missing": (dict(tau=None), r"tau=None: bound='diwhvi' needs it"),
    "event as batch": (
        dict(conditional=lambda psi, x: tfd.Normal(psi, ONES2)),
        r"conditional\(psi, x\): event shape \(\), but it has to score values of shape \(2, 4, 2\)|"
        r"conditional\(psi, x\).log_prob: shape \(3, 2, 4, 2\), wanted \(3, 2, 4\)",
    ),
    "prior of another z": (
        dict(prior=normal(ONES3, ONES3)),
        r"prior: event shape \(3,\), but it has to score values of shape \(2, 4, 2\)",
    ),
    "likelihood of another x": (
        dict(likelihood=lambda z: normal(z, ONES2)),
        r"likelihood\(z\): event shape \(2,\), but it has to score values of shape \(4, 3\)",
    ),
    "mixing without the batch": (
        dict(mixing=lambda x: normal(ONES2, ONES2)),
        r"mixing\(x\): draws: shape \(2, 2\), wanted \(2, 4, D\)",
    ),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_errors_name_the_argument_and_the_shapes(case):
    parts, message = BAD_MODELS[case]
    with pytest.raises(ValueError, match=message):
        hvi.evidence(LG.model._replace(**parts), X, bound="diwhvi", K=3, M=2)


def test_errors_name_a_prior_that_the_bound_cannot_use():
    hp = HierarchicalPrior()
    wrong = hp.prior._replace(inverse=lambda z: normal(tf.zeros([*z.shape[:-1], 4], z.dtype), 1.0))
    with pytest.raises(ValueError, match=r"prior.inverse\(z\): draws zeta of event shape \(4,\)"):
        hvi.evidence(hp.model._replace(prior=wrong), X, bound="iwhvi", K=3)
    none = hp.prior._replace(inverse=None)
    with pytest.raises(ValueError, match=r"prior.inverse=None: bound='iwhvi' draws zeta"):
        hvi.evidence(hp.model._replace(prior=none), X, bound="iwhvi", K=3)
    with pytest.raises(
        ValueError, match="prior: bound='dsivi' is for a Hierarchy, got Independent"
    ):
        hvi.evidence(LG.model, X, bound="dsivi")


def test_errors_name_a_missing_density():
    silent = LG.model._replace(
        conditional=lambda psi, x: hvi.Callables(sample_fn=lambda n, seed: tf.zeros([*n, 4, 2]))
    )
    with pytest.raises(TypeError, match=r"conditional\(None, x\): no log_prob .*'vae' needs its"):
        hvi.evidence(silent, X, bound="vae")
    with pytest.raises(ValueError, match="likelihood=None: bound='vae' needs it"):
        hvi.evidence(LG.model._replace(likelihood=None), X, bound="vae")


def test_only_a_fit_needs_reparameterized_draws():
    model = LG.model._replace(
        conditional=lambda psi, x: tfd.Independent(tfd.Poisson(tf.exp(psi)), 1)
    )
    check_model(model, METHODS["sivi"], X)
    with pytest.raises(ValueError, match=r"conditional\(psi, x\): a Independent .* not reparam"):
        hvi.fit(model, X, hvi.ParameterGroups(phi=[tf.Variable(1.0)]), bound="sivi", K=3)


def mixed_over_observations():
    """Returns models in which one density of an observation depends on the others."""
    likelihood = lambda z: hvi.Callables(  # noqa: E731
        lambda x: -0.5 * tf.reduce_sum((x - z) ** 2, axis=1)  # over the batch, not the event
    )
    return {
        "likelihood": LG.model._replace(likelihood=likelihood),
        "tau": LG.model._replace(tau=lambda z, x: normal(tf.reverse(z, axis=[1]), tf.ones_like(z))),
        "conditional": LG.model._replace(
            conditional=lambda psi, x: normal(tf.reverse(psi, axis=[-2]), ONES2)
        ),
    }


@pytest.mark.parametrize("name", mixed_over_observations())
def test_a_density_that_depends_on_other_observations_raises(name):
    """All shapes are right for two observations of two numbers each."""
    x = tf.constant([[0.3, 0.1], [-1.2, 0.4]], tf.float64)
    model = mixed_over_observations()[name]
    lg = LinearGaussian(x_dim=2)
    rest = {n: getattr(lg.model, n) for n in model._fields if n != name}
    with pytest.raises(ValueError, match=name + r".*depends on another observation"):
        hvi.evidence(model._replace(**rest), x, bound="diwhvi", K=2, M=2)


def test_a_proposal_may_depend_on_all_observations():
    model = LG.model._replace(
        mixing=lambda x: normal(tf.zeros_like(x[:, :2]) + tf.reduce_mean(x), ONES2)
    )
    check_model(model, METHODS["diwhvi"], X)


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_a_density_of_the_wrong_shape_raises_at_every_batch_size(rows):
    model = hvi.Model(
        prior=normal(tf.zeros(1), tf.ones(1)),
        likelihood=lambda z: hvi.Callables(lambda x: -0.5 * (x - z[..., 0]) ** 2),
        conditional=lambda psi, x: normal(0.5 * x, 0.7 * tf.ones_like(x)),
    )
    with pytest.raises(ValueError, match="likelihood"):
        hvi.evidence(model, tf.zeros([rows, 1]), bound="vae")


def test_errors_name_a_density_of_another_dtype():
    single = LG.model._replace(tau=lambda z, x: normal(tf.zeros([*z.shape[:-1], 2]), 1.0))
    with pytest.raises(ValueError, match=r"tau\(z, x\).log_prob: float32, but .* is float64"):
        hvi.evidence(single, X, bound="diwhvi", K=3)


def test_the_error_of_a_keras_layer_of_fixed_rank_names_its_shape():
    layer = tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Dense(2)])
    model = LG.model._replace(conditional=lambda psi, x: normal(layer(psi), ONES2))
    with pytest.raises(ValueError, match=r"conditional: .*Expected shape \(None, 2\)") as error:
        hvi.evidence(model, X, bound="diwhvi", K=3)
    assert "tf.reshape" in str(error.value)
    assert "one dtype" not in str(error.value)
    assert "\x1b" not in str(error.value)


def test_errors_name_a_mistake_in_localize():
    lg = Refinable()
    x = tf.constant(lg.observations(2))
    local = lg.localize(x)
    ignored = local.at(local.start)
    fixed = ignored._replace(conditional=lambda psi, x: lg.conditional(None, x))
    flipped = ignored._replace(
        conditional=lambda psi, x: tfd.Independent(tfd.Bernoulli(logits=x[:, :2]), 1)
    )
    mistakes = [
        (ignored, TypeError, "localize.x.: a Model, wanted a LocalModel"),
        (hvi.LocalModel(tf.zeros([4]), local.at), ValueError, r"wanted \(2, P\)"),
        (hvi.LocalModel(local.start, lambda lam: fixed), ValueError, "no gradient reaches lambda"),
        (hvi.LocalModel(local.start, lambda lam: flipped), ValueError, "reparameteriz"),
    ]
    with pytest.raises(TypeError, match="localize=None: must be a function"):
        hvi.refined_evidence(None, x, steps=2, learning_rate=0.1)
    for returned, kind, message in mistakes:
        with pytest.raises(kind, match=message):
            hvi.refined_evidence(lambda x, r=returned: r, x, steps=2, learning_rate=0.1)
