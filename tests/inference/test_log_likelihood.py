"""Streaming over chunks equals one reduction, and is right on a closed form."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf import bounds, randomness
from hvi_tf.bounds import LogDensities, diagnostics
from hvi_tf.bounds.streaming import Streamed
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import image_scores as log_likelihood
from hvi_tf.inference import plans, priors, sampling
from hvi_tf.inference.methods import METHODS, Counts
from hvi_tf.inference.model import LatentSample
from hvi_tf.inference.plans import Plan
from hvi_tf.randomness import ChunkStream, GroupStream
from tests.oracles.analytic import HierarchicalPrior, LinearGaussian


def unchunked(lg, method, plan, x, seed):
    """The same draws as `score_images`, put together and reduced at once."""
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
    """The same for a row whose z have the psi of their group."""
    groups = [
        of_a_group(lg, method, plan, x, tf.random.fold_in(seed, i)) for i in range(plan.groups)
    ]
    arrays = [np.concatenate(a, axis=-2)[..., : plan.M, :] for a in zip(*groups, strict=True)]
    return LogDensities(*map(tf.constant, arrays))


def of_a_group(lg, method, plan, x, seed):
    seeds = [tf.random.fold_in(seed, i) for i in range(-(-plan.group // plan.chunk_m))]
    drawn = [sampling.draw(lg.model, method, x, Counts(M=plan.chunk_m), s) for s in seeds]
    z, psi_0 = (tf.concat(parts, 0)[: plan.group] for parts in list(zip(*drawn, strict=True))[:2])
    psi_seed = randomness.substream(seed, GroupStream.PSI)
    psi = [
        sampling.draw_psi(
            *(lg.model, method, z, x, plan.chunk_k),
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


@pytest.mark.parametrize(
    ("counts", "chunks", "group"),
    [
        ((12, 10, 8), (12, 10, 8), 12),
        ((12, 10, 8), (5, 10, 3), 12),
        ((12, 10, 8), (4, 4, 8), 8),
        ((12, 10, 8), (5, 4, 3), 5),
        ((3, 4, 3), (1, 1, 1), 1),  # fewer: each chunk costs `unchunked` a call
    ],
)
@pytest.mark.parametrize(
    ("method", "prior"),
    [
        ("diwhvi", "normal"),
        ("diwhvi", "hierarchical"),
        ("sivi", "normal"),
        ("sivi-equicomp", "normal"),
        ("diwhvi-mixture", "normal"),
        ("diwhvi-mixture", "hierarchical"),
        ("dsivi", "hierarchical"),
    ],
)
def test_chunked_equals_unchunked(method, prior, counts, chunks, group):
    model = HierarchicalPrior if prior == "hierarchical" else LinearGaussian
    lg, method = model(tau_shift=0.5), METHODS[method]
    x, seed = tf.constant(lg.observations(3)), tf.constant([4, 2])
    M, K, L = counts
    shared = method.shares_psi
    L = L if prior == "hierarchical" else 1
    plan = Plan(M, K, L, 3, *chunks, *((group, 2) if shared else ()))
    scores = log_likelihood.score_images(lg.model, method, plan, x, seed)
    put_together = unchunked_of_shared if shared else unchunked
    d = put_together(lg, method, plan, x, seed)
    beta, alpha = bounds.inner_log_ratios(d), bounds.outer_log_weights(d)
    assert beta.shape == (K + 1, M, 3)
    largest = -np.sort(-alpha.numpy(), axis=0)
    expected = dict(
        log_likelihood=bounds.bound(d),
        bound=tf.reduce_mean(alpha, 0),
        ess_outer=bounds.effective_sample_size(alpha),
    )
    of_psi = dict(
        ess_inner=tf.reduce_mean(bounds.effective_sample_size(beta), 0),
        kl_tau_mixing=tf.reduce_mean((d.log_tau - d.log_q_psi)[1:], [0, 1]),
        kl_tau_posterior=tf.reduce_mean(diagnostics.kl_tau_posterior(beta[1:]), 0),
    )
    if method.mixes:  # other draws estimate it
        del of_psi["kl_tau_mixing"]
    # In a last group that is not full, these are means over more z than are scored.
    expected |= {} if shared and M % group else of_psi
    assert diagnostics.tail_length(M) == 0
    assert largest.shape == (M, 3)
    assert np.all(np.isnan(scores.pareto_k_outer))
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(scores, name), values, rtol=1e-10, err_msg=name)


def test_the_tail_is_that_of_all_weights():
    """Pareto k from the largest weights kept chunk by chunk, for 200 of z and 60 of psi."""
    lg, x = LinearGaussian(tau_shift=0.5), tf.constant(LinearGaussian().observations(2))
    seed, method = tf.constant([4, 2]), METHODS["diwhvi"]
    plan = Plan(200, 60, 1, 2, 70, 25, 1)
    scores = log_likelihood.score_images(lg.model, method, plan, x, seed)
    d = unchunked(lg, method, plan, x, seed)
    beta, alpha = bounds.inner_log_ratios(d).numpy(), bounds.outer_log_weights(d).numpy()

    def expected(log_weights):
        n = diagnostics.tail_length(len(log_weights))
        return diagnostics.pareto_k(tf.constant(-np.sort(-log_weights, axis=0)[: n + 1]))

    np.testing.assert_allclose(scores.pareto_k_outer, expected(alpha), rtol=1e-8)
    np.testing.assert_allclose(scores.pareto_k_inner, np.mean(expected(beta), 0), rtol=1e-8)


def test_streamed_sums_survive_extremes():
    inf = np.inf
    values = np.array([[-1e4, 3.0, -inf], [1e4, -1e4, -inf], [9_999.0, 2.0, 5.0], [-inf, 0.0, 1.0]])
    streamed = Streamed.empty(tf.zeros(3, tf.float64))
    for row in values:
        streamed = streamed.add(tf.constant(row[None]))
    np.testing.assert_allclose(streamed.log_mean(4), bounds.log_mean_exp(tf.constant(values)))
    np.testing.assert_allclose(
        streamed.effective_sample_size(), bounds.effective_sample_size(tf.constant(values))
    )


@pytest.mark.parametrize("method", ["iwae", "diwhvi", "diwhvi-mixture", "sivi", "hvm"])
def test_it_approaches_the_exact_evidence_from_below(method, seed):
    lg = LinearGaussian(tau_shift=0.3)
    x = tf.constant(lg.observations(30))
    gaps = []
    for M, K in ((1, 2), (30, 10), (2000, 20)):
        K = K if METHODS[method].hierarchical else 0
        if METHODS[method].shared == "K":
            K *= min(M, 10)  # for all M z together
        plan = plans.make(METHODS[method], Counts(K=K, M=M), rows=40000)
        score = log_likelihood.make_scorer(lg.model, METHODS[method], plan)
        values = np.array([score(x, tf.constant([seed, i])).log_likelihood for i in range(8)])
        gaps.append(np.mean(lg.log_evidence(x) - values))
    assert gaps[0] > gaps[1] > gaps[2] > -0.02
    assert gaps[2] < 0.05


@pytest.mark.parametrize(("M", "K"), [(1, 0), (1, 50), (100, 20), (5000, 100), (7, 40_000)])
def test_a_chunk_never_exceeds_its_rows(M, K):
    plan = plans.make(METHODS["diwhvi"], Counts(K=K, M=M))
    assert plan.images * plan.chunk_m * (plan.chunk_k + 1) <= 2 * plans.ROWS
    assert plan.m_chunks * plan.chunk_m >= M > (plan.m_chunks - 1) * plan.chunk_m
    assert plan.k_chunks * plan.chunk_k >= K


@pytest.mark.parametrize("name", ["diwhvi-mixture", "sivi-equicomp", "sivi-equisample"])
@pytest.mark.parametrize(("M", "K"), [(1, 0), (7, 1), (100, 1_000), (5_000, 0), (5_000, 100)])
@pytest.mark.parametrize("limits", [{}, dict(rows=163, pairs=10_485, max_images=1)])
def test_a_tile_never_exceeds_its_pairs(name, M, K, limits):
    row = METHODS[name]
    plan = plans.make(row, Counts(K=K, M=M), **limits)
    most = limits.get("pairs", plans.PAIRS)
    assert plan.images * plan.group * max(plan.chunk_k, plan.tile) <= most
    assert plan.groups * plan.group >= M > (plan.groups - 1) * plan.group
    assert plan.k_chunks * plan.chunk_k >= plan.K
    at_once = plans.most_at_once(row, K)
    assert at_once * row.psi_per_z(Counts(K=K, M=at_once)) <= plans.PAIRS


def test_a_mixture_with_xla_is_the_mixture_without(seed):
    """To sampling error: XLA has other float64 draws."""
    lg = LinearGaussian(tau_shift=0.5)
    x = tf.repeat(tf.constant(lg.observations(1)), 2_000, axis=0)
    row = METHODS["diwhvi-mixture"]._replace(mixture_size=4)
    plan = plans.make(row, Counts(K=6, M=10), rows=8)
    scores = [
        log_likelihood.make_scorer(lg.model, row, plan, jit)(x, tf.constant([seed, 1]))
        for jit in (False, True)
    ]
    for name in ("log_likelihood", "bound", "kl_tau_mixing", "kl_tau_posterior", "ess_inner"):
        one, two = (getattr(score, name).numpy() for score in scores)
        error = np.hypot(one.std(), two.std()) / np.sqrt(len(one))
        assert abs(one.mean() - two.mean()) < 4.5 * error, name


MEMORY = """
import re
import subprocess
import sys

import numpy as np
import tensorflow as tf
from hvi_tf.config import config as config_lib
from hvi_tf.inference import image_scores as log_likelihood, plans
from hvi_tf.inference.methods import METHODS, Counts
from hvi_tf.models.vae import make_vae

def peak():
    # Not ru_maxrss, which a child process begins with its parent's value of.
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

imported = peak()
config = config_lib.make(K=50, jit_compile="off")
model = make_vae(config, 784)
for bound, M, K in (("iwhvi", 5000, 1), ("iwhvi", 5000, 100), ("diwhvi-mixture", 5000, 5000)):
    row = METHODS[bound]
    plan = plans.make(row, Counts(K=K, M=M))
    score = log_likelihood.make_scorer(model.callables, row, plan)
    values = score(tf.zeros([plan.images, 784]), tf.constant([0, 1])).log_likelihood
    assert np.all(np.isfinite(values))
    print(round(peak() - imported))
"""


@pytest.mark.long
def test_memory_stays_under_its_ceiling_at_the_published_counts():
    """The MNIST networks at M=5000: under 2 GB of process memory over the import's."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    at_k_1, at_k_100, of_mixture = map(int, run.stdout.split())
    assert of_mixture < 2000  # the peaks so far
    assert at_k_100 < at_k_1 + 500  # flat in K, though there are 50 times as many draws
