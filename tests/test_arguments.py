"""The one rule for counts and seeds."""

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf import arguments

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    "three",
    [
        3,
        np.int8(3),
        np.int64(3),
        np.uint16(3),
        np.array(3),
        tf.constant(3),
        tf.constant(3, "int64"),
    ],
)
def test_any_integer_type_counts(three):
    found = arguments.count("K", three, 0)
    assert type(found) is int
    assert found == 3
    assert tf.function(lambda: arguments.count("K", three, 0))() == 3


@pytest.mark.parametrize(
    "value",
    [
        *(True, np.True_, np.array(True), tf.constant(True), 3.0, np.float32(3), tf.constant(3.0)),
        *(2.5, "3", None, [3], np.array([3]), tf.constant([3]), tf.Variable(3), float("nan")),
        *(-1, np.int64(-1), tf.constant(-1), 2**31, pytest.param(10**5000, id="huge")),
    ],
)
def test_what_is_no_count_is_named(value):
    with pytest.raises(ValueError, match=r"K=.*must be a whole number, at least 0") as error:
        arguments.count("K", value, 0)
    assert len(str(error.value)) < 200
    with pytest.raises(ValueError, match=r"seed=.*must be a whole number"):
        arguments.seed(value)


def test_a_count_may_be_unknown_while_tracing():
    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def draws(n):
        return tf.zeros([arguments.count_or_tensor("n", n, 1)])

    assert draws(4).shape == [4]
    with pytest.raises(ValueError, match="n="):
        arguments.count_or_tensor("n", tf.constant(0), 1)


def test_a_stateless_seed_draws_alike_in_every_integer_type():
    for pair in ([1, 2], np.array([1, 2]), tf.constant([1, 2]), tf.constant([1, 2], tf.int64)):
        found = arguments.stateless_seed(pair)
        assert found.dtype == tf.int32
        np.testing.assert_array_equal(found, [1, 2])


@pytest.mark.parametrize(
    "value", [0, None, 1.5, [0.0, 1.0], [1, 2, 3], "ab", [2**31, 0], np.array([0, 2**40]), True]
)
def test_what_is_no_stateless_seed_is_named(value):
    with pytest.raises(ValueError, match=r"seed=.*two whole numbers"):
        arguments.stateless_seed(value)
