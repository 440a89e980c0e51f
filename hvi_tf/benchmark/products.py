"""The rate of matrix products on this machine, measured on the shapes of a step."""

from typing import Any

import numpy as np
import tensorflow as tf

from hvi_tf.benchmark.operations import Operations, Product


class Replay:
    """All products of a function, forward and backward, on noise and one after another.

    It measures the time of a function that computes only these products on existing arrays. They
    are called one by one, because a compiler would merge equal ones.
    """

    def __init__(self, operations: Operations) -> None:
        self._products = list(operations.products.items())
        self._arrays: dict[tuple[int, ...], tf.Tensor] = {}
        self._calls = [(self._inputs(p), dict(p.attributes), p, n) for p, n in self._products]

    def __call__(self, repeats: int) -> None:
        """Computes all products `repeats` times."""
        for _ in range(repeats):
            for inputs, attributes, product, count in self._calls:
                for _ in range(count):
                    _do(product, inputs, attributes)
        tf.test.experimental.sync_devices()

    def _inputs(self, product: Product) -> list[Any]:
        inputs: list[Any] = [self._array(shape) for shape in product.shapes]
        shape_input = {"Conv2DBackpropInput": 0, "Conv2DBackpropFilter": 1}.get(product.kind)
        if shape_input is not None:
            inputs[shape_input] = tf.constant(product.shapes[shape_input])
        return inputs

    def _array(self, shape: tuple[int, ...]) -> tf.Tensor:
        if shape not in self._arrays:
            noise = np.random.default_rng(0).standard_normal(shape, np.float32)
            self._arrays[shape] = tf.constant(noise)
        return self._arrays[shape]


# Names of the inputs, because raw operations take keywords only.
_INPUTS = {
    "MatMul": ("a", "b"),
    "BatchMatMulV2": ("x", "y"),
    "Conv2D": ("input", "filter"),
    "Conv2DBackpropInput": ("input_sizes", "filter", "out_backprop"),
    "Conv2DBackpropFilter": ("input", "filter_sizes", "out_backprop"),
}


def _do(product: Product, inputs: list[Any], attributes: dict[str, Any]) -> tf.Tensor:
    named = dict(zip(_INPUTS[product.kind], inputs, strict=True))
    return getattr(tf.raw_ops, product.kind)(**named, **attributes)
