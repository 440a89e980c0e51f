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

# Observations per call: enough to fill the machine.
IMAGES = 100


class RefinedScores(NamedTuple):
    """Scores of each image, `[N]`, in nats except for the effective sample size.

    `elbo`, `kl` and `reconstruction` are the ELBO*, KL* and Reconstruction* of Shu et al.
    2019, equation 59: elbo = -(kl + reconstruction), both of them costs.
    """

    log_likelihood: tf.Tensor  # the bound over the buffer of k+1 proposals (equation 58)
    elbo: tf.Tensor  # at lambda_k, the mean of some draws
    kl: tf.Tensor  # estimate of KL(q_lambda_k(z|x) || p(z)), on the same draws
    reconstruction: tf.Tensor  # -E log p(x|z), on the same draws
    elbo_start: tf.Tensor  # at lambda_0, one draw
    ess_buffer: tf.Tensor  # effective sample size of the buffer, of k+1


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
    """Refines the proposal of each observation and scores it.

    Args:
        localize: the model.
        method: svi or bsvi, around an explicit or a hierarchical proposal.
        settings: of the loop, its K and L among them.
        x: observations `[B, D]`.
        seed: int32 `[2]`; the scores are a pure function of it.
        log_pi: `[k+1]`; uniform if None, since a learned pi fits only the k of training.
        draws: of z at lambda_k, for `elbo`.

    Returns:
        Scores `[B]`; `log_likelihood`, `elbo` and `elbo_start` are at most log p(x) in
        expectation.
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
    log_likelihood, log_ratio = _at_the_end(
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


def _at_the_end(
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
    """Returns `score_images` as a compiled function of (x, seed) or (x, seed, log_pi)."""

    @tf.function(jit_compile=jit_compile)
    def score(x: tf.Tensor, seed: tf.Tensor, log_pi: tf.Tensor | None = None) -> RefinedScores:
        return score_images(localize, method, settings, x, seed, log_pi=log_pi, draws=draws)

    return score
