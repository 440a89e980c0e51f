"""Networks: shapes, the shared first layer, and the gate."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import randomness
from hvi_tf.models import distributions, networks


def matmul_flops(function, *arguments):
    """Returns the multiply-adds of the matrix products in the graph of `function`."""
    graph = tf.function(function).get_concrete_function(*arguments).graph
    total = 0
    graphs = [graph, *(f.graph for f in graph._functions.values() if hasattr(f, "graph"))]
    for op in (op for g in graphs for op in g.get_operations()):
        if op.type in ("MatMul", "BatchMatMulV2"):
            a, b = (i.shape.as_list() for i in op.inputs)
            total += int(np.prod(a)) * b[-1]
    return total


@pytest.fixture
def network():
    return networks.ConditionedMLP(
        x_dim=50,
        u_dim=4,
        hidden=(16, 16),
        outputs=6,
        rng=randomness.initializer_seeds(0),
        reinject=True,
    )


def test_conditioned_mlp_equals_a_perceptron_of_the_concatenated_input(network):
    x, u = (
        tf.random.stateless_normal([3, 50], [0, 1]),
        tf.random.stateless_normal([5, 2, 3, 4], [0, 2]),
    )
    tiled = tf.broadcast_to(x, [5, 2, 3, 50])
    kernel = tf.concat([network.x_layer.kernel, network.u_layer.kernel], axis=0)
    h = (
        tf.tensordot(tf.concat([tiled, u], -1), tf.convert_to_tensor(kernel), 1)
        + network.x_layer.bias
    )
    for layer in network.later_layers:
        h = layer(tf.concat([tf.nn.softplus(h), u], axis=-1))
    np.testing.assert_allclose(network(x, u), h, rtol=1e-4, atol=1e-5)


def test_x_is_never_tiled_over_k(network):
    """The multiply-adds of the x-part of the first layer do not depend on K."""

    def flops(K):
        x, u = tf.TensorSpec([8, 50]), tf.TensorSpec([K, 1, 8, 4])
        return matmul_flops(lambda x, u: network(x, u), x, u)

    per_u = 4 * 16 + 20 * 16 + 20 * 6
    assert flops(10) == 8 * (50 * 16 + 10 * per_u)
    assert flops(20) - flops(10) == 8 * 10 * per_u


def test_gate_starts_at_the_prior_and_stays_differentiable():
    outputs = tf.Variable(tf.random.stateless_normal([7, 12], [0, 1]))
    psi = tf.random.stateless_normal([7, 4], [0, 2])
    with tf.GradientTape() as tape:
        log_tau = networks.gated_gaussian_head(outputs, gate_bias=-20.0).log_prob(psi)
    prior = distributions.standard_normal([7], 4).log_prob(psi)
    np.testing.assert_allclose(log_tau, prior, atol=1e-5)
    assert np.all(np.isfinite(tape.gradient(log_tau, outputs)))
    wide_open = networks.gated_gaussian_head(outputs, gate_bias=50.0)
    loc, raw_scale, _ = tf.split(outputs, 3, axis=-1)
    ungated = networks.gaussian_head(tf.concat([loc, raw_scale], -1))
    np.testing.assert_allclose(wide_open.log_prob(psi), ungated.log_prob(psi), rtol=1e-4)


def test_initial_units_are_centered():
    """Biases cancel the mean of softplus units, so every layer starts near zero."""
    network = networks.MLP(100, (200, 200), 50, randomness.initializer_seeds(1))
    x = tf.cast(tf.random.stateless_uniform([500, 100], [0, 1]) < 0.1, tf.float32)
    outputs = network(x).numpy()
    assert np.abs(outputs.mean(axis=0)).max() < 1.0
    network.later_layers[-1].bias.assign(tf.zeros(50))
    assert np.abs(network(x).numpy().mean(axis=0)).max() > 1.0


def test_no_two_layers_begin_with_the_same_weights():
    network = networks.MLP(16, (16, 16, 16), 16, randomness.initializer_seeds(0))
    kernels = [layer.kernel.numpy() for layer in [network.first_layer, *network.later_layers]]
    assert len({k.tobytes() for k in kernels}) == len(kernels)


def test_normal_draws_have_its_mean_and_scale(seed):
    normal = distributions.DiagonalNormal(tf.constant([1.0, -2.0]), tf.constant([0.5, 3.0]))
    draws = normal.sample(40_000, seed=tf.constant([seed, 0])).numpy()
    error = np.array([0.5, 3.0]) / np.sqrt(len(draws))
    np.testing.assert_allclose(draws.mean(axis=0), [1.0, -2.0], atol=5 * error.max())
    np.testing.assert_allclose(draws.std(axis=0), [0.5, 3.0], rtol=0.02)


def test_normal_has_the_density_of_a_normal():
    x = tf.constant([[-30.0, 2.5], [0.1, 1e3]], tf.float64)
    loc, scale = tf.constant([0.3, -2.0], tf.float64), tf.constant([0.01, 3.0], tf.float64)
    expected = tfd.Independent(tfd.Normal(loc, scale), 1)
    found = distributions.DiagonalNormal(loc, scale)
    np.testing.assert_allclose(found.log_prob(x), expected.log_prob(x), rtol=1e-12)
    assert (found.batch_shape, found.event_shape) == (expected.batch_shape, expected.event_shape)
    np.testing.assert_allclose(tfd.kl_divergence(found, found), 0.0)


def test_softplus_and_its_gradient_at_both_ends():
    x = tf.constant([-1e4, -200.0, -79.0, -20.0, -1.0, 0.0, 1.0, 20.0, 200.0, 1e4])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = networks.softplus(x)
    np.testing.assert_allclose(y, np.logaddexp(0, x.numpy()), rtol=1e-6, atol=1e-5)
    sigmoid = np.exp(-np.logaddexp(0, -x.numpy().astype(np.float64)))
    np.testing.assert_allclose(tape.gradient(y, x), sigmoid, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_normal_is_reproducible_with_and_without_xla(jit_compile):
    normal = distributions.standard_normal([], 3)
    sample = tf.function(lambda s: normal.sample(4, seed=s), jit_compile=jit_compile)
    np.testing.assert_array_equal(sample(tf.constant([1, 2])), sample(tf.constant([1, 2])))
    assert not np.array_equal(sample(tf.constant([1, 2])), sample(tf.constant([1, 3])))
