"""Flows: masks, exact inverses and log-determinants, densities, gradients, and their cost."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from hvi_tf import randomness
from hvi_tf.models import distributions, flows

SEED = tf.constant([3, 1])
both_kinds = pytest.mark.parametrize("kind", flows.KINDS)


def make_flow(kind, dim=3, context_dim=4, num_flows=2, hidden=(12, 10)):
    rng = randomness.initializer_seeds(0)
    return flows.Flow(dim, context_dim, kind, num_flows, hidden, rng)


def normal(*shape, stream=0):
    return tf.random.stateless_normal(shape, [5, stream], dtype=keras.config.floatx())


def train(layer, by=0.3):
    """Changes every weight, also outside of the masks, as training would."""
    for i, variable in enumerate(layer.trainable_variables):
        variable.assign_add(by * normal(*variable.shape, stream=100 + i))
    return layer


def make_base(B, dim):
    return distributions.DiagonalNormal(
        normal(B, dim, stream=1), tf.nn.softplus(normal(B, dim, stream=2))
    )


@pytest.fixture
def float64():
    """Makes layers, and the tensors of this file, float64."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


@pytest.fixture
def passes(monkeypatch):
    """Returns a list with one entry for every call of a network."""
    runs, head = [], flows.affine_head
    monkeypatch.setattr(flows, "affine_head", lambda outputs: runs.append(1) or head(outputs))
    return runs


# The networks.


@pytest.mark.parametrize("hidden", [(40, 40), (3,), (2, 30, 4)])
def test_masked_mlp_is_autoregressive_and_sees_the_context(hidden):
    mlp = train(flows.MaskedMLP(5, 4, hidden, randomness.initializer_seeds(0)))
    h, z = normal(2, 4), normal(2, 5, stream=1)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([h, z])
        shift_and_scale = tf.reshape(mlp(h, z), [2, 2, 5])
    before = np.tri(5, k=-1, dtype=bool)
    for_z = tape.batch_jacobian(shift_and_scale, z).numpy()
    assert np.all(for_z[..., ~before] == 0.0)
    if min(hidden) >= 5:  # narrower layers skip some degrees
        assert np.all(for_z[..., before] != 0.0)
    assert np.all(tape.batch_jacobian(shift_and_scale, h).numpy() != 0.0)


@both_kinds
def test_the_context_is_never_tiled_over_draws(kind):
    flow = make_flow(kind, dim=4, context_dim=7)

    def draw(h):
        base = distributions.DiagonalNormal(tf.zeros([8, 4]), tf.ones([8, 4]))
        return flow.distribution(base, h).experimental_sample_and_log_prob(10, seed=SEED)

    graph = tf.function(draw).get_concrete_function(tf.TensorSpec([8, 7])).graph
    products = [op.inputs for op in graph.get_operations() if op.type == "MatMul"]
    assert [a.shape[0] for a, b in products if b.shape[0] == 7] == [8, 8]
    assert [a.shape[0] for a, b in products if b.shape[0] != 7] == [80] * 6


# The maps.


@both_kinds
@pytest.mark.parametrize(("dim", "num_flows"), [(2, 1), (3, 2), (5, 3)])
def test_log_determinants_are_those_of_the_jacobian_and_inverses_are_exact(
    kind, dim, num_flows, float64
):
    flow = train(make_flow(kind, dim, num_flows=num_flows))
    h, x = normal(6, 4), normal(6, dim, stream=1)
    bijector = flow.bijector(h)
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = bijector.forward(x)
    _, expected = np.linalg.slogdet(tape.batch_jacobian(z, x))
    np.testing.assert_allclose(bijector.forward_log_det_jacobian(x, 1), expected, rtol=1e-9)
    # Another bijector has an empty cache.
    other = flow.bijector(h)
    np.testing.assert_allclose(other.inverse(z), x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(other.inverse_log_det_jacobian(z, 1), -expected, rtol=1e-9)
    assert np.abs(z - x).max() > 0.1


@pytest.mark.parametrize("dim", [2, 5])
def test_coupling_is_the_real_nvp_of_tfp(dim):
    mlp = train(flows.coupling_mlp(dim, 4, (8,), randomness.initializer_seeds(0)))
    h, x = normal(6, 4), normal(3, 6, dim, stream=1)
    ours = flows.Coupling(lambda kept: flows.affine_head(mlp(h, kept)))
    theirs = tfb.RealNVP(
        dim // 2, shift_and_log_scale_fn=lambda kept, _: flows.affine_head(mlp(h, kept))
    )
    for method in "forward", "inverse":
        np.testing.assert_allclose(getattr(ours, method)(x), getattr(theirs, method)(x), rtol=1e-6)
    for method in "forward_log_det_jacobian", "inverse_log_det_jacobian":
        expected = getattr(theirs, method)(x, 1)
        np.testing.assert_allclose(getattr(ours, method)(x, 1), expected, rtol=1e-5, atol=1e-6)


@both_kinds
@pytest.mark.parametrize("dim", [2, 5])
def test_two_flows_move_every_entry_by_the_context(kind, dim):
    h = normal(1, 4)
    with tf.GradientTape() as tape:
        tape.watch(h)
        z = make_flow(kind, dim).bijector(h).forward(normal(1, dim, stream=1))
    assert np.all(tape.batch_jacobian(z, h).numpy() != 0.0)


@both_kinds
@pytest.mark.parametrize("num_flows", [1, 2, 3])
def test_flows_start_near_the_identity_but_not_at_it(kind, num_flows):
    h, x = normal(200, 32), normal(200, 32, stream=1)
    z = make_flow(kind, 32, 32, num_flows, (300, 300)).bijector(h).forward(x)
    assert 0.01 < np.sqrt(np.mean((z - x) ** 2)) < 0.25


# The distributions.


@both_kinds
def test_density_integrates_to_one(kind, float64):
    points, width = np.linspace(-10.0, 10.0, 401, retstep=True)
    z = np.array(list(itertools.product(points, points)))[:, np.newaxis].repeat(2, axis=1)
    q = train(make_flow(kind, dim=2), by=0.1).distribution(make_base(2, 2), normal(2, 4))
    integral = np.exp(q.log_prob(z)).sum(axis=0) * width**2
    np.testing.assert_allclose(integral, [1.0, 1.0], atol=1e-6)


@both_kinds
@pytest.mark.parametrize(("M", "B"), [(1, 1), (3, 1), (1, 5), (4, 5)])
def test_sampled_density_is_the_density_of_the_sample(kind, M, B):
    flow, h, base = train(make_flow(kind)), normal(B, 4), make_base(B, 3)
    z, log_q = flow.distribution(base, h).experimental_sample_and_log_prob(M, seed=SEED)
    log_prob = flow.distribution(base, h).log_prob(z)
    assert z.shape == [M, B, 3]
    assert log_q.shape == log_prob.shape == [M, B]
    np.testing.assert_allclose(log_prob, log_q, rtol=1e-3, atol=1e-3)


@both_kinds
@pytest.mark.parametrize("jit_compile", [False, True])
def test_flows_compile_for_an_unknown_batch_size(kind, jit_compile):
    flow = train(make_flow(kind))

    def draw(loc, h):
        q = flow.distribution(distributions.DiagonalNormal(loc, tf.ones_like(loc)), h)
        z, log_q = q.experimental_sample_and_log_prob(2, seed=SEED)
        return z, log_q, q.log_prob(tf.identity(z))

    specs = [tf.TensorSpec([None, 3]), tf.TensorSpec([None, 4])]
    compiled = tf.function(draw, input_signature=specs, jit_compile=jit_compile)
    for B in (1, 5):
        z, log_q, log_prob = compiled(normal(B, 3), normal(B, 4, stream=1))
        assert z.shape == [2, B, 3]
        np.testing.assert_allclose(log_prob, log_q, rtol=1e-3, atol=1e-3)
        if not jit_compile:  # XLA draws different numbers
            np.testing.assert_allclose(z, draw(normal(B, 3), normal(B, 4, stream=1))[0], rtol=1e-4)


@both_kinds
def test_noise_is_the_draw_of_the_base(kind):
    """So the base chooses the generator, which is fast under XLA."""
    flow, h, base = make_flow(kind), normal(5, 4), make_base(5, 3)
    z, _ = flow.distribution(base, h).experimental_sample_and_log_prob(2, seed=SEED)
    np.testing.assert_array_equal(z, flow.bijector(h).forward(base.sample(2, seed=SEED)))
    np.testing.assert_array_equal(z, flow.distribution(base, h).sample(2, seed=SEED))


@both_kinds
@pytest.mark.parametrize("compiler", [lambda function: function, tf.function])
def test_each_network_runs_once_for_a_draw_and_its_density(kind, compiler, passes):
    flow, h, base = make_flow(kind, num_flows=3), normal(5, 4), make_base(5, 3)
    compiler(lambda: flow.distribution(base, h).experimental_sample_and_log_prob(2, seed=SEED))()
    assert len(passes) == 3


@pytest.mark.parametrize(("kind", "expected"), [("iaf", 2 * (3 + 1)), ("realnvp", 2 * (1 + 1))])
def test_passes_for_the_density_of_an_external_z(kind, expected, passes):
    make_flow(kind).distribution(make_base(5, 3), normal(5, 4)).log_prob(normal(2, 5, 3))
    assert len(passes) == expected


# The gradients.


def check_gradients(function, tensors, variables):
    """Asserts that gradients are finite, nonzero and equal to slopes along random directions."""
    function = tf.function(function)
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(*tensors)
    gradients = tape.gradient(value, [*tensors, *variables])
    for i, gradient in enumerate(gradients):
        step = 1e-5 * normal(*gradient.shape, stream=200 + i)
        above = _moved(function, tensors, variables, i, step)
        below = _moved(function, tensors, variables, i, -step)
        assert np.any(gradient != 0.0)
        np.testing.assert_allclose(
            2.0 * tf.reduce_sum(gradient * step), above - below, rtol=1e-5, atol=1e-13
        )


def _moved(function, tensors, variables, i, step):
    if i < len(tensors):
        return function(*[t + step if j == i else t for j, t in enumerate(tensors)])
    variable = variables[i - len(tensors)]
    start = tf.identity(variable)
    variable.assign_add(step)
    value = function(*tensors)
    variable.assign(start)
    return value


@both_kinds
def test_gradients_of_a_draw_and_its_density(kind, float64):
    flow = make_flow(kind)

    def objective(loc, scale, h):
        q = flow.distribution(distributions.DiagonalNormal(loc, scale), h)
        z, log_q = q.experimental_sample_and_log_prob(3, seed=SEED)
        return tf.reduce_mean(log_q + 0.5 * tf.reduce_sum((z - 1.0) ** 2, axis=-1))

    tensors = [normal(5, 3), tf.exp(normal(5, 3, stream=1)), normal(5, 4, stream=2)]
    check_gradients(objective, tensors, flow.trainable_variables)


@both_kinds
def test_gradients_of_the_density_of_an_external_z(kind, float64):
    flow = make_flow(kind)

    def objective(z, loc, scale, h):
        base = distributions.DiagonalNormal(loc, scale)
        return tf.reduce_mean(flow.distribution(base, h).log_prob(z))

    z, loc, scale = normal(2, 5, 3, stream=3), normal(5, 3), tf.exp(normal(5, 3, stream=1))
    check_gradients(objective, [z, loc, scale, normal(5, 4, stream=2)], flow.trainable_variables)


@both_kinds
@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_compile(kind, jit_compile):
    flow, base, h = make_flow(kind, hidden=(8,)), make_base(5, 3), normal(5, 4)

    def gradients():
        with tf.GradientTape() as tape:
            q = flow.distribution(base, h)
            z, log_q = q.experimental_sample_and_log_prob(3, seed=SEED)
            value = tf.reduce_mean(log_q + q.log_prob(tf.identity(z) + 1.0) + z[..., 0] ** 2)
        return tape.gradient(value, flow.trainable_variables)

    for gradient in tf.function(gradients, jit_compile=jit_compile)():
        assert np.all(np.isfinite(gradient))
        assert np.any(gradient != 0.0)


# The layer.


@both_kinds
def test_every_weight_exists_at_once_and_belongs_to_the_layer(kind):
    flow = make_flow(kind, num_flows=3)
    tensors_of_one = 2 + 1 + 2 * 2  # h with a bias, z without, two later layers
    assert len(flow.trainable_variables) == len(flow.variables) == 3 * tensors_of_one
    kernels = [v.numpy() for v in flow.trainable_variables if len(v.shape) == 2]
    assert len({k.tobytes() for k in kernels}) == len(kernels)


@pytest.mark.parametrize(
    ("changed", "quoted"),
    [({"kind": "maf"}, "'maf'"), ({"num_flows": 0}, "got 0"), ({"dim": 1}, "got 1")],
)
def test_impossible_flows_are_refused(changed, quoted):
    with pytest.raises(ValueError, match=quoted):
        make_flow(**{"kind": "realnvp", **changed})
