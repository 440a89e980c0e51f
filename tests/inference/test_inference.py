"""The library on models of one's own: both examples, and errors that name argument and shapes."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import hvi_tf as hvi
from hvi_tf.examples import laplace, logistic_regression
from hvi_tf.inference import model_checks as checks
from hvi_tf.inference.methods import METHODS
from hvi_tf.inference.model_checks import check_model
from tests.oracles.analytic import HierarchicalPrior, LinearGaussian, Refinable, normal


def test_everything_public_is_there_and_import_is_cheap():
    for name in hvi.__all__:
        assert getattr(hvi, name) is not None
    code = "import sys, hvi_tf; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'elbo'"):
        _ = hvi.elbo


@pytest.mark.parametrize("bound", ["iwae", "sivi-equicomp", "diwhvi", "diwhvi-mixture"])
def test_evidence_has_an_honest_error(bound):
    """More draws come closer to the exact evidence from below."""
    lg = LinearGaussian(tau_shift=0.3)
    x, exact = lg.observations(3), lg.log_evidence(lg.observations(3))
    counts = {} if bound == "iwae" else {"K": 20}
    few = hvi.evidence(lg.model, x, bound=bound, M=2, replicates=50, **counts)
    many = hvi.evidence(lg.model, x, bound=bound, M=2_000, replicates=10, **counts)
    assert np.all(few.mean < exact)
    assert np.all(np.abs(exact - many.mean) < 5 * many.standard_error + 0.02)
    np.testing.assert_allclose(few.standard_error, few.replicates.std(0, ddof=1) / np.sqrt(50))
    assert "nats" in str(many)


def test_hierarchical_prior_through_the_front_door():
    hp = HierarchicalPrior(tau_shift=0.2, rho_shift=0.3)
    x = hp.observations(2)
    found = hvi.evidence(hp.model, x, bound="diwhvi", K=10, L=20, M=1_000)
    exact = hp.log_evidence(x)
    assert np.all(np.abs(found.mean - exact) < 5 * found.standard_error + 0.05)


def logistic_log_evidence(data, draws=400_000):
    """By importance sampling from the Laplace approximation, in NumPy."""
    design, labels = data.design.astype(np.float64), data.labels[0]
    w = np.zeros(design.shape[1])
    for _ in range(50):  # Newton
        p = scipy.special.expit(design @ w)
        precision = np.eye(len(w)) + design.T @ (design * (p * (1 - p))[:, None])
        w += np.linalg.solve(precision, design.T @ (labels - p) - w)
    root = np.linalg.cholesky(np.linalg.inv(precision))
    noise = np.random.default_rng(0).standard_t(8, size=(draws, len(w)))
    draws_w = w + 1.1 * noise @ root.T
    logits = draws_w @ design.T
    log_joint = np.sum(labels * logits - np.logaddexp(0, logits), axis=1)
    log_joint += scipy.stats.norm.logpdf(draws_w).sum(axis=1)
    log_q = scipy.stats.t.logpdf(noise, 8).sum(axis=1) - np.linalg.slogdet(1.1 * root)[1]
    return scipy.special.logsumexp(log_joint - log_q) - np.log(draws)


@pytest.mark.long
def test_logistic_regression_semi_implicit_beats_factorized():
    """Both below the evidence; the mixture closes most of the Gaussian's gap."""
    data = logistic_regression.simulate()
    exact = logistic_log_evidence(data)
    x, values = np.repeat(data.labels, 32, axis=0), {}
    for name, bound, gradient, counts, steps in (
        ("factorized", "vae", "stl", {}, 400),
        ("semi_implicit", "iwhvi", "gdreg", {"K": 10}, 1_000),
    ):
        model, variables = getattr(logistic_regression, name)(data)
        adam = tf.keras.optimizers.Adam(5e-3)
        course = hvi.fit(
            *(model, x, variables),
            **dict(bound=bound, gradient=gradient, steps=steps, optimizer=adam, **counts),
        )
        assert course[-50:].mean() > course[:50].mean() + 1
        values[name] = hvi.evidence(model, data.labels, bound=bound, replicates=300, **counts)
        assert values[name].mean[0] < exact
    gaps = {name: exact - value.mean[0] for name, value in values.items()}
    assert gaps["semi_implicit"] < 0.5 * gaps["factorized"], gaps


def test_laplace_gamma_tau_tightens_sivi():
    model, variables = laplace.entropy_model(dim=10, hidden=(50, 50))
    exact = -10 * (1 + np.log(2))
    batch, many = tf.zeros([100, 1]), tf.zeros([4_000, 1])
    sivi = -hvi.evidence(model, many, bound="sivi", K=10, replicates=2).mean
    adam = tf.keras.optimizers.Adam(3e-3)
    hvi.fit(
        model, batch, variables, bound="iwhvi", K=10, gradient="dreg", steps=400, optimizer=adam
    )
    fitted = -hvi.evidence(model, many, bound="iwhvi", K=10, replicates=2).mean
    assert exact < fitted.mean()
    assert fitted.mean() - exact < 0.5 * (sivi.mean() - exact)


def test_plain_functions_will_do():
    """An unnormalised likelihood and an implicit q(psi|x), of which only draws exist."""
    lg = LinearGaussian()
    x = lg.observations(2)
    plain = lg.model._replace(
        likelihood=lambda z: hvi.Callables(log_prob_fn=lg.likelihood(z).log_prob),
        prior=hvi.Callables(log_prob_fn=lg.prior.log_prob),
        mixing=lambda x: hvi.Callables(sample_fn=lambda n, seed: lg.mixing(x).sample(n, seed)),
    )
    one = hvi.evidence(plain, x, bound="sivi", K=5, M=50)
    two = hvi.evidence(lg.model, x, bound="sivi", K=5, M=50)
    np.testing.assert_allclose(one.mean, two.mean)
    with pytest.raises(
        TypeError, match=r"mixing\(x\): no log_prob .* bound='iwhvi' needs its dens"
    ):
        hvi.evidence(plain, x, bound="iwhvi", K=5)


LG = LinearGaussian()
X = tf.constant(LG.observations(4))
ONES2, ONES3 = tf.ones(2, tf.float64), tf.ones(3, tf.float64)
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
def test_a_wrong_model_is_told_by_argument_and_shapes(case):
    parts, message = BAD_MODELS[case]
    with pytest.raises(ValueError, match=message):
        hvi.evidence(LG.model._replace(**parts), X, bound="diwhvi", K=3, M=2)


def test_rho_of_another_zeta():
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


def test_what_is_missing_is_named():
    silent = LG.model._replace(
        conditional=lambda psi, x: hvi.Callables(sample_fn=lambda n, seed: tf.zeros([*n, 4, 2]))
    )
    with pytest.raises(TypeError, match=r"conditional\(None, x\): no log_prob .*'vae' needs its"):
        hvi.evidence(silent, X, bound="vae")
    with pytest.raises(ValueError, match="likelihood=None: bound='vae' needs it"):
        hvi.evidence(LG.model._replace(likelihood=None), X, bound="vae")


def test_whole_numbers_can_be_observed():
    counts = tf.constant([[1, 0, 4], [2, 2, 0]])
    model = LG.model._replace(
        likelihood=lambda z: tfd.Independent(tfd.Poisson(tf.exp(z @ tf.ones([2, 3], z.dtype))), 1),
        conditional=lambda psi, x: normal(tf.zeros([len(x), 2], tf.float64), ONES2),
    )
    model = model._replace(
        likelihood=lambda z: hvi.Callables(
            log_prob_fn=lambda x: tf.reduce_sum(
                tfd.Poisson(tf.ones([], z.dtype)).log_prob(tf.cast(x, z.dtype)) + 0.0 * z[..., :1],
                -1,
            )
        )
    )
    found = hvi.evidence(model, counts, bound="vae", replicates=5)
    assert np.all(np.isfinite(found.mean))


def test_a_draw_of_zero_density_is_no_nan():
    model = LG.model._replace(prior=tfd.Independent(tfd.Uniform(-3.0 * ONES2, 3.0 * ONES2), 1))
    found = hvi.evidence(model, X, bound="iwae", M=20, replicates=5)
    assert np.all(np.isfinite(found.mean))


def test_draws_that_are_not_reparameterized():
    model = LG.model._replace(
        conditional=lambda psi, x: tfd.Independent(tfd.Poisson(tf.exp(psi)), 1)
    )
    check_model(model, METHODS["sivi"], X)  # a bound needs no path
    with pytest.raises(ValueError, match=r"conditional\(psi, x\): a Independent .* not reparam"):
        hvi.fit(model, X, hvi.ParameterGroups(phi=[tf.Variable(1.0)]), bound="sivi", K=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(method="iwhvi"), "method='iwhvi': must be a row"),
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
def test_value_and_gradients_checks_what_fit_checks(values, message):
    v = tf.Variable(ONES2)
    given = dict(model=LG.model, method=METHODS["diwhvi"], x=X, K=2, M=2, seed=[0, 1])
    given |= dict(variables=hvi.ParameterGroups(phi=[v])) | values
    with pytest.raises((TypeError, ValueError), match=message):
        hvi.value_and_gradients(**given)


def test_a_model_is_checked_once(monkeypatch):
    checked = []
    monkeypatch.setattr(checks, "check_model", lambda *arguments: checked.append(arguments))
    given = dict(variables=hvi.ParameterGroups(phi=[tf.Variable(ONES2)]), K=2, M=2)
    for model in (LG.model, LG.model):  # equal models, each with callables of its own
        for seed in range(3):
            hvi.value_and_gradients(
                model, METHODS["diwhvi"], X, **given, seed=[seed, 1], estimator="gdreg"
            )
    assert len(checked) == 2


def mixed_over_observations():
    """Models in which a density of an observation depends on the others, by one callable each."""
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
def test_a_density_that_depends_on_other_observations_is_refused(name):
    """With two observations of two numbers each, none of these shapes is wrong."""
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


class OfOwnDrawsOnly(tfb.Bijector):
    """z = 2 y, whose inverse is not known."""

    def __init__(self):
        super().__init__(forward_min_event_ndims=0, is_constant_jacobian=True, dtype=tf.float64)

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def _forward(self, y):
        return 2.0 * y

    def _forward_log_det_jacobian(self, y):
        return tf.math.log(tf.constant(2.0, tf.float64))


def test_a_flow_that_scores_only_its_own_draws():
    shift = tf.Variable(ONES2)

    def flow(psi, x):
        return tfd.TransformedDistribution(normal(x[:, :2] + shift, ONES2), OfOwnDrawsOnly())

    model, variables = LG.model._replace(conditional=flow), hvi.ParameterGroups(phi=[shift])
    assert np.isfinite(hvi.evidence(model, X, bound="iwae", M=3, replicates=2).mean).all()
    assert np.isfinite(hvi.fit(model, X, variables, bound="vae", steps=1)).all()
    with pytest.raises(TypeError, match=r"conditional\(None, x\): no log_prob"):
        hvi.fit(model, X, variables, bound="vae", gradient="stl", steps=1)


def test_draw_checks_its_counts():
    given = dict(model=LG.model, method=METHODS["diwhvi"], x=X, K=1, M=2, seed=[0, 1])
    assert hvi.draw(**given).z.shape == (2, 4, 2)
    for values, message in (
        (dict(M=0), "M=0: .* at least 1"),
        (dict(K=True), "K=True: .* a whole number"),
        (dict(seed=0.5), "seed=0.5: .* two whole numbers"),
        (dict(model=None), "model=None: must be an hvi.Model"),
        (dict(method="vae"), "method='vae': must be a row"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            hvi.draw(**(given | values))


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_a_density_of_the_wrong_shape_is_refused_at_every_number_of_rows(rows):
    model = hvi.Model(
        prior=normal(tf.zeros(1), tf.ones(1)),
        likelihood=lambda z: hvi.Callables(lambda x: -0.5 * (x - z[..., 0]) ** 2),
        conditional=lambda psi, x: normal(0.5 * x, 0.7 * tf.ones_like(x)),
    )
    with pytest.raises(ValueError, match="likelihood"):
        hvi.evidence(model, tf.zeros([rows, 1]), bound="vae")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(bound="elbo"), "bound='elbo': unknown; choose one of vae"),
        (dict(bound="bsvi"), "bound='bsvi': refines local parameters, .* see hvi.refined_evidence"),
        (dict(bound="vae", K=3), "K=3: bound='vae' with this prior fixes K=0"),
        (dict(bound="iwhvi", L=3), "L=3: bound='iwhvi' with this prior fixes L=1"),
        (dict(bound="diwhvi", M=0), "M=0: must be a whole number, at least 1"),
        (dict(bound="diwhvi", K=2.5), "K=2.5: must be a whole number, at least 0"),
        (dict(bound="vae", replicates=1), "replicates=1: must be a whole number, at least 2"),
        (dict(replicates="3"), "replicates='3': must be a whole number"),
        (dict(K=True), "K=True: must be a whole number"),
        (dict(seed=None), "seed=None: must be a whole number"),
        (dict(seed=1.5), "seed=1.5: must be a whole number"),
        (dict(seed=2**31), "seed=2147483648: .* at most 2147483647"),
        (dict(bound=["vae"]), r"bound=\['vae'\]: unknown"),
    ],
)
def test_bad_counts_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        hvi.evidence(LG.model, X, **values)


def test_counts_of_any_integer_type_are_the_same():
    counts = dict(K=3, M=2, replicates=2, seed=5)
    plain = hvi.evidence(LG.model, X, **counts)
    for integer in (np.int64, np.array, tf.constant):
        other = hvi.evidence(LG.model, X, **{name: integer(n) for name, n in counts.items()})
        np.testing.assert_array_equal(plain.replicates, other.replicates)


def test_what_is_no_model_is_named():
    with pytest.raises(TypeError, match=r"model=None: must be an hvi.Model"):
        hvi.evidence(None, X)
    with pytest.raises(TypeError, match="model="):
        hvi.fit(LG.model.prior, X, hvi.ParameterGroups(phi=[tf.Variable(1.0)]))


def test_graphs_and_numeric_checks_are_refused_by_name():
    with pytest.raises(RuntimeError, match=r"evidence: called inside a tf.function"):
        tf.function(lambda: hvi.evidence(LG.model, X).mean, autograph=False)()
    tf.debugging.enable_check_numerics()
    try:
        with pytest.raises(RuntimeError, match=r"evidence: .*disable_check_numerics"):
            hvi.evidence(LG.model, X)
    finally:
        tf.debugging.disable_check_numerics()


def test_a_density_of_another_dtype_is_named():
    single = LG.model._replace(tau=lambda z, x: normal(tf.zeros([*z.shape[:-1], 2]), 1.0))
    with pytest.raises(ValueError, match=r"tau\(z, x\).log_prob: float32, but .* is float64"):
        hvi.evidence(single, X, bound="diwhvi", K=3)


def test_a_keras_layer_of_fixed_rank_is_told_by_its_shape():
    layer = tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Dense(2)])
    model = LG.model._replace(conditional=lambda psi, x: normal(layer(psi), ONES2))
    with pytest.raises(ValueError, match=r"conditional: .*Expected shape \(None, 2\)") as error:
        hvi.evidence(model, X, bound="diwhvi", K=3)
    assert "tf.reshape" in str(error.value)
    assert "one dtype" not in str(error.value)
    assert "\x1b" not in str(error.value)


def test_evidence_says_when_its_error_is_not_to_be_relied_on():
    far = LG.model._replace(conditional=lambda psi, x: normal(5.0 + 0.0 * x[:, :2], 0.1 * ONES2))
    found = hvi.evidence(far, X[:1], bound="iwae", M=100, replicates=3)
    assert found.diagnostics["pareto_k_outer"][0] > 0.7
    size, k = found.diagnostics["ess_outer"][0], found.diagnostics["pareto_k_outer"][0]
    assert f"{size:.1f} of 100, Pareto k {k:.2f}, above 0.7" in str(found)
    near = hvi.evidence(LG.model, X[:1], bound="diwhvi", K=20, M=100, replicates=3)
    assert "of 100, Pareto k" in str(near)
    assert "rely" not in str(near)
    single = hvi.evidence(LG.model, X[:1], bound="hvm", replicates=3)
    assert "sample size" not in str(single)
    assert np.isnan(single.diagnostics["pareto_k_outer"]).all()


def test_a_replicate_of_zero_density_has_no_error():
    corner = tfd.Independent(tfd.Uniform(0.0 * ONES2, 3.0 * ONES2), 1)
    found = hvi.evidence(LG.model._replace(prior=corner), X, bound="hvm", replicates=5)
    lost = np.isneginf(found.replicates[:, 0]).sum()
    assert lost
    assert f"log p(x[0]) >= -inf nats: in {lost} of 5 replicates" in str(found)
    assert "nan" not in str(found)
    endless = LG.model._replace(
        likelihood=lambda z: hvi.Callables(lambda x: tf.fill(z.shape[:-1], ONES2[0] / 0.0))
    )
    with pytest.raises(ValueError, match="the bound is \\+inf"):
        hvi.evidence(endless, X, bound="hvm")


def test_fit_says_what_no_gradient_reaches():
    scale = tf.Variable(1.0, dtype=tf.float64, name="scale")
    fixed = normal(tf.zeros([4, 2], tf.float64), tf.exp(scale) * ONES2)  # made once, before
    model = LG.model._replace(conditional=lambda psi, x: fixed)
    with pytest.raises(ValueError, match=r"no gradient reaches phi\[0\] \(scale"):
        hvi.fit(model, X, hvi.ParameterGroups(phi=[scale]), bound="vae", steps=2)
    with pytest.raises(ValueError, match="variables: no group holds a variable"):
        hvi.fit(model, X, hvi.ParameterGroups(), bound="vae")
    with pytest.raises(ValueError, match="gradient='dreg': bound='vae' takes reparameterized, stl"):
        hvi.fit(model, X, hvi.ParameterGroups(phi=[scale]), bound="vae", gradient="dreg")


def test_mistaken_arguments_of_fit():
    v = tf.Variable(ONES2)
    with pytest.raises(TypeError, match=r"is no list in hvi.ParameterGroups\(eta=\[...\]\)"):
        hvi.fit(LG.model, X, hvi.ParameterGroups(eta=v), bound="iwhvi", K=2)
    with pytest.raises(TypeError, match=r"variables=.*: must be hvi.ParameterGroups of lists"):
        hvi.fit(LG.model, X, [v], bound="iwhvi", K=2)
    with pytest.raises(ValueError, match="steps=0: must be a whole number, at least 1"):
        hvi.fit(LG.model, X, hvi.ParameterGroups(eta=[v]), bound="iwhvi", K=2, steps=0)
    with pytest.raises(ValueError, match="backward_samples=-1: must be a whole number"):
        hvi.fit(
            *(LG.model, X, hvi.ParameterGroups(eta=[v])),
            **dict(bound="iwhvi", K=2, backward_samples=-1),
        )
    with pytest.raises(ValueError, match=r"x: shape \(3,\), wanted \(B, ...\)"):
        hvi.evidence(LG.model, X[0], bound="iwhvi", K=2)
    with pytest.raises(ValueError, match=r"float32.*use one dtype throughout"):
        hvi.evidence(LG.model, tf.cast(X, tf.float32), bound="iwhvi", K=2)


def test_fit_takes_minibatches_and_tf_variables():
    loc = tf.Variable(3.0 * ONES2)
    data = tf.constant(LG.observations(40))
    model = LG.model._replace(
        conditional=lambda psi, x: normal(loc + tf.zeros_like(x[:, :2]), 0.5 * ONES2)
    )
    course = hvi.fit(
        *(model, lambda step: tf.gather(data, (tf.range(8) + 8 * tf.cast(step, tf.int32)) % 40)),
        hvi.ParameterGroups(phi=[loc]),
        **dict(bound="iwae", M=4, gradient="iwae-dreg", backward_samples=2, steps=100, seed=3),
        optimizer=tf.keras.optimizers.Adam(0.05),
    )
    assert course.shape == (100,)
    assert course[-20:].mean() > course[:20].mean()


def test_refined_evidence_of_a_model_of_ones_own():
    lg = Refinable()
    x = tf.constant(lg.observations(2))
    settings = dict(steps=20, learning_rate=0.1, replicates=40)
    bsvi = hvi.refined_evidence(lg.localize, x, **settings)
    svi = hvi.refined_evidence(lg.localize, x, bound="svi", draws=5, **settings)
    exact = lg.log_evidence(x)
    assert np.all(bsvi.mean < exact + 3 * bsvi.standard_error)
    assert np.all(bsvi.mean > exact - 0.2)
    assert np.sum(bsvi.mean) > np.sum(svi.mean) > np.sum(bsvi.diagnostics["elbo_start"])
    assert "log p(x[0]) >=" in str(bsvi)
    with pytest.raises(ValueError, match="steps=0: must be a whole number, at least 1"):
        hvi.refined_evidence(lg.localize, x, steps=0, learning_rate=0.1)


def test_mistakes_in_localize_are_named():
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
