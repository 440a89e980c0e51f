"""The DIWHVI log-likelihood score, streamed in memory that does not grow with M and K.

The sums over m and k are accumulated as log-sum-exps chunk by chunk, so the value is
that of `bounds.bound` on all M (K + 1) draws at once, to rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from hvi_tf import bounds, sampling, seeds
from hvi_tf.methods import Method

# Rows of the conditional network per call: enough to fill the machine, some 20 MB an
# activation.
ROWS = 16_384


class ImageScores(NamedTuple):
    """Scores of each image, `[N]`; nats, or counts for the effective sample sizes."""

    log_likelihood: tf.Tensor  # the M-sample bound on log p(x)
    bound: tf.Tensor  # the M=1 bound with the same K, averaged over the M draws
    kl_tau_mixing: tf.Tensor  # estimate of KL(tau(psi|z,x) || q(psi|x)); 0 without K
    ess_outer: tf.Tensor  # of M
    ess_inner: tf.Tensor  # of K + 1, averaged over the M draws


class Plan(NamedTuple):
    """How an evaluation is cut up: a function of M and K alone, not of the machine."""

    M: int
    K: int
    images: int  # per call
    m: int  # draws of z per chunk
    k: int  # draws of psi per chunk, 0 if K is 0

    @property
    def m_chunks(self) -> int:
        """Chunks over m; the last may be partly masked."""
        return -(-self.M // self.m)

    @property
    def k_chunks(self) -> int:
        """Chunks over k; the last may be partly masked."""
        return -(-self.K // self.k) if self.k else 0


def make_plan(M: int, K: int, rows: int = ROWS, max_images: int = 250) -> Plan:
    """Chunks of at most about `rows` rows: images first, then m, then k."""
    images = max(1, min(max_images, rows // (M * (K + 1))))
    m = _even_chunk(M, max(1, rows // (images * (K + 1))))
    k = _even_chunk(K, max(1, rows // (images * m))) if K else 0
    return Plan(M, K, images, m, k)


def _even_chunk(total: int, largest: int) -> int:
    """The chunk size that cuts `total` into the fewest, nearly equal, chunks."""
    chunks = -(-total // largest)
    return -(-total // chunks)


class _Streamed(NamedTuple):
    """Running sums of weights over one axis, relative to the largest so far; each `[...]`."""

    log_largest: tf.Tensor
    total: tf.Tensor  # sum of w / largest
    squares: tf.Tensor  # sum of (w / largest)^2

    @staticmethod
    def empty(like: tf.Tensor) -> "_Streamed":
        zeros = tf.zeros_like(like)
        return _Streamed(zeros - float("inf"), zeros, zeros)

    def add(self, log_weights: tf.Tensor) -> "_Streamed":
        """Adds `[chunk, ...]`; an entry of -inf adds nothing."""
        largest = tf.maximum(self.log_largest, tf.reduce_max(log_weights, axis=0))
        shrink = tf.exp(self.log_largest - largest)
        weights = tf.exp(log_weights - largest)
        return _Streamed(
            largest,
            shrink * self.total + tf.reduce_sum(weights, axis=0),
            tf.square(shrink) * self.squares + tf.reduce_sum(tf.square(weights), axis=0),
        )

    def log_mean(self, count: int) -> tf.Tensor:
        return self.log_largest + tf.math.log(self.total / count)

    def effective_sample_size(self) -> tf.Tensor:
        return tf.square(self.total) / self.squares


def score_images(
    model: sampling.Model, method: Method, plan: Plan, x: tf.Tensor, seed: tf.Tensor
) -> ImageScores:
    """Scores a batch of observations.

    Sobolev & Vetrov 2019, equation 6, as the test log-likelihood of section 6.2. For an
    explicit proposal it is the IWAE bound with M samples.

    Args:
        model: the callables.
        method: the row of the table.
        plan: M, K and the chunks.
        x: observations `[B, D]`.
        seed: int32 `[2]`; the scores are a pure function of it and the plan.

    Returns:
        Scores `[B]`; `log_likelihood` is at most log p(x) in expectation.
    """
    zeros = tf.zeros(tf.shape(x)[:1], x.dtype)
    outer = _Streamed.empty(zeros)
    bound_sum, kl_sum, ess_sum = zeros, zeros, zeros
    for i in tf.range(plan.m_chunks):
        alpha, kl, ess = _score_m_chunk(model, method, plan, x, tf.random.fold_in(seed, i))
        drawn = (i * plan.m + tf.range(plan.m) < plan.M)[:, tf.newaxis]
        outer = outer.add(tf.where(drawn, alpha, -float("inf")))
        bound_sum += tf.reduce_sum(tf.where(drawn, alpha, 0.0), axis=0)
        kl_sum += tf.reduce_sum(tf.where(drawn, kl, 0.0), axis=0)
        ess_sum += tf.reduce_sum(tf.where(drawn, ess, 0.0), axis=0)
    return ImageScores(
        log_likelihood=outer.log_mean(plan.M),
        bound=bound_sum / plan.M,
        kl_tau_mixing=kl_sum / plan.M,
        ess_outer=outer.effective_sample_size(),
        ess_inner=ess_sum / plan.M,
    )


def _score_m_chunk(
    model: sampling.Model, method: Method, plan: Plan, x: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """alpha, the mean of log tau - log q(psi), and the inner ESS of `plan.m` draws: `[m, B]`."""
    sample = sampling.draw(model, method, x, K=0, M=plan.m, seed=seed)
    densities = sampling.log_densities(model, method, x, sample)
    beta_0 = bounds.inner_log_ratios(densities)
    inner = _Streamed.empty(beta_0[0]).add(beta_0)
    kl_sum = tf.zeros_like(beta_0[0])
    if plan.K > 0:  # an explicit proposal has no inverse to call, not even zero times
        for j in tf.range(plan.k_chunks):
            inverse = sampling.inverse(model, method, sample.z, x)
            psi = inverse.sample(plan.k, seed=tf.random.fold_in(seed, j + 1))
            log_q_z, log_q_psi, log_tau = sampling.inner_log_densities(
                model, method, x, sample.z, psi
            )
            drawn = (j * plan.k + tf.range(plan.k) < plan.K)[:, tf.newaxis, tf.newaxis]
            beta = log_q_z + log_q_psi - log_tau
            inner = inner.add(tf.where(drawn, beta, -float("inf")))
            kl_sum += tf.reduce_sum(tf.where(drawn, log_tau - log_q_psi, 0.0), axis=0)
    log_prior = bounds.log_mean_exp(densities.log_prior)
    alpha = densities.log_likelihood + log_prior - inner.log_mean(plan.K + 1)
    return alpha, kl_sum / max(plan.K, 1), inner.effective_sample_size()


def make_scorer(
    model: sampling.Model, method: Method, plan: Plan, jit_compile: bool = False
) -> Callable[[tf.Tensor, tf.Tensor], ImageScores]:
    """`score_images` as a compiled function of (x, seed)."""

    @tf.function(jit_compile=jit_compile)
    def score(x: tf.Tensor, seed: tf.Tensor) -> ImageScores:
        return score_images(model, method, plan, x, seed)

    return score


def image_seed(seed: int, first_image: int) -> tf.Tensor:
    """The seed of the batch of images that begins at index `first_image`."""
    return seeds.fold(seed, seeds.Purpose.EVALUATE, first_image)
