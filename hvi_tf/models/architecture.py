"""The networks of the autoencoder, built from a configuration."""

import functools
from typing import Any

import keras
import numpy as np

from hvi_tf.config.settings import MethodConfig, ModelConfig
from hvi_tf.errors import UserError
from hvi_tf.inference import plans
from hvi_tf.inference.methods import Method
from hvi_tf.models import likelihoods, networks, pixelcnn, resnet
from hvi_tf.models.flows import Flow

# The group of parameters (`gradients.ParameterGroups`) of each network.
GROUPS = {
    "decoder": "theta",
    "pixels": "theta",
    "prior_decoder": "theta",
    "features": "phi",
    "encoder": "phi",
    "flow": "phi",
    "inverse": "eta",
    "prior_inverse": "rho",
    "buffer_weights": "pi",
}

# Outputs of a convolutional encoder, which are inputs of a hierarchical posterior's perceptron.
_FEATURES = 128


def build(
    method: Method,
    method_config: MethodConfig,
    sizes: ModelConfig,
    x_dim: int,
    rng: np.random.Generator,
) -> dict[str, keras.layers.Layer]:
    """Returns the networks that a configuration needs, by keys of `GROUPS`, with initial weights.

    Args:
        method: of the method table, with its posterior.
        method_config: the posterior, the prior and pi.
        sizes: the kinds and sizes of the networks.
        x_dim: pixels of an observation.
        rng: source of the initializers' seeds.

    Raises:
        UserError: if a convolutional network does not fit the images.
    """
    mlp = functools.partial(networks.MLP, precision=sizes.precision)
    built: dict[str, Any] = {"decoder": _decoder(sizes, x_dim, rng)}
    built |= _encoder(method, method_config, sizes, x_dim, rng)
    if method_config.posterior in ("iaf", "realnvp"):
        latents, flow_sizes = sizes.latent_dim, (sizes.num_flows, sizes.flow_hidden)
        built["flow"] = Flow(
            latents, latents, method_config.posterior, *flow_sizes, rng, sizes.precision
        )
    if method.has_tau:
        outputs = (2 if sizes.tau_gate_bias is None else 3) * sizes.aux_dim
        built["inverse"] = networks.ConditionedMLP(
            x_dim,
            sizes.latent_dim,
            sizes.hidden,
            outputs,
            rng,
            reinject=False,
            precision=sizes.precision,
        )
    if method_config.prior == "hierarchical":
        built["prior_decoder"] = mlp(sizes.prior_dim, sizes.hidden, 2 * sizes.latent_dim, rng)
        if method.has_rho:
            built["prior_inverse"] = mlp(sizes.latent_dim, sizes.hidden, 2 * sizes.prior_dim, rng)
    if sizes.likelihood == "discretized_logistic":
        built["pixels"] = likelihoods.DiscretizedLogistic(x_dim)
    else:
        built["pixels"] = likelihoods.Bernoulli()
    if method_config.pi == "learned":
        built["buffer_weights"] = networks.Logits(method_config.svi_steps + 1)
    return built


def local_dim(method_config: MethodConfig, sizes: ModelConfig) -> int:
    """Returns P, the number of local parameters of an observation's posterior."""
    # With flows the encoder's output has a third part, their context.
    return (3 if method_config.posterior in ("iaf", "realnvp") else 2) * sizes.latent_dim


def rows_per_call(sizes: ModelConfig) -> int:
    """Returns how many rows of z the decoder takes in one call that scores or draws images."""
    return 500 if sizes.decoder == "pixelcnn" else plans.ROWS


def _decoder(sizes: ModelConfig, x_dim: int, rng: np.random.Generator) -> keras.layers.Layer:
    if sizes.decoder == "mlp":
        return networks.MLP(sizes.latent_dim, sizes.hidden, x_dim, rng, sizes.precision)
    side = resnet.side_of(x_dim)
    largest = max(sizes.pixelcnn_kernels)
    if largest >= 2 * side:
        raise UserError(
            f"--pixelcnn_kernels: {largest} exceeds an image of {side}x{side} pixels; give "
            f"at most {2 * side - 1}"
        )
    return pixelcnn.PixelCNN(
        side,
        sizes.latent_dim,
        channels=sizes.pixelcnn_channels,
        kernels=sizes.pixelcnn_kernels,
        rng=rng,
        precision=sizes.precision,
    )


def _encoder(
    method: Method,
    method_config: MethodConfig,
    sizes: ModelConfig,
    x_dim: int,
    rng: np.random.Generator,
) -> dict[str, keras.layers.Layer]:
    outputs, hidden, precision = local_dim(method_config, sizes), sizes.hidden, sizes.precision
    if sizes.encoder == "resnet":
        side = resnet.side_of(x_dim)
        resnet.check_side(side, sizes.resnet_channels)
        if not method.hierarchical:
            return {"encoder": resnet.ResNet(side, sizes.resnet_channels, outputs, rng, precision)}
        features = resnet.ResNet(side, sizes.resnet_channels, _FEATURES, rng, precision)
        conditioned = networks.ConditionedMLP(
            _FEATURES, sizes.aux_dim, hidden, outputs, rng, reinject=True, precision=precision
        )
        return {"features": features, "encoder": conditioned}
    if not method.hierarchical:
        return {"encoder": networks.MLP(x_dim, hidden, outputs, rng, precision)}
    conditioned = networks.ConditionedMLP(
        x_dim, sizes.aux_dim, hidden, outputs, rng, reinject=True, precision=precision
    )
    return {"encoder": conditioned}
