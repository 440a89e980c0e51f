"""The step of IWHVI with M=1 in PyTorch, eager."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import softplus

from hvi_tf.benchmark.peers.weights import (
    ADAM_EPSILON,
    LEARNING_RATE,
    MIN_SCALE,
    Layers,
    Noise,
    Weights,
)

_LOG_2_PI = math.log(2.0 * math.pi)
Tensors = list[tuple[torch.Tensor, torch.Tensor]]


def tensors(layers: Layers, device: str = "cpu") -> Tensors:
    """Returns the layers as leaf tensors that require gradients."""

    def leaf(array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, requires_grad=True, device=device)

    return [(leaf(kernel), leaf(bias)) for kernel, bias in layers]


def conditioned(
    layers: Tensors, x: torch.Tensor, u: torch.Tensor, reinject: bool, shared: bool
) -> torch.Tensor:
    """Maps `[B, Dx], [..., B, Du]` to `[..., B, outputs]`; tiles x unless `shared`."""
    (kernel, bias), *later = layers
    if shared:
        pixels = x.shape[-1]
        h = (x @ kernel[:pixels] + bias) + u @ kernel[pixels:]
    else:
        h = torch.cat([x.expand(*u.shape[:-1], -1), u], -1) @ kernel + bias
    for kernel, bias in later:
        h = softplus(h)
        h = torch.cat([h, u], -1) if reinject else h
        h = h @ kernel + bias
    return h


def gaussian(outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and standard deviation."""
    loc, raw = outputs.chunk(2, -1)
    return loc, softplus(raw) + MIN_SCALE


def log_normal(
    value: torch.Tensor, loc: torch.Tensor | float, scale: torch.Tensor | float
) -> torch.Tensor:
    """Returns the log-density of a normal, summed over the last axis."""
    scale = torch.as_tensor(scale)
    terms = ((value - loc) / scale) ** 2 + _LOG_2_PI
    return -0.5 * terms.sum(-1) - scale.log().expand_as(terms).sum(-1)


def bound(
    weights: tuple[Tensors, ...], x: torch.Tensor, noise: Noise, shared: bool
) -> torch.Tensor:
    """Returns the batch mean of equation 5 of Sobolev & Vetrov 2019."""
    encoder, tau, decoder = weights
    psi_0, z_noise, psi_noise = noise
    loc, scale = gaussian(conditioned(encoder, x, psi_0, True, shared))
    z = loc + scale * z_noise
    tau_loc, tau_scale = gaussian(conditioned(tau, x, z, False, shared))
    psi = torch.cat([psi_0[None], tau_loc + tau_scale * psi_noise])
    loc, scale = gaussian(conditioned(encoder, x, psi, True, shared))
    beta = log_normal(z, loc, scale) + log_normal(psi, 0.0, 1.0)
    beta = beta - log_normal(psi, tau_loc, tau_scale)
    log_q = beta.logsumexp(0) - math.log(len(psi))
    h = z
    for kernel, bias in decoder[:-1]:
        h = softplus(h @ kernel + bias)
    logits = h @ decoder[-1][0] + decoder[-1][1]
    log_likelihood = (x * logits - softplus(logits)).sum(-1)
    return (log_likelihood + log_normal(z, 0.0, 1.0) - log_q).mean()


def bound_and_gradients(
    weights: Weights, x: np.ndarray, noise: Noise, shared: bool
) -> tuple[float, Weights]:
    """Returns the bound at given weights and noise, and its gradients."""
    leaves = tuple(tensors(layers) for layers in weights)
    drawn = Noise(*(torch.tensor(a) for a in noise))
    value = bound(leaves, torch.tensor(x), drawn, shared)
    value.backward()
    gradients = [[(k.grad.numpy(), b.grad.numpy()) for k, b in layers] for layers in leaves]  # type: ignore[union-attr]
    return value.item(), Weights(*gradients)


def make_step(
    weights: Weights, x: np.ndarray, K: int, threads: int, shared: bool
) -> Callable[[int], None]:
    """Returns a function that runs steps of Adam, with new noise at each."""
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    leaves = tuple(tensors(layers, device) for layers in weights)
    parameters = [a for layers in leaves for pair in layers for a in pair]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, eps=ADAM_EPSILON)
    images, batch = torch.tensor(x, device=device), len(x)
    latents = weights.decoder[0][0].shape[0]
    auxiliary = weights.tau[-1][0].shape[1] // 2

    def run(steps: int) -> None:
        for _ in range(steps):
            noise = Noise(
                torch.randn(batch, auxiliary, device=device),
                torch.randn(batch, latents, device=device),
                torch.randn(K, batch, auxiliary, device=device),
            )
            optimizer.zero_grad()
            (-bound(leaves, images, noise, shared)).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run
