"""Scores of observations by an inner SVI loop, in memory that does not grow with its steps."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.bounds.streaming import Streamed
from hvi_tf.inference import svi
from hvi_tf.inference.methods import Method
from hvi_tf.inference.model import Localize, LocalModel
from hvi_tf.inference.svi import SVI, Point

# Observations per call, enough to fill the machine.
IMAGES = 100


class RefinedScores(NamedTuple):
    """Scores of each image, `[N]`, in nats except for the effective sample size.

    `elbo`, `kl` and `reconstruction` are the ELBO*, KL* and Reconstruction* of Shu et al.
    2019, equation 59. The last two are costs, so elbo = -(kl + reconstruction).

    Attributes:
        log_likelihood: the bound over the buffer of k+1 proposals (equation 58).
        elbo: the ELBO at lambda_k, averaged over the draws.
        kl: an estimate of KL(q_lambda_k(z|x) || p(z)) from the same draws.
        reconstruction: an estimate of -E log p(x|z) from the same draws.
        elbo_start: the ELBO at lambda_0 from one draw.
        ess_buffer: effective sample size of the k+1 weights of the buffer.
    """

    log_likelihood: tf.Tensor
    elbo: tf.Tensor
    kl: tf.Tensor
    reconstruction: tf.Tensor
    elbo_start: tf.Tensor
    ess_buffer: tf.Tensor


def score_images(
    localize: Localize,
    method: Method,
    settings: SVI,
    x: tf.Tensor,
    seed: tf.Tensor,
    *,
    log_pi: tf.Tensor | None = None,
    draws: int = 1,
) -> RefinedScores:
    """Refines the proposal of each observation and returns bounds on log p(x).

    Shu et al. 2019, equation 58, over the proposals lambda_0, ..., lambda_k of the SVI loop:

        E log sum_i=0..k pi_i p(x,z_i) / q_lambda_i(z_i|x) <= log p(x)

    Args:
        localize: x -> the local model.
        method: svi or bsvi, with an explicit or a hierarchical proposal.
        settings: the settings of the SVI loop, with its K and L.
        x: observations `[B, ...]`.
        seed: int32 `[2]`. The scores are a pure function of it.
        log_pi: `[k+1]`, or None for uniform pi. A learned pi fits only the k of training.
        draws: the number of draws of z at lambda_k, for `elbo`, `kl` and `reconstruction`.

    Returns:
        Scores `[B]`. The expectations of `log_likelihood`, `elbo` and `elbo_start` are at most
        log p(x).
    """

    def begin(point: Point) -> tuple:
        return Streamed.empty(point.log_likelihood), point.log_weight()

    def update(state: tuple, i: tf.Tensor, point: Point) -> tuple:
        buffer, start = state
        log_weight = point.log_weight()
        if log_pi is not None:
            log_weight += log_pi[i]
        return buffer.add(log_weight[tf.newaxis]), start

    encoded = localize(x)
    lam, (buffer, start) = svi.follow(encoded, method, x, settings, seed, begin, update)
    log_likelihood, log_ratio = _elbo_terms(
        encoded,
        method,
        settings,
        x,
        lam,
        randomness.substream(seed, randomness.RefinementStream.FINAL_POINT),
        draws,
    )
    return RefinedScores(
        log_likelihood=buffer.log_mean(1 if log_pi is not None else settings.steps + 1),
        elbo=log_likelihood + log_ratio,
        kl=-log_ratio,
        reconstruction=-log_likelihood,
        elbo_start=start,
        ess_buffer=buffer.effective_sample_size(),
    )


def _elbo_terms(
    encoded: LocalModel,
    method: Method,
    settings: SVI,
    x: tf.Tensor,
    lam: tf.Tensor,
    seed: tf.Tensor,
    draws: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns means `[B]` of log p(x|z) and log p(z) - log q(z|x) over draws from q_lambda."""
    model = encoded.at(lam)
    zeros = tf.zeros_like(lam[:, 0])
    log_likelihood, log_ratio = zeros, zeros
    for i in tf.range(draws):
        point = svi.draw_point(model, method, x, settings, tf.random.fold_in(seed, i))
        log_likelihood += point.log_likelihood
        log_ratio += point.log_ratio
    return log_likelihood / draws, log_ratio / draws


def make_scorer(
    localize: Localize,
    method: Method,
    settings: SVI,
    *,
    draws: int = 1,
    jit_compile: bool = False,
) -> Callable[..., RefinedScores]:
    """Returns `score_images` as a compiled function of (x, seed) or (x, seed, log_pi).

    Args:
        localize: x -> the local model.
        method: svi or bsvi, with an explicit or a hierarchical proposal.
        settings: the settings of the SVI loop, with its K and L.
        draws: the number of draws of z at lambda_k.
        jit_compile: whether to compile by XLA.
    """

    @tf.function(jit_compile=jit_compile)
    def score(x: tf.Tensor, seed: tf.Tensor, log_pi: tf.Tensor | None = None) -> RefinedScores:
        return score_images(localize, method, settings, x, seed, log_pi=log_pi, draws=draws)

    return score
