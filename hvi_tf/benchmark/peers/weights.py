"""The networks of a model as arrays, for the other frameworks.

This module does not import TensorFlow, because the processes of peers import it.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from hvi_tf.models.networks import ConditionedMLP
    from hvi_tf.models.vae import VAE

Layers = list[tuple[np.ndarray, np.ndarray]]  # (kernel [inputs, units], bias [units])

# The same values as in `models.networks`, repeated on purpose: the peers share no code with the
# model.
MIN_SCALE = 1e-4
LEARNING_RATE = 2e-3
ADAM_EPSILON = 1e-7  # Keras's


class Weights(NamedTuple):
    """All layers, from first to last; kernels of [x, psi] and of [x, z] have x first."""

    encoder: Layers  # each layer but the first sees [h, psi]
    tau: Layers
    decoder: Layers


class Noise(NamedTuple):
    """Standard normal draws of one step with M=1, arrays of any framework."""

    psi_0: np.ndarray  # [B, Dpsi]
    z: np.ndarray  # [B, Dz]
    psi: np.ndarray  # [K, B, Dpsi]


def of_model(model: "VAE") -> Weights:
    """Returns the present weights of a model with perceptrons and a tau."""
    decoder = [model.decoder.first_layer, *model.decoder.later_layers]
    return Weights(
        encoder=conditioned(model.encoder),
        tau=conditioned(model.inverse),
        decoder=[_numbers(layer) for layer in decoder],
    )


def conditioned(network: "ConditionedMLP") -> Layers:
    """Returns the layers of a network of [x, u], with both kernels of the first one joined."""
    kernel, bias = _numbers(network.x_layer)
    first = np.concatenate([kernel, network.u_layer.kernel.numpy()]), bias
    return [first, *(_numbers(layer) for layer in network.later_layers)]


def _numbers(layer: object) -> tuple[np.ndarray, np.ndarray]:
    return layer.kernel.numpy(), layer.bias.numpy()  # type: ignore[attr-defined]
