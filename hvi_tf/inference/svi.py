"""Stochastic variational inference for each observation, and the bound over its buffer.

Shu, Bui, Whang & Ermon 2019, with local parameters lambda of q_lambda(z|x):

    lambda_0 = encoder(x)
    z_i ~ q_lambda_i,  w_i = p(x,z_i) / q_lambda_i(z_i)          i = 0..k
    lambda_i+1 = lambda_i + a step of momentum SGD on the ELBO   i < k
    bound = log sum_i pi_i w_i                                   (theorem 1, v(i) = {0..i-1})

z_i is drawn from the density that it is divided by, since lambda_i depends on earlier draws
only. So each w_i has mean p(x) given those draws, and Jensen's inequality gives the bound.

The density of a hierarchical q_lambda(z|x) = int q_lambda(z|psi,x) q(psi|x) dpsi is not
known, and exp(-U_K) takes the place of 1/q. Given lambda_i it is unbiased for 1/q
(theorem A.1 of Sobolev & Vetrov 2019 is Jensen's inequality on this fact): psi_0 generated
z_i, and psi_1:K are drawn from tau again at every i. Each w_i keeps the mean p(x) for any
tau, so the sum is still unbiased and the bound still a lower bound. It is looser the
farther tau is from q(psi|z,x).

All computations are per observation: given its noise, no gradient, norm or step of one row
of a batch depends on another row.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.inference import objective as objectives
from hvi_tf.inference.gradients import ESTIMATORS
from hvi_tf.inference.methods import Method, Warmup
from hvi_tf.inference.model import Localize, LocalModel, ParameterGroups
from hvi_tf.inference.trajectory import SVI, Point, as_point, draw_point


class Refined(NamedTuple):
    """A trajectory.

    Attributes:
        points: the buffer, `[k+1, ...]`.
        local: lambda_k `[B, P]`.
        first_ascent: the gradients of the first step for the variables of `refine`.
        encoded: the local model, from the single call of the encoder.
        tape: persistent; it has recorded that call.
    """

    points: Point
    local: tf.Tensor
    first_ascent: ParameterGroups
    encoded: LocalModel
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
    """Runs the inner loop and keeps every proposal's draw.

    Args:
        localize: the model, called once.
        method: says whether the proposal is hierarchical.
        x: observations `[B, ...]`.
        settings: of the loop.
        seed: int32 `[2]`; the trajectory is a pure function of it.
        kl_weight: of log p(z) - log q(z) in the ELBO that is climbed.
        variables: phi, eta and rho, for the gradients of the first step's ELBO. The first
            step starts at the encoder's output, so its draw serves both.
        estimator: of these gradients (`gradients.ESTIMATORS`).
    """
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
    return Refined(Point(*stacked), lam, ascent.of_variables, encoded, tape)


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

    Args:
        encoded: `localize(x)`.
        method: says whether the proposal is hierarchical.
        x: observations `[B, ...]`.
        settings: of the loop.
        seed: int32 `[2]`.
        begin: (point 0, for shapes) -> state; of tensors.
        update: (state, i, point i) -> state.

    Returns:
        lambda_k `[B, P]` and the last state. Memory does not grow with the steps.
    """
    settings = settings.checked()
    loop = _Loop(encoded, method, x, settings, 1.0)
    still = tf.zeros_like(encoded.start)
    first = loop.step(encoded.start, still, tf.random.fold_in(seed, 0))
    return _follow(loop, first, seed, begin, update)


class _Ascent(NamedTuple):
    """One draw at a lambda and the gradients of its ELBO."""

    point: Point
    of_local: tf.Tensor  # [B, P], the gradient of each observation's ELBO for lambda
    of_variables: ParameterGroups


class _Step(NamedTuple):
    local: tf.Tensor  # the next lambda
    velocity: tf.Tensor
    point: Point  # of the buffer, at the lambda before


class _Loop(NamedTuple):
    """The parts of the loop that stay the same from step to step."""

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
        """Returns the ELBO's gradient of each observation for lambda, and for the variables.

        Args:
            tape: has recorded `objective`.
            objective: one draw.
            lam: `[B, P]`, watched by the tape.
            variables: phi, eta and rho.
            estimator: of their gradients.
        """
        ascent = ESTIMATORS[estimator](tape, objective, variables._replace(theta=[lam]))
        if ascent.theta[0] is None:
            raise ValueError(
                "localize: no gradient reaches lambda; the proposal has to depend on it"
            )
        # The sum over the batch, not its mean: with the mean, the step of an observation
        # would depend on the number of the others.
        batch = tf.cast(tf.shape(lam)[0], lam.dtype)
        point = as_point(objective.sample, objective.densities)
        return _Ascent(point, batch * ascent.theta[0], ascent._replace(theta=()))

    def step(
        self, lam: tf.Tensor, velocity: tf.Tensor, seed: tf.Tensor, ascent: _Ascent | None = None
    ) -> _Step:
        """Takes a step of momentum SGD, with each row's gradient clipped by its own norm.

        Args:
            lam: `[B, P]`.
            velocity: `[B, P]`.
            seed: int32 `[2]`.
            ascent: of this lambda and seed, if it is known already.
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
    """Scales each row `[B, P]` to a norm of at most `largest`.

    Squares never overflow here. `tf.clip_by_norm` clips gradients from 1e19 on to 0, and a
    limit of 1e38 makes others infinite.
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
    steps = loop.settings.steps
    lam, velocity, point = first
    state = update(begin(point), tf.constant(0), point)
    for i in tf.range(1, steps):
        lam, velocity, point = loop.step(lam, velocity, tf.random.fold_in(seed, i))
        state = update(state, i, point)
    last = loop.draw(lam, tf.random.fold_in(seed, steps))
    return lam, update(state, tf.constant(steps), last)
