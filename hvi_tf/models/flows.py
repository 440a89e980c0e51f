"""Normalizing flows conditioned on a context, as posteriors q(z|x) with a density.

These are the flow baselines of Sobolev & Vetrov 2019, appendix F. The encoder outputs mu, sigma
and a context h, and z is a draw of N(mu, sigma^2) pushed through flows that see h. All weights
belong to Keras layers, because a Keras 3 model does not track TFP's own networks.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from hvi_tf.models import networks

# A tanh bounds the log-scale of each flow, so that no exponential overflows.
MAX_LOG_SCALE = 3.0
# Scales the output layers so that flows start near the identity, as in Kingma et al. 2016's code.
INITIAL_OUTPUT_SCALE = 0.1

ShiftAndLogScale = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class MaskedMLP(keras.layers.Layer):
    """A network whose output d sees z_1:d-1 and h: `[B, Dh], [..., B, D] -> [..., B, 2D]`.

    It is the masked autoencoder (MADE) of Germain et al. 2015. The context enters in the first
    hidden layer, as in Kingma et al. 2016, and its product is computed once per row of h.

    Args:
        dim: D.
        context_dim: Dh.
        hidden: units of each hidden layer.
        rng: source of the initializers' seeds.
        precision: dtype of the factors of matrix products.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        hidden: Sequence[int],
        rng: np.random.Generator,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        # A degree is the number of leading entries of z that a unit may depend on. A unit of
        # degree 0 sees only h, so z_1 also depends on the context.
        degrees = [
            np.arange(1, dim + 1),
            *(np.arange(units) * dim // units for units in hidden),
            np.tile(np.arange(dim), 2),
        ]
        self.masks = [a[:, np.newaxis] <= b for a, b in itertools.pairwise(degrees)]
        # One kernel of [h, z] is split in two, as in `ConditionedMLP`.
        sees_h = np.ones((context_dim, hidden[0]), bool)
        kernel = _masked_uniform(np.concatenate([sees_h, self.masks[0]]), rng)
        self.h_layer = networks.dense(kernel[:context_dim], precision=precision)
        self.z_layer = networks.dense(kernel[context_dim:], use_bias=False, precision=precision)
        self.later_layers = [
            networks.dense(
                _masked_uniform(mask, rng, last=i == len(hidden)),
                softplus_inputs=len(mask),
                precision=precision,
            )
            for i, mask in enumerate(self.masks[1:], start=1)
        ]
        _shrink(self.later_layers[-1])
        self.built = True

    def call(self, h: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
        """Returns the output layer's linear activations."""
        first_mask, *later_masks = self.masks
        from_z = _masked_product(networks.flat(z), self.z_layer, first_mask)
        units = networks.flat(self.h_layer(h) + networks.unflat(from_z, like=z))
        for layer, mask in zip(self.later_layers, later_masks, strict=True):
            units = _masked_product(networks.softplus(units), layer, mask) + layer.bias
        return networks.unflat(units, like=z)


def coupling_mlp(
    dim: int,
    context_dim: int,
    hidden: Sequence[int],
    rng: np.random.Generator,
    precision: str = "float32",
) -> networks.ConditionedMLP:
    """Returns a network for `Coupling`: `[B, Dh], [..., B, D//2] -> [..., B, 2 (D - D//2)]`."""
    kept = dim // 2
    mlp = networks.ConditionedMLP(
        context_dim, kept, hidden, 2 * (dim - kept), rng, reinject=False, precision=precision
    )
    _shrink(mlp.later_layers[-1])
    return mlp


def _masked_uniform(mask: np.ndarray, rng: np.random.Generator, last: bool = False) -> np.ndarray:
    """Returns an initial kernel; each unit's scale depends on the number of inputs that it sees."""
    inputs, units = mask.shape
    kernel = networks.uniform(inputs, units, rng, last).numpy()
    return np.where(mask, kernel * np.sqrt(inputs / mask.sum(axis=0)), 0.0)


def _masked_product(units: tf.Tensor, layer: networks.Dense, mask: np.ndarray) -> tf.Tensor:
    return networks.product(units, tf.where(mask, layer.kernel, 0.0), layer.precision)


def _shrink(layer: keras.layers.Dense) -> None:
    layer.set_weights([INITIAL_OUTPUT_SCALE * weight for weight in layer.get_weights()])


def affine_head(outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Splits `[..., 2D]` into a shift and a bounded log-scale."""
    shift, raw_log_scale = tf.split(outputs, 2, axis=-1)
    return shift, MAX_LOG_SCALE * tf.tanh(raw_log_scale / MAX_LOG_SCALE)


def _once(function: ShiftAndLogScale) -> ShiftAndLogScale:
    """Returns `function` with a cache of one result, for calls with the same tensor.

    TFP calls a bijector for its value and then for its log-determinant, and both run the network.
    Grappler merges neither the two passes nor their gradients; XLA merges only the passes.
    """
    last: tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]] | None = None

    def cached(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        nonlocal last
        if last is None or last[0] is not z:
            last = z, function(z)
        return last[1]

    return cached


class Coupling(tfb.Bijector):
    """The map y = [x_1, x_2 exp(s(x_1)) + t(x_1)] with log|det dy/dx| = sum s(x_1).

    Dinh et al. 2017, eqs 6 to 8. `tfb.RealNVP` is the same map, but it slices x_1 again for the
    log-determinant. So `_once` could not save its second pass.

    Args:
        shift_and_log_scale: x_1 `[..., D//2]` -> t and s, each `[..., D - D//2]`.
    """

    def __init__(self, shift_and_log_scale: ShiftAndLogScale) -> None:
        super().__init__(forward_min_event_ndims=1, name="coupling")
        self._shift_and_log_scale = _once(lambda x: shift_and_log_scale(_halves(x)[0]))

    @classmethod
    def _parameter_properties(cls, dtype: tf.DType) -> dict:
        return {}  # as in `tfb.RealNVP`, because the base distribution has the batch shape

    def _forward(self, x: tf.Tensor) -> tf.Tensor:
        kept, moved = _halves(x)
        shift, log_scale = self._shift_and_log_scale(x)
        return tf.concat([kept, moved * tf.exp(log_scale) + shift], axis=-1)

    def _inverse(self, y: tf.Tensor) -> tf.Tensor:
        kept, moved = _halves(y)
        shift, log_scale = self._shift_and_log_scale(y)
        return tf.concat([kept, (moved - shift) * tf.exp(-log_scale)], axis=-1)

    def _forward_log_det_jacobian(self, x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(self._shift_and_log_scale(x)[1], axis=-1)


def _halves(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    kept = x.shape[-1] // 2
    return x[..., :kept], x[..., kept:]


def _inverse_autoregressive(shift_and_log_scale: ShiftAndLogScale) -> tfb.Bijector:
    """Returns the IAF z = (x - t(x)) exp(-s(x)); x given z takes D passes (Kingma et al. 2016)."""
    return tfb.Invert(tfb.MaskedAutoregressiveFlow(_once(shift_and_log_scale)))


class _Kind(NamedTuple):
    network: Callable[[int, int, Sequence[int], np.random.Generator, str], keras.layers.Layer]
    bijector: Callable[[ShiftAndLogScale], tfb.Bijector]


KINDS = {
    "iaf": _Kind(MaskedMLP, _inverse_autoregressive),
    "realnvp": _Kind(coupling_mlp, Coupling),
}


class Flow(keras.layers.Layer):
    """A chain of flows of z in R^D, conditioned on h and initially near the identity.

    Every second flow acts on the reversed z, so two couplings transform every entry. An IAF draws
    with one pass of each network, and inverts an external z with D passes.

    Args:
        dim: D, >= 2.
        context_dim: Dh.
        kind: a key of `KINDS`.
        num_flows: length of the chain, >= 1.
        hidden: units of each network's hidden layers.
        rng: source of the initializers' seeds.
        precision: dtype of the factors of matrix products.

    Raises:
        ValueError: if `dim`, `kind` or `num_flows` has another value.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        kind: str,
        num_flows: int,
        hidden: Sequence[int],
        rng: np.random.Generator,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        if dim < 2:
            raise ValueError(f"a flow conditions dimensions on others: dim must be >= 2, got {dim}")
        if num_flows < 1:
            raise ValueError(f"num_flows must be >= 1, got {num_flows}")
        self.dim, self.kind = dim, kind
        self.networks = [
            KINDS[kind].network(dim, context_dim, hidden, rng, precision) for _ in range(num_flows)
        ]
        self.built = True

    def bijector(self, h: tf.Tensor) -> tfb.Bijector:
        """Returns the chain given h `[B, Dh]`, a map from `[..., B, D]` to itself."""
        reverse = tfb.Permute(np.arange(self.dim)[::-1])
        chain: list[tfb.Bijector] = []
        for i, network in enumerate(self.networks):
            flow = KINDS[self.kind].bijector(_conditioned(network, h))
            chain += [reverse, flow, reverse] if i % 2 else [flow]
        return tfb.Chain(chain[::-1])

    def distribution(self, base: tfd.Distribution, h: tf.Tensor) -> tfd.Distribution:
        """Returns the distribution of the chain's output for x ~ `base`.

        `experimental_sample_and_log_prob` returns draws and their densities without another pass
        of the networks. For its own sample, TFP looks x up in a cache. So `log_prob` of that
        sample has no gradient with respect to it, but `log_prob` of `tf.identity(sample)` does.
        The cache does not follow the weights: make a new distribution after an update.

        Args:
            base: batch shape `[B]`, event shape `[D]`.
            h: `[B, Dh]`.
        """
        return tfd.TransformedDistribution(base, self.bijector(h))


def _conditioned(network: keras.layers.Layer, h: tf.Tensor) -> ShiftAndLogScale:
    return lambda z: affine_head(network(h, z))
