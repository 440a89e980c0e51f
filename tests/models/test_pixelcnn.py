"""The PixelCNN: dependence on pixels, sharing over z, and draws."""

import itertools

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.models import likelihoods, pixelcnn

Z_DIM = 3
SEED = tf.constant([3, 4])


def make(side, kernels, channels=4, sharpen=1.0):
    """Returns a small network; `sharpen` scales up its outputs, which start near 0."""
    rng = randomness.initializer_seeds(0)
    network = pixelcnn.PixelCNN(side, Z_DIM, rng, channels=channels, kernels=kernels, z_maps=2)
    kernel = network.output_layer.kernel
    kernel.assign(sharpen * kernel)
    return network


def binary(*shape):
    return tf.cast(tf.random.stateless_uniform(shape, [0, 1]) < 0.4, tf.float32)


def normal(*shape):
    return tf.random.stateless_normal(shape, [0, 2])


def jacobians(network):
    """Returns d output[t] / d x[s] `[t, s]` and d output[t] / d z `[t, Dz]` at one x and z."""
    D = network.side**2
    # In one pass, copy t of the image gives output t.
    x, z = tf.tile(binary(1, D), [D, 1]), tf.tile(normal(1, Z_DIM), [D, 1])
    with tf.GradientTape() as tape:
        tape.watch([x, z])
        outputs = tf.linalg.trace(network(x, z))
    return [gradient.numpy() for gradient in tape.gradient(outputs, [x, z])]


# Dependence on pixels.


@pytest.mark.parametrize("kernels", [(3,), (9,), (3, 5), (7, 5, 3)])
def test_outputs_depend_on_earlier_pixels_only(kernels):
    side = 5
    for_x, _ = jacobians(make(side, kernels))
    before = np.tri(side**2, k=-1, dtype=bool)
    assert np.all(for_x[~before] == 0.0)
    for t in range(side**2):
        if t % side:
            assert np.all(for_x[t, t - 1] != 0.0)  # to the left
        if t >= side:
            assert np.all(for_x[t, t - side] != 0.0)  # above


@pytest.mark.parametrize("kernels", [(9,), (7, 3, 3), (3, 3, 3, 3)])
def test_there_is_no_blind_spot(kernels):
    """Outputs depend on every earlier pixel if the kernels span the image."""
    for_x, _ = jacobians(make(5, kernels))
    assert np.all(for_x[np.tri(25, k=-1, dtype=bool)] != 0.0)


def test_kernels_see_no_further_than_half_their_size():
    for_x, _ = jacobians(make(6, (3, 3)))
    row, column = np.divmod(np.arange(36), 6)
    far = (row[:, np.newaxis] - row > 2) | (np.abs(column[:, np.newaxis] - column) > 2)
    assert np.all(for_x[far] == 0.0)


def test_every_pixel_depends_on_z_even_the_first():
    _, for_z = jacobians(make(4, (3,)))
    assert np.all(for_z != 0.0)


def test_default_sizes_have_the_cost_in_the_docstring():
    network = pixelcnn.PixelCNN(4, Z_DIM, randomness.initializer_seeds(0))
    products = sum(int(np.prod(v.shape)) for v in network.variables if len(v.shape) == 4)
    assert round(products / 1e6, 2) == 0.64
    assert round(products * 784 / 1e9, 2) == 0.50


# Many z for an image.


def test_many_z_equal_one_z_at_a_time():
    network, x, z = make(4, (5, 3)), binary(2, 16), normal(3, 2, 2, Z_DIM)
    outputs = network(x, z)
    assert outputs.shape == [3, 2, 2, 16]
    for i, j in itertools.product(range(3), range(2)):
        np.testing.assert_allclose(outputs[i, j], network(x, z[i, j]), rtol=1e-4, atol=1e-6)


def test_x_is_never_tiled_over_z():
    network = make(4, (5, 3), channels=6)
    specs = tf.TensorSpec([8, 16]), tf.TensorSpec([10, 8, Z_DIM])
    graph = tf.function(lambda x, z: network(x, z)).get_concrete_function(*specs).graph
    inputs = [op.inputs[0].shape for op in graph.get_operations() if op.type == "Conv2D"]
    assert [s[0] for s in inputs if s[-1] == 1] == [8, 8]
    assert [s[0] for s in inputs if s[-1] != 1] == [80] * 9


@pytest.mark.parametrize("jit_compile", [False, True])
def test_every_weight_and_z_get_a_gradient_for_unknown_sizes(jit_compile):
    network = make(4, (5, 3))
    specs = [tf.TensorSpec([None, 16]), tf.TensorSpec([None, None, Z_DIM])]

    @tf.function(input_signature=specs, jit_compile=jit_compile)
    def gradients(x, z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = tf.reduce_sum(likelihoods.Bernoulli()(network(x, z)).log_prob(x))
        return tape.gradient(value, [z, *network.trainable_variables])

    grads = gradients(binary(3, 16), normal(2, 3, Z_DIM))
    assert len(grads) == 1 + len(network.variables)
    for gradient in grads:
        assert np.all(np.isfinite(gradient))
        assert np.any(gradient != 0.0)


def test_ascent_of_z_in_a_while_loop_equals_ascent_in_python():
    network, x, start = make(4, (3, 3), sharpen=10.0), binary(3, 16), normal(3, Z_DIM)

    def step(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = tf.reduce_sum(likelihoods.Bernoulli()(network(x, z)).log_prob(x))
        return z + 0.1 * tape.gradient(value, z)

    @tf.function
    def loop(z):
        return tf.while_loop(lambda z: True, lambda z: (step(z),), [z], maximum_iterations=3)[0]

    z = step(step(step(start)))
    np.testing.assert_allclose(loop(start), z, rtol=1e-4, atol=1e-5)
    assert np.abs(z - start).max() > 1e-2


# The initial weights.


@pytest.mark.parametrize("kernels", [pixelcnn.KERNELS, (7, 5, 3)])
def test_units_start_of_order_one_and_outputs_near_zero(kernels):
    network = pixelcnn.PixelCNN(28, 32, randomness.initializer_seeds(0), kernels=kernels)
    outputs = network(binary(4, 784), normal(4, 32)).numpy()
    rms = np.sqrt(np.mean(outputs**2))
    assert rms < 0.2
    # The output kernel's variance relates the outputs to the units before them.
    assert 0.4 < rms / np.sqrt(pixelcnn.OUTPUT_GAIN) < 2.0


def test_no_two_layers_begin_with_the_same_weights():
    kernels = [v.numpy() for v in make(4, (3, 3, 3)).variables if len(v.shape) > 1]
    assert len({k.tobytes() for k in kernels}) == len(kernels)


@pytest.mark.parametrize("kernels", [(), (4,), (3, 1), (5, -3)])
def test_impossible_kernels_are_refused(kernels):
    with pytest.raises(ValueError, match="odd and >= 3, got"):
        make(4, kernels)


# Draws.


def all_images(D):
    return np.array(list(itertools.product([0.0, 1.0], repeat=D)), np.float32)


@pytest.mark.parametrize(("side", "draws"), [(2, 20_000), (3, 60_000)])
def test_draws_have_the_probabilities_of_teacher_forcing(side, draws, seed):
    network, D = make(side, (3, 3), sharpen=30.0), side**2
    z, pixels, images = normal(2, Z_DIM), likelihoods.Bernoulli(), all_images(D)
    every_z = tf.tile(z[:, tf.newaxis], [1, draws, 1])
    x = pixelcnn.sample(network, pixels, every_z, tf.constant([seed, 0])).numpy()
    for i in range(2):
        same_z = tf.tile(z[i : i + 1], [len(images), 1])
        p = np.exp(likelihoods.Autoregressive(network, pixels, same_z).log_prob(images))
        np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-5)
        assert p.max() > 5.0 * p.min()  # far from uniform, else the test is weak
        counts = np.bincount((x[i] @ 2.0 ** np.arange(D)[::-1]).astype(int), minlength=2**D)
        statistic = np.sum((counts - draws * p) ** 2 / (draws * p))
        assert scipy.stats.chi2.sf(statistic, 2**D - 1) > 1e-4


def test_every_pixel_is_drawn_with_the_weights_of_its_position(seed):
    network, pixels = make(3, (3,), sharpen=0.0), likelihoods.DiscretizedLogistic(9)
    scale = np.linspace(0.01, 0.05, 9)
    pixels.raw_scale.assign(np.log(np.expm1(scale - likelihoods.MIN_SCALE)))
    x = pixelcnn.sample(network, pixels, normal(5_000, Z_DIM), tf.constant([seed, 1])).numpy()
    np.testing.assert_allclose(x.mean(axis=0), 0.5, atol=5 * 0.1 / np.sqrt(5_000))
    np.testing.assert_allclose(x.std(axis=0), scale * np.pi / np.sqrt(3.0), rtol=0.08)


def test_draws_are_a_function_of_the_seed_alone():
    network, pixels, z = make(4, (3, 3)), likelihoods.Bernoulli(), normal(2, 5, Z_DIM)
    rows = []
    plain = pixelcnn.sample(network, pixels, z, SEED)
    watched = pixelcnn.sample(network, pixels, z, SEED, progress=rows.append)
    compiled = tf.function(lambda z: likelihoods.Autoregressive(network, pixels, z).sample(SEED))
    assert plain.shape == [2, 5, 16]
    assert rows == [1, 2, 3, 4]
    np.testing.assert_array_equal(plain, watched)
    np.testing.assert_array_equal(plain, compiled(z))
    assert set(np.unique(plain)) == {0.0, 1.0}
    assert not np.array_equal(plain, pixelcnn.sample(network, pixels, z, SEED + 1))
    flat = plain.numpy().reshape(10, 16)
    assert len(np.unique(flat, axis=0)) == 10  # images differ
    assert len(np.unique(flat, axis=1).T) > 8  # pixels differ
