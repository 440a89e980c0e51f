"""The step of IWHVI with M=1 in JAX, compiled by `jax.jit`."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hvi_tf.benchmark.peers.weights import (
    ADAM_EPSILON,
    LEARNING_RATE,
    MIN_SCALE,
    Noise,
    Weights,
)

_LOG_2_PI = math.log(2.0 * math.pi)


def conditioned(
    layers: list, x: jax.Array, u: jax.Array, reinject: bool, shared: bool
) -> jax.Array:
    """Maps `[B, Dx], [..., B, Du]` to `[..., B, outputs]`; tiles x unless `shared`."""
    (kernel, bias), *later = layers
    if shared:
        pixels = x.shape[-1]
        h = (x @ kernel[:pixels] + bias) + u @ kernel[pixels:]
    else:
        tiled = jnp.broadcast_to(x, (*u.shape[:-1], x.shape[-1]))
        h = jnp.concatenate([tiled, u], -1) @ kernel + bias
    for kernel, bias in later:
        h = jax.nn.softplus(h)
        h = jnp.concatenate([h, u], -1) if reinject else h
        h = h @ kernel + bias
    return h


def gaussian(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean and standard deviation."""
    loc, raw = jnp.split(outputs, 2, -1)
    return loc, jax.nn.softplus(raw) + MIN_SCALE


def log_normal(value: jax.Array, loc: Any, scale: Any) -> jax.Array:
    """Returns the log-density of a normal, summed over the last axis."""
    terms = ((value - loc) / scale) ** 2 + _LOG_2_PI
    return jnp.sum(-0.5 * terms - jnp.log(scale), -1)


def bound(weights: Weights, x: jax.Array, noise: Noise, shared: bool) -> jax.Array:
    """Returns the batch mean of equation 5 of Sobolev & Vetrov 2019."""
    encoder, tau, decoder = weights
    psi_0, z_noise, psi_noise = noise
    loc, scale = gaussian(conditioned(encoder, x, psi_0, True, shared))
    z = loc + scale * z_noise
    tau_loc, tau_scale = gaussian(conditioned(tau, x, z, False, shared))
    psi = jnp.concatenate([psi_0[None], tau_loc + tau_scale * psi_noise])
    loc, scale = gaussian(conditioned(encoder, x, psi, True, shared))
    beta = log_normal(z, loc, scale) + log_normal(psi, 0.0, 1.0)
    beta = beta - log_normal(psi, tau_loc, tau_scale)
    log_q = jax.nn.logsumexp(beta, 0) - math.log(len(psi))
    h = z
    for kernel, bias in decoder[:-1]:
        h = jax.nn.softplus(h @ kernel + bias)
    logits = h @ decoder[-1][0] + decoder[-1][1]
    log_likelihood = jnp.sum(x * logits - jax.nn.softplus(logits), -1)
    return jnp.mean(log_likelihood + log_normal(z, 0.0, 1.0) - log_q)


def bound_and_gradients(
    weights: Weights, x: np.ndarray, noise: Noise, shared: bool
) -> tuple[float, Weights]:
    """Returns the bound at given weights and noise, and its gradients."""
    value, gradients = jax.value_and_grad(bound)(weights, x, noise, shared)
    return float(value), jax.tree.map(np.asarray, gradients)


def make_step(weights: Weights, x: np.ndarray, K: int, shared: bool) -> Callable[[int], None]:
    """Returns a function that runs steps of Adam, with new noise at each."""
    latents = weights.decoder[0][0].shape[0]
    auxiliary = weights.tau[-1][0].shape[1] // 2

    def draw(key: jax.Array) -> Noise:
        keys = jax.random.split(key, 3)
        shapes = (len(x), auxiliary), (len(x), latents), (K, len(x), auxiliary)
        return Noise(*(jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: tuple, images: jax.Array) -> tuple:
        parameters, first, second, i = state
        noise = draw(jax.random.fold_in(jax.random.key(0), i))
        gradients = jax.grad(bound)(parameters, images, noise, shared)
        i = i + 1
        rate = LEARNING_RATE * jnp.sqrt(1.0 - 0.999**i) / (1.0 - 0.9**i)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, gradients)
        parameters = jax.tree.map(
            lambda p, m, v: p + rate * m / (jnp.sqrt(v) + ADAM_EPSILON), parameters, first, second
        )
        return parameters, first, second, i

    parameters = jax.tree.map(jnp.asarray, weights)
    zeros = [jax.tree.map(jnp.zeros_like, weights) for _ in range(2)]
    images = jnp.asarray(x)
    state = (parameters, *zeros, jnp.zeros((), jnp.int32))

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state = step(state, images)
        jax.block_until_ready(state)

    return run
