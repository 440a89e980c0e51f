"""Scores in chunks equal one reduction, and approach closed forms."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf import bounds, randomness
from hvi_tf.bounds import LogDensities, diagnostics
from hvi_tf.bounds.streaming import Streamed
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import image_scores, plans, priors, sampling
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.methods import METHODS
from hvi_tf.inference.model import LatentSample
from hvi_tf.inference.plans import Plan
from hvi_tf.randomness import ChunkStream, GroupStream
from tests.oracles.analytic import HierarchicalPrior, LinearGaussian, gaussian_kl


def unchunked(lg, method, plan, x, seed):
    """Returns the log-densities of all draws of `score_images`, concatenated."""
    parts = []
    for i in range(plan.m_chunks):
        chunk_seed = tf.random.fold_in(seed, i)
        psi_seed = (
            chunk_seed if not method.shares_psi else randomness.substream(seed, GroupStream.PSI)
        )
        sample = sampling.draw(lg.model, method, x, Counts(M=plan.chunk_m), chunk_seed)
        d = densities_lib.log_densities(lg.model, method, x, sample)
        inner, prior = [(d.log_q_z, d.log_q_psi, d.log_tau)], [d.log_prior]
        for j in range(plan.k_chunks):
            psi = sampling.draw_psi(
                lg.model,
                method,
                sample.z,
                x,
                plan.chunk_k,
                randomness.substream(psi_seed, ChunkStream.PSI, j),
            )
            inner.append(densities_lib.inner_log_densities(lg.model, method, x, sample.z, psi))
        stacked = [np.concatenate(arrays)[: plan.K + 1] for arrays in zip(*inner, strict=True)]
        if plan.L > 1:
            prior = []
            for j in range(plan.l_chunks):
                p = priors.adapt(lg.model.prior)
                zeta = p.draw_zeta(
                    method,
                    sample.z,
                    sample.psi_0,
                    plan.chunk_l,
                    randomness.substream(chunk_seed, ChunkStream.ZETA, j),
                )
                prior.append(p.log_ratios(method, sample.z, zeta))
        log_prior = np.concatenate(prior)[: plan.L]
        parts.append(LogDensities(d.log_likelihood, log_prior, *stacked))
    arrays = [np.concatenate(a, axis=-2)[..., : plan.M, :] for a in zip(*parts, strict=True)]
    return LogDensities(*map(tf.constant, arrays))


def unchunked_of_shared(lg, method, plan, x, seed):
    """Returns the same for a method whose z share the psi of their group."""
    groups = [
        group_densities(lg, method, plan, x, tf.random.fold_in(seed, i)) for i in range(plan.groups)
    ]
    arrays = [np.concatenate(a, axis=-2)[..., : plan.M, :] for a in zip(*groups, strict=True)]
    return LogDensities(*map(tf.constant, arrays))


def group_densities(lg, method, plan, x, seed):
    """Returns the log-densities of one group of z."""
    seeds = [tf.random.fold_in(seed, i) for i in range(-(-plan.group // plan.chunk_m))]
    drawn = [sampling.draw(lg.model, method, x, Counts(M=plan.chunk_m), s) for s in seeds]
    z, psi_0 = (tf.concat(parts, 0)[: plan.group] for parts in list(zip(*drawn, strict=True))[:2])
    psi_seed = randomness.substream(seed, GroupStream.PSI)
    psi = [
        sampling.draw_psi(
            lg.model,
            method,
            z,
            x,
            plan.chunk_k,
            randomness.substream(psi_seed, ChunkStream.PSI, j),
        )
        for j in range(plan.k_chunks)
    ]
    sample = LatentSample(z, psi_0, tf.concat(psi, 0)[: plan.K])
    if plan.L > 1:
        rho = priors.hierarchical(lg.model.prior).rho(method, z)
        zeta = [
            rho.sample(plan.chunk_l, seed=randomness.substream(seed, GroupStream.ZETA, j))
            for j in range(plan.l_chunks)
        ]
        sample = sample._replace(zeta=tf.concat(zeta, 0)[: plan.L])
    return densities_lib.log_densities(lg.model, method, x, sample)


# (M, K, L), their chunks and the size of a group of z that shares psi.
CHUNKS = [
    ((12, 10, 8), (12, 10, 8), 12),
    ((12, 10, 8), (5, 10, 3), 12),
    ((12, 10, 8), (4, 4, 8), 8),
    ((12, 10, 8), (5, 4, 3), 5),
    ((3, 4, 3), (1, 1, 1), 1),  # small, because `unchunked` makes one call per chunk
]
MIXED = CHUNKS[3]
OTHER_MODELS = [
    ("diwhvi", "normal"),
    ("sivi", "normal"),
    ("sivi-equicomp", "normal"),
    ("diwhvi-mixture", "normal"),
    ("dsivi", "hierarchical"),
]


@pytest.mark.parametrize(
    ("method", "prior", "counts", "chunks", "group"),
    [
        *(("diwhvi", "hierarchical", *chunks) for chunks in CHUNKS),
        *(("diwhvi-mixture", "hierarchical", *chunks) for chunks in CHUNKS),
        *(
            pytest.param(*model, *chunks, marks=[] if chunks is MIXED else [pytest.mark.long])
            for model in OTHER_MODELS
            for chunks in CHUNKS
        ),
    ],
)
def test_scores_in_chunks_equal_one_reduction(method, prior, counts, chunks, group):
    model = HierarchicalPrior if prior == "hierarchical" else LinearGaussian
    lg, method = model(tau_shift=0.5), METHODS[method]
    x, seed = tf.constant(lg.observations(3)), tf.constant([4, 2])
    M, K, L = counts
    shared = method.shares_psi
    L = L if prior == "hierarchical" else 1
    plan = Plan(M, K, L, 3, *chunks, *((group, 2) if shared else ()))
    scores = image_scores.score_images(lg.model, method, plan, x, seed)
    all_at_once = unchunked_of_shared if shared else unchunked
    d = all_at_once(lg, method, plan, x, seed)
    beta, alpha = bounds.inner_log_ratios(d), bounds.outer_log_weights(d)
    assert beta.shape == (K + 1, M, 3)
    largest = -np.sort(-alpha.numpy(), axis=0)
    expected = dict(
        log_likelihood=bounds.bound(d),
        bound=tf.reduce_mean(alpha, 0),
        ess_outer=bounds.effective_sample_size(alpha),
    )
    psi_scores = dict(
        ess_inner=tf.reduce_mean(bounds.effective_sample_size(beta), 0),
        kl_tau_mixing=tf.reduce_mean((d.log_tau - d.log_q_psi)[1:], [0, 1]),
        kl_tau_posterior=tf.reduce_mean(diagnostics.kl_tau_posterior(beta[1:]), 0),
    )
    if method.mixes:  # estimated on other draws
        del psi_scores["kl_tau_mixing"]
    # The last group may have more z than are scored, and these are means over all of them.
    expected |= {} if shared and M % group else psi_scores
    assert diagnostics.tail_length(M) == 0
    assert largest.shape == (M, 3)
    assert np.all(np.isnan(scores.pareto_k_outer))
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(scores, name), values, rtol=1e-10, err_msg=name)


def test_the_tail_shape_is_that_of_all_weights():
    """Pareto k uses the largest weights over all chunks, here of 200 z and 60 psi."""
    lg, x = LinearGaussian(tau_shift=0.5), tf.constant(LinearGaussian().observations(2))
    seed, method = tf.constant([4, 2]), METHODS["diwhvi"]
    plan = Plan(200, 60, 1, 2, 70, 25, 1)
    scores = image_scores.score_images(lg.model, method, plan, x, seed)
    d = unchunked(lg, method, plan, x, seed)
    beta, alpha = bounds.inner_log_ratios(d).numpy(), bounds.outer_log_weights(d).numpy()

    def expected(log_weights):
        n = diagnostics.tail_length(len(log_weights))
        return diagnostics.pareto_k(tf.constant(-np.sort(-log_weights, axis=0)[: n + 1]))

    np.testing.assert_allclose(scores.pareto_k_outer, expected(alpha), rtol=1e-8)
    np.testing.assert_allclose(scores.pareto_k_inner, np.mean(expected(beta), 0), rtol=1e-8)


def test_streamed_sums_of_extreme_weights_equal_one_reduction():
    inf = np.inf
    values = np.array([[-1e4, 3.0, -inf], [1e4, -1e4, -inf], [9_999.0, 2.0, 5.0], [-inf, 0.0, 1.0]])
    streamed = Streamed.empty(tf.zeros(3, tf.float64))
    for log_weights in values:
        streamed = streamed.add(tf.constant(log_weights[None]))
    np.testing.assert_allclose(streamed.log_mean(4), bounds.log_mean_exp(tf.constant(values)))
    np.testing.assert_allclose(
        streamed.effective_sample_size(), bounds.effective_sample_size(tf.constant(values))
    )


def gaps_to_the_evidence(method, seed, counts):
    """Returns log p(x) minus the scores, `[8, 30]` for each pair of M and K."""
    lg, method = LinearGaussian(tau_shift=0.3), METHODS[method]
    x = tf.constant(lg.observations(30))
    gaps = []
    for M, K in counts:
        K = K if method.hierarchical else 0
        if method.shares_psi:
            K *= min(M, 10)  # shared by all M z
        plan = plans.make(method, Counts(K=K, M=M), rows=200_000)
        score = image_scores.make_scorer(lg.model, method, plan)
        scores = [score(x, tf.constant([seed, i])).log_likelihood for i in range(8)]
        gaps.append(lg.log_evidence(x) - np.array(scores))
    return gaps


METHODS_OF_SCORES = ["iwae", "diwhvi", "diwhvi-mixture", "sivi", "hvm"]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=[pytest.mark.long] if name in ("sivi", "hvm") else [])
        for name in METHODS_OF_SCORES
    ],
)
def test_the_score_approaches_the_exact_evidence_from_below(method, seed):
    gaps = gaps_to_the_evidence(method, seed, [(1, 2), (20, 10), (500, 20)])
    means = [gap.mean() for gap in gaps]
    error = gaps[2].std() / np.sqrt(gaps[2].size)
    assert means[0] > means[1] > means[2]
    assert abs(means[2]) < 5.0 * error + 0.02


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS_OF_SCORES)
def test_the_score_of_many_draws_is_close_to_the_evidence(method, seed):
    means = [g.mean() for g in gaps_to_the_evidence(method, seed, [(1, 2), (30, 10), (2_000, 20)])]
    assert means[0] > means[1] > means[2] > -0.02
    assert means[2] < 0.05


@pytest.mark.long
def test_scores_of_a_mixture_agree_with_and_without_xla(seed):
    """XLA draws other float64 numbers, so the scores differ by their sampling errors."""
    lg = LinearGaussian(tau_shift=0.5)
    x = tf.repeat(tf.constant(lg.observations(1)), 2_000, axis=0)
    method = METHODS["diwhvi-mixture"]._replace(mixture_size=4)
    plan = plans.make(method, Counts(K=6, M=10), rows=8)
    scores = [
        image_scores.make_scorer(lg.model, method, plan, jit)(x, tf.constant([seed, 1]))
        for jit in (False, True)
    ]
    for name in ("log_likelihood", "bound", "kl_tau_mixing", "kl_tau_posterior", "ess_inner"):
        one, two = (getattr(score, name).numpy() for score in scores)
        error = np.hypot(one.std(), two.std()) / np.sqrt(len(one))
        assert abs(one.mean() - two.mean()) < 4.5 * error, name


@pytest.mark.usefixtures("eager")
def test_the_kl_of_the_mixing_equals_the_exact_one(seed):
    """The mean of KL(q(psi|x) || q(psi|z,x)) over z; L_K is exact with the true tau."""
    lg = LinearGaussian()
    x = tf.constant(lg.observations(1))
    plan = plans.make(METHODS["diwhvi"], Counts(K=1, M=20000))
    score = image_scores.make_scorer(lg.model, METHODS["diwhvi"], plan)
    kl = score(x, tf.constant([seed, 3])).kl_mixing_posterior.numpy()[0]
    z_cov = lg.q_cov
    exact = np.mean(
        [
            gaussian_kl(np.zeros(2), np.eye(2), lg.inverse.map @ z, lg.inverse.cov)
            for z in np.random.default_rng(seed).multivariate_normal(np.zeros(2), z_cov, 20_000)
        ]
    )
    assert abs(kl - exact) < 0.05 * exact


def test_the_kl_of_tau_approaches_the_exact_one_from_below(seed):
    """KL(tau || q(psi|z,x)) of two Gaussians is the same for every z."""
    lg = LinearGaussian(tau_shift=0.4, tau_stretch=1.2)
    tau_cov = np.diag(1.2**2 * np.diag(lg.inverse.cov))
    exact = gaussian_kl(np.full(2, 0.4), tau_cov, np.zeros(2), lg.inverse.cov)
    x = np.repeat(lg.observations(1), 3000, axis=0)
    method, means = METHODS["iwhvi"], []
    for K in (2, 10, 200):
        sample = sampling.draw(lg.model, method, x, Counts(K=K), tf.constant([seed, 9]))
        beta = bounds.inner_log_ratios(densities_lib.log_densities(lg.model, method, x, sample))[
            1:, 0
        ]
        values = diagnostics.kl_tau_posterior(beta).numpy()
        means.append(values.mean())
        assert means[-1] < exact + 4 * values.std() / np.sqrt(len(values))
    assert means[0] < means[1] < means[2]
    assert means[2] > 0.9 * exact


MEMORY = """
import re
import subprocess
import sys

import numpy as np
import tensorflow as tf
from hvi_tf.config import config as config_lib
from hvi_tf.inference import image_scores, plans
from hvi_tf.inference.methods import METHODS, Counts
from hvi_tf.models.vae import make_vae

def peak():
    # A child process inherits ru_maxrss from its parent.
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

imported = peak()
config = config_lib.make(K=50, jit_compile="off")
model = make_vae(config, 784)
for bound, M, K in (("iwhvi", 5000, 1), ("iwhvi", 5000, 100), ("diwhvi-mixture", 5000, 5000)):
    method = METHODS[bound]
    plan = plans.make(method, Counts(K=K, M=M))
    score = image_scores.make_scorer(model.callables, method, plan)
    values = score(tf.zeros([plan.images, 784]), tf.constant([0, 1])).log_likelihood
    assert np.all(np.isfinite(values))
    print(round(peak() - imported))
"""


@pytest.mark.long
def test_memory_is_bounded_at_the_published_counts():
    """The MNIST networks at M=5000 take less than 2 GB more than the import."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    at_k_1, at_k_100, of_mixture = map(int, run.stdout.split())
    assert of_mixture < 2000  # the peaks so far
    assert at_k_100 < at_k_1 + 500  # 50 times as many draws
