"""The log-likelihood score of any row, streamed in memory that does not grow with M and K.

The sums over m, k and l are accumulated as log-sum-exps chunk by chunk, so the value is
that of `bounds.bound` on all draws at once, to rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from hvi_tf import bounds, diagnostics, sampling
from hvi_tf.hierarchy import Hierarchy
from hvi_tf.methods import Method
from hvi_tf.streaming import Streamed, add_to_largest, no_largest

# Rows of the conditional network per call: enough to fill the machine, some 20 MB an
# activation.
ROWS = 16_384


class ImageScores(NamedTuple):
    """Scores of each image, `[N]`, in nats unless said; NaN where there is nothing to tell."""

    log_likelihood: tf.Tensor  # the M-sample bound on log p(x)
    bound: tf.Tensor  # the M=1 bound with the same K and L, averaged over the M draws
    kl_tau_mixing: tf.Tensor  # estimate of KL(tau(psi|z,x) || q(psi|x))
    kl_tau_posterior: tf.Tensor  # lower estimate of KL(tau(psi|z,x) || q(psi|z,x))
    kl_mixing_posterior: tf.Tensor  # lower estimate of KL(q(psi|x) || q(psi|z,x))
    ess_outer: tf.Tensor  # effective sample size, of M
    ess_inner: tf.Tensor  # effective sample size, of K + 1, averaged over the M draws
    pareto_k_outer: tf.Tensor  # tail shape of the M weights
    pareto_k_inner: tf.Tensor  # tail shape of the K + 1 weights, averaged over the M draws


class Plan(NamedTuple):
    """How an evaluation is cut up: a function of its counts alone, not of the machine."""

    M: int
    K: int  # psi scored for each z besides psi_0
    L: int
    images: int  # per call
    chunk_m: int  # draws of z per chunk
    chunk_k: int  # draws of psi per chunk, 0 if K is 0
    chunk_l: int  # draws of zeta per chunk

    @property
    def m_chunks(self) -> int:
        """Chunks over m; the last may be partly masked."""
        return -(-self.M // self.chunk_m)

    @property
    def k_chunks(self) -> int:
        """Chunks over k; the last may be partly masked."""
        return -(-self.K // self.chunk_k) if self.chunk_k else 0

    @property
    def l_chunks(self) -> int:
        """Chunks over l; the last may be partly masked."""
        return -(-self.L // self.chunk_l)


def make_plan(M: int, K: int, L: int = 1, *, rows: int = ROWS, max_images: int = 250) -> Plan:
    """Chunks of at most about `rows` rows: images first, then m, then k and l."""
    images = max(1, min(max_images, rows // (M * max(K + 1, L))))
    m = _even_chunk(M, max(1, rows // (images * max(K + 1, L))))
    k = _even_chunk(K, max(1, rows // (images * m))) if K else 0
    return Plan(M, K, L, images, m, k, _even_chunk(L, max(1, rows // (images * m))))


def _even_chunk(total: int, largest: int) -> int:
    """The chunk size that cuts `total` into the fewest, nearly equal, chunks."""
    chunks = -(-total // largest)
    return -(-total // chunks)


class _DrawScores(NamedTuple):
    """What is told about every draw of z in a chunk; each `[m, B]`."""

    alpha: tf.Tensor
    kl_tau_mixing: tf.Tensor
    kl_tau_posterior: tf.Tensor
    kl_mixing_posterior: tf.Tensor
    ess_inner: tf.Tensor
    pareto_k_inner: tf.Tensor


def score_images(
    model: sampling.Model | sampling.Prepare,
    method: Method,
    plan: Plan,
    x: tf.Tensor,
    seed: tf.Tensor,
) -> ImageScores:
    """Scores a batch of observations.

    Sobolev & Vetrov 2019, equation 6, as the test log-likelihood of section 6.2. For an
    explicit proposal it is the IWAE bound with M samples.

    Args:
        model: the callables, or what makes them of x.
        method: the row of the table.
        plan: the counts and the chunks; `plan.K` is `sampling.psi_per_z` of the row's K.
        x: observations `[B, D]`.
        seed: int32 `[2]`; the scores are a pure function of it and the plan.

    Returns:
        Scores `[B]`; `log_likelihood` is at most log p(x) in expectation.
    """
    model = sampling.prepared(model, x)
    zeros = tf.zeros(tf.shape(x)[:1], _dtype(model, method, x))
    outer = Streamed.empty(zeros)
    tail = diagnostics.tail_length(plan.M)
    largest = no_largest(tail + 1 if tail else 0, zeros)
    sums = _DrawScores(*[zeros] * len(_DrawScores._fields))
    for i in tf.range(plan.m_chunks):
        scores = _score_m_chunk(model, method, plan, x, seed, i)
        drawn = (i * plan.chunk_m + tf.range(plan.chunk_m) < plan.M)[:, tf.newaxis]
        alpha = tf.where(drawn, scores.alpha, -float("inf"))
        outer, largest = outer.add(alpha), add_to_largest(largest, alpha)
        sums = _DrawScores(
            *(
                total + tf.reduce_sum(tf.where(drawn, score, 0.0), axis=0)
                for total, score in zip(sums, scores, strict=True)
            )
        )
    means = _DrawScores(*(total / plan.M for total in sums))
    return ImageScores(
        log_likelihood=outer.log_mean(plan.M),
        bound=means.alpha,
        kl_tau_mixing=means.kl_tau_mixing,
        kl_tau_posterior=means.kl_tau_posterior,
        kl_mixing_posterior=means.kl_mixing_posterior,
        ess_outer=outer.effective_sample_size(),
        ess_inner=means.ess_inner,
        pareto_k_outer=diagnostics.pareto_k(largest) if tail else _nothing(zeros),
        pareto_k_inner=means.pareto_k_inner,
    )


def _dtype(model: sampling.Model, method: Method, x: tf.Tensor) -> tf.DType:
    """That of the densities; x may be whole numbers."""
    q = model.mixing(x) if method.hierarchical else model.conditional(None, x)
    return q.sample(1, seed=tf.constant([0, 0])).dtype


def _nothing(like: tf.Tensor) -> tf.Tensor:
    return tf.zeros_like(like) + float("nan")


def _score_m_chunk(
    model: sampling.Model,
    method: Method,
    plan: Plan,
    x: tf.Tensor,
    seed: tf.Tensor,
    i: tf.Tensor,
) -> _DrawScores:
    """The scores of `plan.chunk_m` draws of z."""
    chunk_seed = tf.random.fold_in(seed, i)
    sample = sampling.draw(model, method, x, K=0, M=plan.chunk_m, L=1, seed=chunk_seed)
    densities = sampling.log_densities(model, method, x, sample)
    beta_0 = bounds.inner_log_ratios(densities)
    # Shared psi are the same for every chunk of z.
    psi_seed = chunk_seed if method.shared == "no" else tf.random.fold_in(seed, -1)
    inner = Streamed.empty(beta_0[0])
    tail = diagnostics.tail_length(plan.K + 1)
    largest = no_largest(tail + 1 if tail else 0, beta_0[0])
    beta_sum, kl_sum = tf.zeros_like(beta_0[0]), tf.zeros_like(beta_0[0])
    if plan.K > 0:  # an explicit proposal has no inverse to call, not even zero times
        for j in tf.range(plan.k_chunks):
            psi = sampling.draw_psi(
                model, method, sample.z, x, plan.chunk_k, tf.random.fold_in(psi_seed, j + 1)
            )
            log_q_z, log_q_psi, log_tau = sampling.inner_log_densities(
                model, method, x, sample.z, psi
            )
            drawn = (j * plan.chunk_k + tf.range(plan.chunk_k) < plan.K)[:, tf.newaxis, tf.newaxis]
            beta = log_q_z + log_q_psi - log_tau
            masked = tf.where(drawn, beta, -float("inf"))
            inner, largest = inner.add(masked), add_to_largest(largest, masked)
            beta_sum += tf.reduce_sum(tf.where(drawn, beta, 0.0), axis=0)
            kl_sum += tf.reduce_sum(tf.where(drawn, log_tau - log_q_psi, 0.0), axis=0)
    both, largest = inner.add(beta_0), add_to_largest(largest, beta_0)
    log_p = _log_prior(model, method, plan, sample, densities, chunk_seed)
    nothing = _nothing(beta_0[0])
    scores = _DrawScores(
        alpha=densities.log_likelihood + log_p - both.log_mean(plan.K + 1),
        kl_tau_mixing=nothing,
        kl_tau_posterior=nothing,
        kl_mixing_posterior=nothing,
        ess_inner=both.effective_sample_size(),
        pareto_k_inner=diagnostics.pareto_k(largest) if tail else nothing,
    )
    if plan.K == 0:
        return scores
    lower = inner.log_mean(plan.K)
    log_q_z_given_other = sampling.log_conditional_of_other(
        model, x, sample.z, tf.random.fold_in(chunk_seed, -2)
    )
    return scores._replace(
        kl_tau_mixing=kl_sum / plan.K,
        kl_tau_posterior=diagnostics.gain_over_one_draw(lower, beta_sum / plan.K),
        kl_mixing_posterior=lower - log_q_z_given_other,
    )


def _log_prior(
    model: sampling.Model,
    method: Method,
    plan: Plan,
    sample: sampling.LatentSample,
    densities: bounds.LogDensities,
    seed: tf.Tensor,
) -> tf.Tensor:
    """P `[m, B]`: log p(z), or its L-sample lower bound."""
    if not isinstance(model.prior, Hierarchy) or method.zeta == "psi_0":
        return densities.log_prior[0]
    total = Streamed.empty(densities.log_prior[0])
    for j in tf.range(plan.l_chunks):
        zeta = sampling.draw_zeta(
            model, method, sample.z, sample.psi_0, plan.chunk_l, tf.random.fold_in(seed, -3 - j)
        )
        drawn = (j * plan.chunk_l + tf.range(plan.chunk_l) < plan.L)[:, tf.newaxis, tf.newaxis]
        ratios = sampling.log_prior(model, method, sample.z, zeta)
        total = total.add(tf.where(drawn, ratios, -float("inf")))
    return total.log_mean(plan.L)


def make_scorer(
    model: sampling.Model | sampling.Prepare, method: Method, plan: Plan, jit_compile: bool = False
) -> Callable[[tf.Tensor, tf.Tensor], ImageScores]:
    """`score_images` as a compiled function of (x, seed)."""

    @tf.function(jit_compile=jit_compile)
    def score(x: tf.Tensor, seed: tf.Tensor) -> ImageScores:
        return score_images(model, method, plan, x, seed)

    return score
