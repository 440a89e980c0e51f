"""Fits the proposal, or the whole, of any model by ascent on a bound.

import hvi_tf as hvi

model = hvi.Model(prior, likelihood, conditional, mixing, tau)
hvi.fit(model, x, hvi.ParameterGroups(phi=[...], eta=[...]), bound="iwhvi", K=10)
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from hvi_tf import arguments, randomness
from hvi_tf.inference import gradients, model_checks, validation
from hvi_tf.inference.ascent import Ascent, as_optimizer
from hvi_tf.inference.model import Model, ParameterGroups


def fit(
    model: Model,
    x: tf.Tensor | Callable[[tf.Tensor], tf.Tensor],
    variables: ParameterGroups,
    *,
    bound: str = "iwhvi",
    K: int | None = None,
    M: int | None = None,
    L: int | None = None,
    defensive: float = 0.0,
    gradient: str = "reparameterized",
    backward_samples: int = 0,
    steps: int = 1_000,
    optimizer: keras.optimizers.Optimizer | type | str | None = None,
    seed: int = 0,
    jit_compile: bool = False,
) -> np.ndarray:
    """Maximises a bound over the variables and returns its course.

    Ctrl-C ends it within about a second or a step, as `FitInterrupted`: a KeyboardInterrupt
    whose `course` has the steps so far. The variables are those of the last finished step.

    Args:
        model: the callables, closing over the variables.
        x: observations `[B, ...]`, or a function from the int64 step to a minibatch.
        variables: tf.Variables or Keras variables, by the density they belong to, each
            listed once; some estimators treat the groups differently.
        bound: a row of the table.
        K: draws of psi per z besides psi_0; the row's default if None.
        M: draws of z; likewise.
        L: draws of zeta per z under a hierarchical prior; likewise.
        defensive: share of q(psi|x) in the mixture of diwhvi-mixture, from 0 to below 1.
        gradient: an estimator that the row takes.
        backward_samples: S, of how many of the terms over k and m the gradient is taken (see
            `value_and_gradients`); 0 takes all.
        steps: optimizer steps.
        optimizer: of Keras 3, or its class or name; Adam with step size 1e-3 if None.
        seed: from which every draw is folded, from 0 to 2^31 - 1.
        jit_compile: whether to use XLA for draw, bound and gradients.

    Returns:
        `[steps]`, the bound at each step, nats per observation.

    Raises:
        ValueError: for a count that the row fixes, a model of the wrong shapes, draws
            that are not reparameterized, a variable that is listed twice or that no gradient
            reaches.
        FitDiverged: a ValueError, if the bound, a gradient or an updated variable is not
            finite; the variables and the optimizer are back where all were last finite.
        FitInterrupted: on KeyboardInterrupt.
        TypeError: if a distribution lacks what the row needs of it, `variables` is not made
            of lists of variables, or `optimizer` is none of Keras 3.
        RuntimeError: inside a tf.function.
    """
    validation.is_eager("fit")
    steps = arguments.count("steps", steps, lowest=1)
    seed = arguments.seed(seed)
    method = validation.method_of(bound, defensive)
    counts = validation.counts(method, model, K=K, M=M, L=L)
    backward_samples = validation.backward_samples(method, backward_samples, counts)
    if callable(x):
        batch = x
    else:
        whole = validation.observations(x)
        batch = lambda step: whole  # noqa: E731
    first = validation.observations(batch(tf.constant(0, tf.int64)))
    if not isinstance(gradient, str):
        raise ValueError(f"gradient={arguments.shown(gradient)}: must be the name of an estimator")
    model_checks.check_model(model, method, first, gradient)
    flat = validation.model_variables(variables)
    adam = as_optimizer("adam" if optimizer is None else optimizer)
    adam.build(flat)  # does nothing if it is built
    if {id(v) for v in flat} - {id(v) for v in getattr(adam, "_trainable_variables", flat)}:
        raise ValueError("optimizer: was built on other variables; make one for each fit of these")
    unreached: list[str] = []

    @tf.function(jit_compile=jit_compile)
    def value_and_ascent(batch: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, list]:
        objective, gradient_of = gradients.value_and_gradients(
            model,
            method,
            batch,
            variables,
            counts,
            randomness.fold(seed, randomness.Purpose.TRAIN, step),
            estimator=gradient,
            backward_samples=backward_samples,
        )
        unreached.extend(_unreached(variables, gradient_of))
        ascent = [g for group in gradient_of for g in group]
        return objective.value, [tf.zeros([]) if g is None else g for g in ascent]

    def check() -> None:
        if unreached:
            raise ValueError(f"variables: no gradient reaches {unreached[0]}")

    direction = lambda step: value_and_ascent(batch(step), step)  # noqa: E731
    return Ascent(direction, flat, adam, check).climb(steps)


def _unreached(variables: ParameterGroups, gradient_of: ParameterGroups) -> list[str]:
    """Returns a line about each variable whose gradient is None."""
    return [
        f"{group}[{i}] ({variable.name}, shape {tuple(variable.shape)}); compute with variables "
        "inside the callables, not once before, and name each in the group of its own density"
        for group, held, found in zip(variables._fields, variables, gradient_of, strict=True)
        for i, (variable, value) in enumerate(zip(held, found, strict=True))
        if value is None
    ]
