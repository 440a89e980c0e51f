"""Fits of any model, or of its proposal alone, by ascent on a bound.

For example:

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
    """Maximizes the mean over the batch of a bound on log p(x) over the variables.

    The bound is `bounds.bound` with the draws of the method. Ctrl-C ends the fit within about
    a second or a step and raises `FitInterrupted`, a KeyboardInterrupt with the `course` so
    far. The variables then have the values of the last finished step.

    Args:
        model: the callables, which use the variables.
        x: observations `[B, ...]`, or a function from the int64 step to a minibatch.
        variables: tf.Variables or Keras variables, grouped by the density that they belong to,
            each listed once. Some estimators treat the groups differently.
        bound: a key of `METHODS`, except svi and bsvi.
        K: draws of psi for each z besides psi_0. None takes the method's default.
        M: draws of z. None takes the method's default.
        L: draws of zeta for each z under a hierarchical prior. None takes the method's default.
        defensive: the share of q(psi|x) in the mixture of diwhvi-mixture, from 0 to below 1.
        gradient: one of the method's `gradients`.
        backward_samples: S, the number of terms over k and over m to differentiate (see
            `value_and_gradients`). 0 takes all.
        steps: the number of optimizer steps.
        optimizer: an optimizer of Keras 3, its class or its name. None takes Adam with step
            size 1e-3.
        seed: the seed from which every draw is folded, from 0 to 2^31 - 1.
        jit_compile: whether to compile draw, bound and gradients by XLA.

    Returns:
        float64 `[steps]`, the bound at each step, nats per observation.

    Raises:
        ValueError: if a count differs from the one that the method fixes, a shape of the model
            is wrong, a draw is not reparameterized, a variable is listed twice or no gradient
            reaches a variable.
        FitDiverged: a ValueError, if the bound, a gradient or an updated variable is not
            finite. The variables and the optimizer are restored to the last finite step.
        FitInterrupted: on KeyboardInterrupt.
        TypeError: if a distribution lacks a function that the method needs, `variables` does
            not hold lists of variables, or `optimizer` is not of Keras 3.
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
    built = _built_optimizer(optimizer, flat)
    unreached: list[str] = []

    @tf.function(jit_compile=jit_compile)
    def value_and_ascent(batch: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, list]:
        objective, groups = gradients.value_and_gradients(
            model,
            method,
            batch,
            variables,
            counts,
            randomness.fold(seed, randomness.Purpose.TRAIN, step),
            estimator=gradient,
            backward_samples=backward_samples,
        )
        unreached.extend(_unreached(variables, groups))
        ascent = [g for group in groups for g in group]
        return objective.value, [tf.zeros([]) if g is None else g for g in ascent]

    def check() -> None:
        if unreached:
            raise ValueError(f"variables: no gradient reaches {unreached[0]}")

    return Ascent(lambda step: value_and_ascent(batch(step), step), flat, built, check).climb(steps)


def _built_optimizer(
    optimizer: keras.optimizers.Optimizer | type | str | None, variables: list
) -> keras.optimizers.Optimizer:
    """Returns the optimizer, built on these variables.

    Raises:
        ValueError: if it was built on other variables.
    """
    built = as_optimizer("adam" if optimizer is None else optimizer)
    built.build(variables)  # This has no effect on an optimizer that is already built.
    known = {id(v) for v in getattr(built, "_trainable_variables", variables)}
    if {id(v) for v in variables} - known:
        raise ValueError("optimizer: was built on other variables; make one for each fit of these")
    return built


def _unreached(variables: ParameterGroups, ascent: ParameterGroups) -> list[str]:
    """Returns a line about each variable whose gradient is None."""
    return [
        f"{name}[{i}] ({variable.name}, shape {tuple(variable.shape)}); compute with variables "
        "inside the callables, not once before, and list each in the group of its own density"
        for name, group, directions in zip(variables._fields, variables, ascent, strict=True)
        for i, (variable, direction) in enumerate(zip(group, directions, strict=True))
        if direction is None
    ]
