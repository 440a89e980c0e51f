"""The peers of the benchmark compute the same step as our model."""

import functools
import importlib

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf.benchmark.cells import Cell
from hvi_tf.benchmark.peers import compare, weights
from hvi_tf.benchmark.peers.weights import Noise, Weights
from hvi_tf.inference import gradients
from hvi_tf.inference.methods import Counts
from hvi_tf.models.vae import make_vae

K, B, D = 7, 6, 30
SETTINGS = dict(bound="iwhvi", K=K, batch_size=B, hidden=(20, 15), latent_dim=3, aux_dim=4)
CELL = Cell("tiny", SETTINGS, x_dim=D)


@functools.cache
def ours():
    """Returns weights, x, noise, bound and gradients of our step, as arrays."""
    model = make_vae(CELL.config, D)
    x = (np.random.default_rng(1).random((B, D)) < 0.4).astype(np.float32)
    objective, ascent = gradients.value_and_gradients(
        model.callables,
        model.method,
        tf.constant(x),
        model.parameter_groups,
        Counts(K=K),
        tf.constant([3, 4]),
    )
    sample = objective.sample

    def noise_of(q, value):
        return ((value - q.distribution.loc) / q.distribution.scale).numpy()

    noise = Noise(
        psi_0=sample.psi_0[0].numpy(),
        z=noise_of(model.conditional(sample.psi_0, x), sample.z)[0],
        psi=noise_of(model.tau(sample.z, x), sample.psi)[:, 0],
    )
    exported = weights.of_model(model)
    by_variable = {
        id(v): g.numpy()
        for group, found in zip(model.parameter_groups, ascent, strict=True)
        for v, g in zip(group, found, strict=True)
    }

    def pairs(layers):
        return [(by_variable[id(layer.kernel)], by_variable[id(layer.bias)]) for layer in layers]

    def conditioned(network):
        of_u = by_variable[id(network.u_layer.kernel)]
        (kernel, bias), *later = pairs([network.x_layer, *network.later_layers])
        return [(np.concatenate([kernel, of_u]), bias), *later]

    gradient = Weights(
        encoder=conditioned(model.encoder),
        tau=conditioned(model.inverse),
        decoder=pairs([model.decoder.first_layer, *model.decoder.later_layers]),
    )
    return exported, x, noise, float(objective.value), gradient


@pytest.mark.parametrize("shared", [False, True], ids=["tiled", "shared"])
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_bound_and_gradients_are_ours(framework, shared):
    pytest.importorskip(framework, reason=f"{framework} is not installed: a peer of --compare")
    peer = importlib.import_module(f"hvi_tf.benchmark.peers.{framework}_step")
    exported, x, noise, bound, gradient = ours()
    value, found = peer.bound_and_gradients(exported, x, noise, shared)
    assert value == pytest.approx(bound, rel=1e-5)
    for mine, theirs in zip(gradient, found, strict=True):
        for pair, other in zip(mine, theirs, strict=True):
            for a, b in zip(pair, other, strict=True):
                np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4 * np.abs(a).max())


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_a_peer_takes_steps(name):
    contestant = compare.CONTESTANTS[name]
    pytest.importorskip(contestant.framework, reason=f"{name} is a peer of --compare")
    exported, x, *_ = ours()
    compare.make_step(contestant, CELL, compare.Start(exported, x))(3)


@pytest.mark.long
def test_contestants_run_in_separate_processes():
    chosen = compare.installed([compare.OURS])
    times, peaks = compare.compare(chosen, CELL, count=2, seconds=0.0)
    assert [len(times[name]) for name in chosen] == [2]
    assert peaks[compare.OURS] > 100.0
