"""The residual encoder: shapes, independence of images, refusals."""

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.errors import UserError
from hvi_tf.models import resnet


def make(side, channels=(4, 6, 6), outputs=5):
    return resnet.ResNet(side, channels, outputs, rng=randomness.initializer_seeds(0))


def images(*shape, ones=0.2):
    return tf.cast(tf.random.stateless_uniform(shape, [0, 1]) < ones, tf.float32)


@pytest.mark.parametrize(("side", "left"), [(28, 3), (32, 4), (8, 1)])
def test_each_stage_halves_the_side(side, left):
    network = make(side)
    assert network(images(2, side**2)).shape == [2, 5]
    assert network.output_layer.kernel.shape == (left**2 * 6, 5)


def test_an_image_alone_equals_the_image_in_a_batch():
    network, x = make(8), images(7, 64)
    together = network(x)
    for i in range(7):
        np.testing.assert_allclose(network(x[i : i + 1])[0], together[i], rtol=1e-5, atol=1e-6)


def test_outputs_keep_the_leading_axes_of_images():
    network, x = make(8), images(3, 2, 4, 64)
    y = network(x)
    assert y.shape == [3, 2, 4, 5]
    np.testing.assert_allclose(y[1, 0], network(x[1, 0]), rtol=1e-5, atol=1e-6)


def test_a_stage_is_a_residual_block_and_a_convolution_of_stride_2():
    """The expected values come from plain loops. The second block has an identity skip."""
    network, h = make(6, (3, 3)), np.array(tf.random.stateless_normal([1, 3, 3, 3], [0, 2]))
    stage = network.stages[1]
    assert stage.skip is None
    assert network.stages[0].skip is not None

    def elu(a):
        return np.where(a > 0.0, a, np.expm1(a))

    def convolve(layer, a, stride=1):
        k, bias = layer.kernel.numpy(), layer.bias.numpy()
        size = k.shape[0]
        places = range(0, a.shape[1] - size + 1, stride)
        windows = np.array([[a[0, i : i + size, j : j + size] for j in places] for i in places])
        return np.einsum("ijabc,abcd->ijd", windows, k)[np.newaxis] + bias

    def same(layer, a):
        return convolve(layer, np.pad(a, [(0, 0), (1, 1), (1, 1), (0, 0)]))

    block = h + same(stage.second, elu(same(stage.first, elu(h))))
    expected = convolve(stage.halve, elu(block), stride=2)
    np.testing.assert_allclose(stage(h), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ones", [0.02, 0.2, 0.8])
def test_initial_outputs_are_of_order_one(ones):
    outputs = make(28, (64, 64, 64), 32)(images(20, 784, ones=ones)).numpy()
    assert 0.1 < np.sqrt(np.mean(outputs**2)) < 2.0


def test_every_weight_gets_a_gradient_for_an_unknown_batch():
    network = make(8)

    @tf.function(input_signature=[tf.TensorSpec([None, 64])])
    def gradients(x):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(network(x) ** 2)
        return tape.gradient(value, network.trainable_variables)

    grads = gradients(images(3, 64))
    assert len(grads) == len(network.variables) == 2 + 3 * 6 + 2 * 2
    for gradient in grads:
        assert np.all(np.isfinite(gradient))
        assert np.any(gradient != 0.0)


def test_no_two_layers_begin_with_the_same_weights():
    kernels = [v.numpy() for v in make(8).variables if len(v.shape) > 1]
    assert len({k.tobytes() for k in kernels}) == len(kernels)


def test_too_many_stages_are_refused_in_one_line():
    with pytest.raises(UserError) as error:
        make(4, (64, 64, 64))
    assert str(error.value) == (
        "--resnet_channels=64,64,64: images of 4x4 pixels cannot be halved 3 times; "
        "give at most 2 stages"
    )
    make(4, (3, 3))
    with pytest.raises(UserError, match="at most 3 stages"):
        resnet.check_side(15, (1,) * 4)
    resnet.check_side(16, (1,) * 4)


def test_images_that_are_not_square_are_refused():
    assert [resnet.side_of(side**2) for side in (1, 3, 28)] == [1, 3, 28]
    with pytest.raises(UserError, match="images of 12 pixels are not square; choose --encoder"):
        resnet.side_of(12)
