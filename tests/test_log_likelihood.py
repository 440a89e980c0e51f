"""Streaming over chunks equals one reduction, and is right on a closed form."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf import bounds, sampling
from hvi_tf.bounds import LogDensities
from hvi_tf.evaluation import log_likelihood
from hvi_tf.evaluation.log_likelihood import Plan
from hvi_tf.methods import METHODS
from tests.analytic import LinearGaussian


def unchunked(lg, method, plan, x, seed):
    """The same draws as `score_images`, put together and reduced at once."""
    parts = []
    for i in range(plan.m_chunks):
        chunk_seed = tf.random.fold_in(seed, i)
        sample = sampling.draw(lg.model, method, x, K=0, M=plan.m, seed=chunk_seed)
        d = sampling.log_densities(lg.model, method, x, sample)
        inner = [(d.log_q_z, d.log_q_psi, d.log_tau)]
        for j in range(plan.k_chunks):
            psi = sampling.inverse(lg.model, method, sample.z, x).sample(
                plan.k, seed=tf.random.fold_in(chunk_seed, j + 1)
            )
            inner.append(sampling.inner_log_densities(lg.model, method, x, sample.z, psi))
        stacked = [np.concatenate(arrays)[: plan.K + 1] for arrays in zip(*inner, strict=True)]
        parts.append(LogDensities(d.log_likelihood, d.log_prior, *stacked))
    arrays = [np.concatenate(a, axis=-2)[..., : plan.M, :] for a in zip(*parts, strict=True)]
    return LogDensities(*map(tf.constant, arrays))


@pytest.mark.parametrize(("m", "k"), [(12, 10), (5, 10), (12, 4), (5, 4), (1, 1)])
def test_chunked_equals_unchunked(m, k):
    lg = LinearGaussian(tau_shift=0.5)
    method, x, seed = METHODS["diwhvi"], tf.constant(lg.observations(3)), tf.constant([4, 2])
    plan = Plan(M=12, K=10, images=3, m=m, k=k)
    scores = log_likelihood.score_images(lg.model, method, plan, x, seed)
    d = unchunked(lg, method, plan, x, seed)
    beta, alpha = bounds.inner_log_ratios(d), bounds.outer_log_weights(d)
    assert beta.shape == (11, 12, 3)
    np.testing.assert_allclose(scores.log_likelihood, bounds.bound(d), rtol=1e-10)
    np.testing.assert_allclose(scores.bound, tf.reduce_mean(alpha, 0), rtol=1e-10)
    np.testing.assert_allclose(scores.ess_outer, bounds.effective_sample_size(alpha), rtol=1e-10)
    inner_ess = tf.reduce_mean(bounds.effective_sample_size(beta), 0)
    np.testing.assert_allclose(scores.ess_inner, inner_ess, rtol=1e-10)
    kl = tf.reduce_mean((d.log_tau - d.log_q_psi)[1:], [0, 1])
    np.testing.assert_allclose(scores.kl_tau_mixing, kl, rtol=1e-10)


def test_streamed_sums_survive_extremes():
    values = np.array([[-1e4, 3.0], [1e4, -1e4], [9_999.0, 2.0], [-np.inf, 0.0]])
    streamed = log_likelihood._Streamed.empty(tf.zeros(2, tf.float64))
    for row in values:
        streamed = streamed.add(tf.constant(row[None]))
    np.testing.assert_allclose(streamed.log_mean(4), bounds.log_mean_exp(tf.constant(values)))
    np.testing.assert_allclose(
        streamed.effective_sample_size(), bounds.effective_sample_size(tf.constant(values))
    )


@pytest.mark.parametrize("method", ["iwae", "diwhvi", "sivi", "hvm"])
def test_it_approaches_the_exact_evidence_from_below(method, seed):
    lg = LinearGaussian(tau_shift=0.3)
    x = tf.constant(lg.observations(3))
    gaps = []
    for M, K in ((1, 2), (30, 10), (2000, 20)):
        K = K if METHODS[method].hierarchical else 0
        plan = log_likelihood.make_plan(M, K, rows=40_000)
        score = log_likelihood.make_scorer(lg.model, METHODS[method], plan)
        values = np.array([score(x, tf.constant([seed, i])).log_likelihood for i in range(8)])
        gaps.append(np.mean(lg.log_evidence(x) - values))
    assert gaps[0] > gaps[1] > gaps[2] > -0.02
    assert gaps[2] < 0.05


@pytest.mark.parametrize(("M", "K"), [(1, 0), (1, 50), (100, 20), (5000, 100), (7, 40_000)])
def test_a_chunk_never_exceeds_its_rows(M, K):
    plan = log_likelihood.make_plan(M, K)
    assert plan.images * plan.m * (plan.k + 1) <= 2 * log_likelihood.ROWS
    assert plan.m_chunks * plan.m >= M > (plan.m_chunks - 1) * plan.m
    assert plan.k_chunks * plan.k >= K


MEMORY = """
import re
import subprocess
import sys

import numpy as np
import tensorflow as tf
from hvi_tf import config as config_lib
from hvi_tf.evaluation import log_likelihood
from hvi_tf.models.vae import make_vae

def peak():
    # Not ru_maxrss, which a child process begins with its parent's value of.
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

imported = peak()
config = config_lib.make(K=50, jit_compile="off")
model = make_vae(config, 784)
for M, K in ((5000, 1), (5000, 100)):
    plan = log_likelihood.make_plan(M, K)
    score = log_likelihood.make_scorer(model.callables, model.method, plan)
    values = score(tf.zeros([plan.images, 784]), tf.constant([0, 1])).log_likelihood
    assert np.all(np.isfinite(values))
    print(round(peak() - imported))
"""


def test_memory_stays_under_its_ceiling_at_the_published_counts():
    """M=5000, K=100 with the MNIST networks: under 2 GB of process memory over the import's."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    at_k_1, at_k_100 = map(int, run.stdout.split())
    assert at_k_100 < 2000
    assert at_k_100 < at_k_1 + 500  # flat in K, though there are 50 times as many draws
