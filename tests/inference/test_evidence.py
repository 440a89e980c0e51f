"""`hvi.evidence` and `hvi.refined_evidence` of models of callables."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import hvi_tf as hvi
from tests.oracles.analytic import HierarchicalPrior, LinearGaussian, Refinable, normal

LG = LinearGaussian()
X = tf.constant(LG.observations(4))
ONES2 = tf.ones(2, tf.float64)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "bound",
    [
        "iwae",
        pytest.param("sivi-equicomp", marks=[pytest.mark.long]),
        "diwhvi",
        pytest.param("diwhvi-mixture", marks=[pytest.mark.long]),
    ],
)
@pytest.mark.parametrize(
    ("M", "replicates"),
    [(500, (10, 5)), pytest.param(2_000, (50, 10), marks=[pytest.mark.long])],
)
def test_the_evidence_is_within_its_errors_of_the_exact_value(bound, M, replicates):
    """Few draws are below the exact evidence; many are close to it."""
    lg = LinearGaussian(tau_shift=0.3)
    x, exact = lg.observations(3), lg.log_evidence(lg.observations(3))
    counts = {} if bound == "iwae" else {"K": 20}
    few = hvi.evidence(lg.model, x, bound=bound, M=2, replicates=replicates[0], **counts)
    many = hvi.evidence(lg.model, x, bound=bound, M=M, replicates=replicates[1], **counts)
    assert np.all(few.mean < exact)
    assert np.all(np.abs(exact - many.mean) < 5 * many.standard_error + 0.02)
    error = few.replicates.std(0, ddof=1) / np.sqrt(replicates[0])
    np.testing.assert_allclose(few.standard_error, error)
    assert "nats" in str(many)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("M", "replicates"), [(500, 5), pytest.param(1_000, 10, marks=[pytest.mark.long])]
)
def test_the_evidence_under_a_hierarchical_prior_is_close_to_the_exact_value(M, replicates):
    hp = HierarchicalPrior(tau_shift=0.2, rho_shift=0.3)
    x = hp.observations(2)
    evidence = hvi.evidence(hp.model, x, bound="diwhvi", K=10, L=20, M=M, replicates=replicates)
    exact = hp.log_evidence(x)
    assert np.all(np.abs(evidence.mean - exact) < 5 * evidence.standard_error + 0.05)


@pytest.mark.usefixtures("eager")
def test_plain_functions_can_replace_distributions():
    """The likelihood and the prior have no draws, and q(psi|x) has no density."""
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


@pytest.mark.usefixtures("eager")
def test_observations_can_be_whole_numbers():
    counts = tf.constant([[1, 0, 4], [2, 2, 0]])
    model = LG.model._replace(
        conditional=lambda psi, x: normal(tf.zeros([len(x), 2], tf.float64), ONES2),
        likelihood=lambda z: hvi.Callables(
            log_prob_fn=lambda x: tf.reduce_sum(
                tfd.Poisson(tf.ones([], z.dtype)).log_prob(tf.cast(x, z.dtype)) + 0.0 * z[..., :1],
                -1,
            )
        ),
    )
    result = hvi.evidence(model, counts, bound="vae", replicates=5)
    assert np.all(np.isfinite(result.mean))


@pytest.mark.usefixtures("eager")
def test_draws_of_zero_density_give_a_finite_bound():
    model = LG.model._replace(prior=tfd.Independent(tfd.Uniform(-3.0 * ONES2, 3.0 * ONES2), 1))
    result = hvi.evidence(model, X, bound="iwae", M=20, replicates=5)
    assert np.all(np.isfinite(result.mean))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(bound="elbo"), "bound='elbo': unknown; choose one of vae"),
        (dict(bound="bsvi"), "bound='bsvi': refines local parameters, .* see hvi.refined_evidence"),
        (dict(bound="vae", K=3), "K=3: bound='vae' fixes K=0"),
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
def test_errors_name_the_wrong_count(values, message):
    with pytest.raises(ValueError, match=message):
        hvi.evidence(LG.model, X, **values)


@pytest.mark.usefixtures("eager")
def test_counts_of_every_integer_type_give_the_same_replicates():
    counts = dict(K=3, M=2, replicates=2, seed=5)
    plain = hvi.evidence(LG.model, X, **counts)
    for integer in (np.int64, np.array, tf.constant):
        other = hvi.evidence(LG.model, X, **{name: integer(n) for name, n in counts.items()})
        np.testing.assert_array_equal(plain.replicates, other.replicates)


@pytest.mark.usefixtures("eager")
def test_errors_name_an_argument_that_is_not_a_model():
    with pytest.raises(TypeError, match=r"model=None: must be an hvi.Model"):
        hvi.evidence(None, X)
    with pytest.raises(TypeError, match="model="):
        hvi.fit(LG.model.prior, X, hvi.ParameterGroups(phi=[tf.Variable(1.0)]))


def test_graphs_and_numeric_checks_raise():
    with pytest.raises(RuntimeError, match=r"evidence: called inside a tf.function"):
        tf.function(lambda: hvi.evidence(LG.model, X).mean, autograph=False)()
    tf.debugging.enable_check_numerics()
    try:
        with pytest.raises(RuntimeError, match=r"evidence: .*disable_check_numerics"):
            hvi.evidence(LG.model, X)
    finally:
        tf.debugging.disable_check_numerics()


@pytest.mark.usefixtures("eager")
def test_the_text_of_the_evidence_warns_of_a_large_pareto_k():
    far = LG.model._replace(conditional=lambda psi, x: normal(5.0 + 0.0 * x[:, :2], 0.1 * ONES2))
    result = hvi.evidence(far, X[:1], bound="iwae", M=100, replicates=3)
    assert result.diagnostics["pareto_k_outer"][0] > 0.7
    size, k = result.diagnostics["ess_outer"][0], result.diagnostics["pareto_k_outer"][0]
    assert f"{size:.1f} of 100, Pareto k {k:.2f}, above 0.7" in str(result)
    near = hvi.evidence(LG.model, X[:1], bound="diwhvi", K=20, M=100, replicates=3)
    assert "of 100, Pareto k" in str(near)
    assert "rely" not in str(near)
    single = hvi.evidence(LG.model, X[:1], bound="hvm", replicates=3)
    assert "sample size" not in str(single)
    assert np.isnan(single.diagnostics["pareto_k_outer"]).all()


@pytest.mark.usefixtures("eager")
def test_the_text_counts_the_replicates_of_zero_density():
    corner = tfd.Independent(tfd.Uniform(0.0 * ONES2, 3.0 * ONES2), 1)
    result = hvi.evidence(LG.model._replace(prior=corner), X, bound="hvm", replicates=5)
    infinite = np.isneginf(result.replicates[:, 0]).sum()
    assert infinite
    assert f"log p(x[0]) >= -inf nats: in {infinite} of 5 replicates" in str(result)
    assert "nan" not in str(result)
    endless = LG.model._replace(
        likelihood=lambda z: hvi.Callables(lambda x: tf.fill(z.shape[:-1], ONES2[0] / 0.0))
    )
    with pytest.raises(ValueError, match="the bound is \\+inf"):
        hvi.evidence(endless, X, bound="hvm")


def test_refined_evidence_is_between_the_first_elbo_and_the_exact_value():
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
