"""Checks of a user's model, with errors that name the argument and the shapes.

The model is traced once with few draws. M, K and L differ from one another and from the sizes
of x, so a missing or misplaced axis gives a wrong shape. Then one draw is computed, to check
that no density of an observation depends on another observation.
"""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf.arguments import shown
from hvi_tf.bounds import LogDensities
from hvi_tf.errors import first_line
from hvi_tf.inference import densities, priors, sampling
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.methods import Method
from hvi_tf.inference.model import Density, DistributionLike, Hierarchy, LatentSample, Model
from hvi_tf.inference.objective import AT_Z

Result = TypeVar("Result")

_COUNTS = (2, 3, 5, 7, 11, 13, 17, 19)  # candidates for M, K and L
# The callable that returns each log-density.
_SOURCES = LogDensities("likelihood(z)", "prior", "conditional(psi, x)", "mixing(x)", "tau(z, x)")
_EVENT_HINT = "is the batch axis of x there, and the last axis part of the event (tfd.Independent)?"

_TERMINAL_CODE = re.compile(r"\x1b\[\d+m")
# Matches TensorFlow's messages about different dtypes, but not `dtype=float32` in a repr.
_DTYPE_MESSAGE = re.compile(r"incompatible dtypes|(type|be an?|is an?) '?(b?float|double|half|int)")


def call(name: str, function: Callable[..., Result], *arguments: tf.Tensor | None) -> Result:
    """Returns the result of a user's function.

    Args:
        name: the name of the function, for the message.
        function: the function.
        *arguments: its arguments.

    Raises:
        ValueError: if the arguments do not fit the function or each other.
        TypeError: if `function` is not callable.
    """
    if not callable(function):
        raise TypeError(f"{name}={shown(function)}: must be a function")
    try:
        return function(*arguments)
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        shapes = ", ".join(
            "None" if a is None else f"{a.dtype.name} {tuple(a.shape)}" for a in arguments
        )
        reason = " ".join(_TERMINAL_CODE.sub("", str(error)).split())
        hint = (
            "use one dtype throughout; NumPy arrays are float64 by default"
            if _DTYPE_MESSAGE.search(reason)
            else "it must take any number of leading axes; put tf.reshape before and after a Keras "
            "layer of fixed rank"
        )
        if arguments[0] is None:
            hint += "; psi=None is only for an explicit q(z|x), that is bound='vae' or 'iwae'"
        raise ValueError(f"{name}: failed on arguments {shapes} ({reason}); {hint}") from error


def check_model(model: Model, method: Method, x: tf.Tensor, gradient: str | None = None) -> None:
    """Checks the shapes of every callable that the method needs, and computes one draw.

    Args:
        model: the callables.
        method: the method.
        x: observations `[B, ...]`.
        gradient: the estimator, which requires reparameterized draws, or None.

    Raises:
        ValueError: if a callable is missing, a shape is wrong, a draw is not reparameterized,
            the estimator does not apply, or the densities mix observations.
        TypeError: if a distribution lacks a `sample` or `log_prob` that the method needs.
    """
    if gradient is not None:
        method.check_gradient(gradient)
    checker = _Checker(model, method, x, gradient)
    tf.function(checker.run, autograph=False).get_concrete_function()
    if tf.executing_eagerly() and x.shape[0] > 1:
        _check_independence(model, method, x)


def _check_independence(model: Model, method: Method, x: tf.Tensor) -> None:
    """Checks that replacing the first observation changes no density of the others."""
    sample = sampling.draw(model, method, x, Counts(K=1), tf.constant([0, 0]))
    try:
        at_z = sample._replace(log_q_z=None)
        before, sample = densities.log_densities(model, method, x, at_z), at_z
    except NotImplementedError:  # The proposal is a flow that scores only its own draws.
        before = densities.log_densities(model, method, x, sample)
    axes = LatentSample(z=1, psi_0=1, psi=2, zeta=2, log_q_z=1)
    replaced = LatentSample(*(_first_replaced(v, a) for v, a in zip(sample, axes, strict=True)))
    # The proposal keeps x, since it may depend on other observations, as by a batch norm.
    after = densities.log_densities(model, method, x, replaced)
    likelihood = model.likelihood(replaced.z).log_prob(_first_replaced(x, 0))
    after = after._replace(log_likelihood=likelihood)
    for name, old, new in zip(_SOURCES, before, after, strict=True):
        old, new = old.numpy()[..., 1:], new.numpy()[..., 1:]
        if not np.allclose(old, new, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise ValueError(
                f"{name}: the log_prob of an observation depends on another observation, or is "
                "random; call BatchNormalization and Dropout with training=False; "
                f"{_EVENT_HINT}"
            )


def _first_replaced(values: tf.Tensor | None, axis: int | None) -> tf.Tensor | None:
    """Returns the values with index 0 of an axis replaced by index 1."""
    if values is None:
        return None
    indices = tf.concat([[1], tf.range(1, tf.shape(values)[axis])], axis=0)
    return tf.gather(values, indices, axis=axis)


class _Checker:
    """One pass through the callables of a model, with the arguments of `check_model`."""

    _first_density: tuple[str, tf.DType] | None = None  # its name and dtype

    def __init__(self, model: Model, method: Method, x: tf.Tensor, gradient: str | None) -> None:
        self._model, self._method, self._x, self._gradient = model, method, x, gradient
        self._seed = tf.constant([0, 0])
        self._B = x.shape[0]
        self._M, self._K, self._L = [n for n in _COUNTS if n not in x.shape.as_list()][:3]

    def run(self) -> None:
        """Checks every callable that the method needs."""
        B, model, x = self._B, self._model, self._x
        z = self._check_hierarchical() if self._method.hierarchical else self._check_explicit()
        if priors.adapt(model.prior).hierarchical:
            self._check_prior(priors.hierarchical(model.prior), z)
        elif self._method.needs_hierarchical_prior:
            name, prior = self._method.name, _describe(model.prior)
            raise ValueError(f"prior: bound={name!r} is for a Hierarchy, got {prior}")
        else:
            self._log_prob("prior", cast(DistributionLike, model.prior), z, [self._M, B])
        self._log_prob("likelihood(z)", self._call("likelihood", z), x, [self._M, B])

    def _check_explicit(self) -> tf.Tensor:
        """Checks an explicit q(z|x) and returns a draw of z."""
        name = "conditional(None, x)"
        q = self._call("conditional", None, self._x)
        batch_shape = getattr(q, "batch_shape", [self._B])
        if batch_shape != [self._B]:
            raise ValueError(
                f"{name}: batch shape {batch_shape}, wanted ({self._B},); {_EVENT_HINT}"
            )
        self._reparameterized(name, q, "phi")
        z = self._draw(name, q, self._M, [self._M, self._B, None])
        if not hasattr(q, "experimental_sample_and_log_prob"):
            raise TypeError(f"{name}: neither a TFP distribution nor hvi.Callables")
        try:
            _, log_q_z = q.experimental_sample_and_log_prob(self._M, seed=self._seed)
        except NotImplementedError as error:
            raise TypeError(
                f"{name}: no log_prob ({error}); bound={self._method.name!r} needs its density"
            ) from error
        self._expect(f"{name}.log_prob(z)", log_q_z, [self._M, self._B])
        if self._gradient in AT_Z:
            self._log_prob(name, q, tf.identity(z), [self._M, self._B])
        return z

    def _check_hierarchical(self) -> tf.Tensor:
        """Checks q(psi|x), q(z|psi,x) and tau, and returns a draw of z."""
        B, method = self._B, self._method
        mixing = self._call("mixing", self._x)
        self._reparameterized("mixing(x)", mixing, "phi")
        psi_0 = self._draw("mixing(x)", mixing, self._M, [self._M, B, None])
        q = self._call("conditional", psi_0, self._x)
        self._reparameterized("conditional(psi, x)", q, "phi")
        z = self._draw("conditional(psi, x)", q, (), [self._M, B, None])
        psi = psi_0[tf.newaxis] + tf.zeros([self._K, 1, 1, 1], psi_0.dtype)
        self._log_prob(
            "conditional(psi, x)", self._call("conditional", psi, self._x), z, [self._K, self._M, B]
        )
        if method.psi_from_mixing:
            return z
        self._log_prob("mixing(x)", mixing, psi, [self._K, self._M, B])
        if method.has_tau:
            tau = self._call("tau", z, self._x)
            self._reparameterized("tau(z, x)", tau, "eta")
            drawn = self._draw("tau(z, x)", tau, self._K, [self._K, self._M, B, None])
            if drawn.shape[-1] != psi_0.shape[-1]:
                raise ValueError(
                    f"tau(z, x): draws psi of event shape {drawn.shape[3:]}, but mixing(x) draws "
                    f"psi of event shape {psi_0.shape[2:]}"
                )
            self._log_prob("tau(z, x)", tau, drawn, [self._K, self._M, B])
        return z

    def _check_prior(self, adapted: priors.HierarchicalPrior, z: tf.Tensor) -> None:
        """Checks p(zeta), p(z|zeta) and rho."""
        prior = adapted.hierarchy
        B, shape = self._B, [self._L, self._M, self._B]
        zeta = adapted.draw_unconditional_zeta(self._L, [self._M, B], self._seed)
        self._expect("prior.mixing: draws", zeta, [*shape, None])
        if self._method.zeta_from_prior:
            self._reparameterized("prior.mixing", prior.mixing, "theta")
        if self._method.has_rho:
            if prior.inverse is None:
                raise ValueError(
                    f"prior.inverse=None: bound={self._method.name!r} draws zeta from rho(zeta|z)"
                )
            rho = prior.inverse(z)
            self._reparameterized("prior.inverse(z)", rho, "rho")
            drawn = self._draw("prior.inverse(z)", rho, self._L, [*shape, None])
            if drawn.shape[-1] != zeta.shape[-1]:
                raise ValueError(
                    f"prior.inverse(z): draws zeta of event shape {drawn.shape[3:]}, but "
                    f"prior.mixing draws zeta of event shape {zeta.shape[3:]}"
                )
            self._log_prob("prior.inverse(z)", rho, drawn, shape)
            self._log_prob("prior.mixing", prior.mixing, drawn, shape)
        self._log_prob("prior.conditional(zeta)", prior.conditional(zeta), z, shape)

    def _call(self, name: str, *arguments: tf.Tensor | None) -> DistributionLike:
        """Returns the distribution that a callable of the model returns."""
        function = getattr(self._model, name)
        if function is None:
            raise ValueError(f"{name}=None: bound={self._method.name!r} needs it")
        return call(name, function, *arguments)

    def _draw(self, name: str, q: Density, count: int | tuple, wanted: Sequence) -> tf.Tensor:
        """Returns draws, whose shape must be `wanted`."""
        try:
            drawn = q.sample(count, seed=self._seed)
        except (AttributeError, NotImplementedError) as error:
            raise TypeError(
                f"{name}: no sample ({error}); bound={self._method.name!r} draws from it"
            ) from error
        self._expect(f"{name}: draws", drawn, wanted)
        return drawn

    def _log_prob(self, name: str, q: Density, value: tf.Tensor, wanted: Sequence) -> None:
        """Checks that the log-densities of `value` exist and have the shape `wanted`."""
        event = getattr(q, "event_shape", None)
        if event is not None and not tf.TensorShape(value.shape[-len(event) :]).is_compatible_with(
            event
        ):
            raise ValueError(
                f"{name}: event shape {tuple(event)}, but it has to score values of shape "
                f"{tuple(value.shape)}; {_EVENT_HINT}"
            )
        try:
            log_prob = q.log_prob(value)
        except (AttributeError, NotImplementedError) as error:
            raise TypeError(
                f"{name}: no log_prob ({error}); bound={self._method.name!r} needs its density"
            ) from error
        except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            reason = first_line(error)
            raise ValueError(
                f"{name}: a {_describe(q)} cannot score values of shape "
                f"{tuple(value.shape)} and {value.dtype.name} ({reason}); use one dtype throughout"
            ) from error
        self._expect(f"{name}.log_prob", log_prob, wanted)

    def _expect(self, name: str, values: tf.Tensor, wanted: Sequence) -> None:
        """Checks a shape, and that all log-densities have the same dtype."""
        if not values.shape.is_compatible_with(wanted):
            sizes = ", ".join("D" if size is None else str(size) for size in wanted)
            raise ValueError(
                f"{name}: shape {tuple(values.shape)}, wanted ({sizes}) for x of shape "
                f"{tuple(self._x.shape)}; {_EVENT_HINT}"
            )
        if "log_prob" in name:
            first, dtype = self._first_density = self._first_density or (name, values.dtype)
            if values.dtype != dtype:
                raise ValueError(
                    f"{name}: {values.dtype.name}, but {first} is {dtype.name}; use one dtype "
                    "throughout"
                )

    def _reparameterized(self, name: str, q: Density, group: str) -> None:
        """Checks that gradients can pass through the draws of a distribution."""
        kind = getattr(q, "reparameterization_type", None)
        if self._gradient and kind is tfd.NOT_REPARAMETERIZED:
            raise ValueError(
                f"{name}: a {_describe(q)} is not reparameterized, so "
                f"gradient={self._gradient!r} has no path to {group}"
            )


def _describe(q: Density | Hierarchy) -> str:
    """Returns the class of a distribution and its shapes, for a message."""
    name = type(q).__name__
    shapes = [
        f"{kind} shape {tuple(getattr(q, f'{kind}_shape'))}"
        for kind in ("batch", "event")
        if hasattr(q, f"{kind}_shape")
    ]
    return f"{name} of {' and '.join(shapes)}" if shapes else name
