"""Stochastic variational inference for each observation, and the bound over its buffer.

Shu, Bui, Whang & Ermon 2019, with local parameters lambda of q_lambda(z|x):

    lambda_0 = encoder(x)
    z_i ~ q_lambda_i,  w_i = p(x,z_i) / q_lambda_i(z_i)          i = 0..k
    lambda_i+1 = lambda_i + a step of momentum SGD on the ELBO   i < k
    bound = log sum_i pi_i w_i                                   (theorem 1, v(i) = {0..i-1})

lambda_i depends on earlier draws only, so z_i comes from the density in its denominator. Each
w_i therefore has mean p(x) given those draws, and Jensen's inequality gives the bound.

A hierarchical q_lambda(z|x) = int q_lambda(z|psi,x) q(psi|x) dpsi has no known density, and
exp(-U_K) replaces 1/q. Given lambda_i, it is an unbiased estimate of 1/q (Sobolev & Vetrov
2019, theorem A.1), because psi_0 generated z_i and every i has new draws psi_1:K from tau. So
each w_i has mean p(x) for any tau, and the bound remains a lower bound. It is looser the
farther tau is from q(psi|z,x).

All computations are per observation. Given the noise, no gradient, norm or step of one
observation depends on another observation of the batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.inference import objective as objectives
from hvi_tf.inference.counts import Warmup
from hvi_tf.inference.gradients import ESTIMATORS
from hvi_tf.inference.methods import Method
from hvi_tf.inference.model import Localize, LocalModel, ParameterGroups
from hvi_tf.inference.trajectory import SVI, Point, as_point, draw_point


class Refined(NamedTuple):
    """A trajectory of the SVI loop.

    Attributes:
        points: the buffer, `[k+1, ...]`.
        local: lambda_k, `[B, P]`.
        first_ascent: the gradients of the first step for the variables of `refine`.
    """

    points: Point
    local: tf.Tensor
    first_ascent: ParameterGroups


class Encoding(NamedTuple):
    """The single call of the encoder.

    Attributes:
        local_model: `localize(x)`.
        tape: a persistent tape that recorded the call.
    """

    local_model: LocalModel
    tape: tf.GradientTape


def refine(
    localize: Localize,
    method: Method,
    x: tf.Tensor,
    settings: SVI,
    seed: tf.Tensor,
    kl_weight: float | tf.Tensor = 1.0,
    variables: ParameterGroups | None = None,
    estimator: str = "reparameterized",
) -> Refined:
    """Runs the SVI loop and keeps the draw from every proposal.

        v_i+1 = momentum v_i + clip(grad ELBO(lambda_i)),  lambda_i+1 = lambda_i + rate v_i+1

    Args:
        localize: x -> the local model. It is called once.
        method: decides whether the proposal is hierarchical.
        x: observations `[B, ...]`.
        settings: the settings of the loop.
        seed: int32 `[2]`. The trajectory is a pure function of it.
        kl_weight: the weight of log p(z) - log q(z) in the ELBO.
        variables: phi, eta and rho, for the gradients of the ELBO at lambda_0. These gradients
            use the draw of the first step. None computes no such gradient.
        estimator: the estimator of these gradients, a key of `gradients.ESTIMATORS`.

    Returns:
        The trajectory, with k+1 points.

    Raises:
        ValueError: if a setting is out of range or no gradient reaches lambda.
    """
    refined, _ = refine_with_encoding(
        localize, method, x, settings, seed, kl_weight, variables, estimator
    )
    return refined


def refine_with_encoding(
    localize: Localize,
    method: Method,
    x: tf.Tensor,
    settings: SVI,
    seed: tf.Tensor,
    kl_weight: float | tf.Tensor,
    variables: ParameterGroups | None,
    estimator: str,
) -> tuple[Refined, Encoding]:
    """Returns `refine`, and the call of the encoder for further gradients."""
    settings = settings.checked()
    first_seed = tf.random.fold_in(seed, 0)
    with tf.GradientTape(persistent=True) as tape:
        encoded = localize(x)
        shift = tf.zeros_like(encoded.start)
        tape.watch(shift)
        loop = _Loop(encoded, method, x, settings, kl_weight)
        objective = loop.observe(tape, encoded.start + shift, first_seed, estimator)
    ascent = loop.ascent(tape, objective, shift, variables or ParameterGroups(), estimator)
    first = loop.step(encoded.start, shift, first_seed, ascent)

    def begin(point: Point) -> tuple:
        return tuple(
            tf.TensorArray(part.dtype, size=settings.steps + 1, element_shape=part.shape)
            for part in point
            if part is not None
        )

    def write(arrays: tuple, i: tf.Tensor, point: Point) -> tuple:
        parts = [part for part in point if part is not None]
        return tuple(a.write(i, part) for a, part in zip(arrays, parts, strict=True))

    lam, arrays = _follow(loop, first, seed, begin, write)
    stacked = [array.stack() for array in arrays]
    if first.point.zeta is None:
        stacked.insert(1, None)
    refined = Refined(Point(*stacked), lam, ascent.of_variables)
    return refined, Encoding(encoded, tape)


def follow(
    encoded: LocalModel,
    method: Method,
    x: tf.Tensor,
    settings: SVI,
    seed: tf.Tensor,
    begin: Callable[[Point], tuple],
    update: Callable[[tuple, tf.Tensor, Point], tuple],
) -> tuple[tf.Tensor, tuple]:
    """Runs the loop of `refine`, but keeps only a state that `update` computes.

    Memory does not grow with the steps.

    Args:
        encoded: `localize(x)`.
        method: decides whether the proposal is hierarchical.
        x: observations `[B, ...]`.
        settings: the settings of the loop.
        seed: int32 `[2]`. The trajectory is a pure function of it.
        begin: point 0 -> the initial state, a tuple of tensors. It may use the shapes alone.
        update: (state, i, point i) -> state.

    Returns:
        lambda_k `[B, P]` and the last state.

    Raises:
        ValueError: if a setting is out of range or no gradient reaches lambda.
    """
    settings = settings.checked()
    loop = _Loop(encoded, method, x, settings, 1.0)
    zero_velocity = tf.zeros_like(encoded.start)
    first = loop.step(encoded.start, zero_velocity, tf.random.fold_in(seed, 0))
    return _follow(loop, first, seed, begin, update)


class _Ascent(NamedTuple):
    """One draw at a lambda and the gradients of its ELBO.

    Attributes:
        point: the draw.
        of_local: the gradient of each observation's ELBO for lambda, `[B, P]`.
        of_variables: the gradients for phi, eta and rho.
    """

    point: Point
    of_local: tf.Tensor
    of_variables: ParameterGroups


class _Step(NamedTuple):
    """The result of one step of SVI.

    Attributes:
        local: the next lambda, `[B, P]`.
        velocity: the next velocity, `[B, P]`.
        point: the point of the buffer, at the lambda before the step.
    """

    local: tf.Tensor
    velocity: tf.Tensor
    point: Point


class _Loop(NamedTuple):
    """The parts of the loop that are the same at every step."""

    encoded: LocalModel
    method: Method
    x: tf.Tensor
    settings: SVI
    kl_weight: float | tf.Tensor

    def draw(self, lam: tf.Tensor, seed: tf.Tensor) -> Point:
        """Draws from q_lambda."""
        return draw_point(self.encoded.at(lam), self.method, self.x, self.settings, seed)

    def observe(
        self, tape: tf.GradientTape, lam: tf.Tensor, seed: tf.Tensor, estimator: str
    ) -> objectives.Objective:
        """Draws from q_lambda while the tape records."""
        return objectives.observe(
            tape,
            self.encoded.at(lam),
            self.method,
            self.x,
            self.settings.counts,
            seed,
            estimators=[estimator],
            warmup=Warmup(outer=self.kl_weight),
        )

    def ascent(
        self,
        tape: tf.GradientTape,
        objective: objectives.Objective,
        lam: tf.Tensor,
        variables: ParameterGroups,
        estimator: str,
    ) -> _Ascent:
        """Returns the gradient of each observation's ELBO for lambda, and for the variables.

        Args:
            tape: a persistent tape that recorded `objective`.
            objective: one draw.
            lam: lambda `[B, P]`, watched by the tape.
            variables: phi, eta and rho.
            estimator: the estimator of the gradients.
        """
        ascent = ESTIMATORS[estimator](tape, objective, variables._replace(theta=[lam]))
        if ascent.theta[0] is None:
            raise ValueError(
                "localize: no gradient reaches lambda; the proposal has to depend on it"
            )
        # The ELBO is a mean over the batch. The factor B makes the step of an observation
        # independent of the batch size.
        batch = tf.cast(tf.shape(lam)[0], lam.dtype)
        point = as_point(objective.sample, objective.densities)
        return _Ascent(point, batch * ascent.theta[0], ascent._replace(theta=()))

    def step(
        self, lam: tf.Tensor, velocity: tf.Tensor, seed: tf.Tensor, ascent: _Ascent | None = None
    ) -> _Step:
        """Takes a step of momentum SGD, with a clipped gradient for each observation.

        Args:
            lam: lambda `[B, P]`.
            velocity: `[B, P]`.
            seed: int32 `[2]` of the draws.
            ascent: the gradients at this lambda and seed, if they are computed already.
        """
        settings = self.settings
        if ascent is None:
            estimator = "reparameterized"
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(lam)
                objective = self.observe(tape, lam, seed, estimator)
            ascent = self.ascent(tape, objective, lam, ParameterGroups(), estimator)
        gradient, point = ascent.of_local, ascent.point
        if settings.clip_norm:
            gradient = _clip(gradient, settings.clip_norm)
        if settings.double_sampling:
            point = self.draw(
                lam, randomness.substream(seed, randomness.RefinementStepStream.SECOND_DRAW)
            )
        velocity = settings.momentum * velocity + gradient
        return _Step(lam + settings.learning_rate * velocity, velocity, point)


def _clip(gradient: tf.Tensor, largest: float) -> tf.Tensor:
    """Scales each gradient of `[B, P]` to a norm of at most `largest`, without overflow.

    `tf.clip_by_norm` would clip gradients from 1e19 on to 0, and would return infinite gradients
    for a limit of 1e38.
    """
    unit = tf.maximum(tf.reduce_max(tf.abs(gradient), axis=-1, keepdims=True), largest)
    norm = unit * tf.norm(gradient / unit, axis=-1, keepdims=True)
    return gradient / tf.maximum(norm / largest, 1.0)


def _follow(
    loop: _Loop,
    first: _Step,
    seed: tf.Tensor,
    begin: Callable[[Point], tuple],
    update: Callable[[tuple, tf.Tensor, Point], tuple],
) -> tuple[tf.Tensor, tuple]:
    """Runs the loop after its first step, and returns lambda_k and the last state."""
    steps = loop.settings.steps
    lam, velocity, point = first
    state = update(begin(point), tf.constant(0), point)
    for i in tf.range(1, steps):
        lam, velocity, point = loop.step(lam, velocity, tf.random.fold_in(seed, i))
        state = update(state, i, point)
    last = loop.draw(lam, tf.random.fold_in(seed, steps))
    return lam, update(state, tf.constant(steps), last)
