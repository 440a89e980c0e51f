"""Floating-point operations of a compiled function, counted from the shapes in its graph.

The count covers the executed operations: the traced graph, the functions that it calls and the
bodies of its loops, without operations that no output needs. It depends on no clock. It shows a
layer that computes K rows instead of one, however its source is written.
"""

import collections
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import tensorflow as tf


class Product(NamedTuple):
    """One kind of product, with enough data to repeat it (see `products.Replay`).

    Attributes:
        kind: TensorFlow's name of the operation.
        shapes: of its inputs.
        attributes: those that determine the result, by name.
        flops: 2 for each multiplication and addition.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    attributes: tuple[tuple[str, Any], ...]
    flops: int


class Operations(NamedTuple):
    """The operations that one call of a function executes."""

    products: collections.Counter[Product]
    elementwise: int  # results of operations on single numbers, and terms of sums

    @property
    def flops(self) -> int:
        """Returns the floating-point operations of all products."""
        return sum(product.flops * count for product, count in self.products.items())

    def __add__(self, other: "Operations") -> "Operations":  # type: ignore[override]
        return Operations(self.products + other.products, self.elementwise + other.elementwise)

    def times(self, count: int) -> "Operations":
        """Returns the operations of `count` calls."""
        products = collections.Counter({p: n * count for p, n in self.products.items()})
        return Operations(products, self.elementwise * count)


NONE = Operations(collections.Counter(), 0)

_CONVOLUTION = ("strides", "padding", "data_format", "dilations")
_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "MatMul": ("transpose_a", "transpose_b"),
    "BatchMatMulV2": ("adj_x", "adj_y"),
    "Conv2D": _CONVOLUTION,
    "Conv2DBackpropInput": _CONVOLUTION,
    "Conv2DBackpropFilter": _CONVOLUTION,
}
# Products that this package does not use. They raise an error, because the count lacks them.
_UNKNOWN_PRODUCTS = {"Einsum", "BatchMatMul", "BatchMatMulV3", "Conv3D", "DepthwiseConv2dNative"}

_ELEMENTWISE = {
    *("Add", "AddV2", "AddN", "Sub", "Mul", "RealDiv", "Div", "BiasAdd", "Maximum", "Minimum"),
    *("Abs", "Neg", "Sign", "Square", "SquaredDifference", "Sqrt", "Rsqrt", "Pow", "Reciprocal"),
    *("Exp", "Expm1", "Log", "Log1p", "Softplus", "SoftplusGrad", "Sigmoid", "SigmoidGrad"),
    *("Tanh", "TanhGrad", "Relu", "ReluGrad", "Elu", "EluGrad", "Select", "SelectV2"),
}
_SUMS = {"Sum", "Mean", "Max", "BiasAddGrad"}


def count(function: Any) -> Operations:
    """Returns the operations of one call of a concrete function.

    A `tf.cond` counts as its first branch, which is the usual case in this package.

    Raises:
        ValueError: if a shape, or the number of iterations of a loop, depends on the data.
    """
    return _of_graph(function.graph)


def _of_graph(graph: Any) -> Operations:
    total = NONE
    for op in _needed(graph):
        total = total + _of_operation(graph, op)
    return total


def _needed(graph: Any) -> Iterable[Any]:
    """Returns the operations that an output, or a required effect, depends on."""
    seen = _ancestors([tensor.op for tensor in graph.outputs] + list(graph.control_outputs))
    return [op for op in graph.get_operations() if op in seen]


def _inputs_needed(graph: Any, tensors: list) -> set[int]:
    """Returns the indices of the inputs that `tensors` depend on."""
    seen = _ancestors([tensor.op for tensor in tensors], effects=False)
    return {i for i, tensor in enumerate(graph.inputs) if tensor.op in seen}


def _ancestors(waiting: list, effects: bool = True) -> set:
    seen: set = set()
    while waiting:
        op = waiting.pop()
        if op not in seen:
            seen.add(op)
            waiting += [tensor.op for tensor in op.inputs]
            waiting += list(op.control_inputs) if effects else []
    return seen


def _of_operation(graph: Any, op: Any) -> Operations:
    if op.type in ("PartitionedCall", "StatefulPartitionedCall"):
        return _of_graph(_called(graph, op, "f"))
    if op.type in ("While", "StatelessWhile"):
        trips = _trip_count(graph, op)
        both = _of_graph(_called(graph, op, "body")) + _of_graph(_called(graph, op, "cond"))
        return both.times(trips)
    if op.type in ("If", "StatelessIf"):
        return _of_graph(_called(graph, op, "then_branch"))
    if op.type in _UNKNOWN_PRODUCTS:
        raise ValueError(f"{op.name}: counting {op.type} is not implemented")
    if op.type in _ATTRIBUTES:
        return Operations(collections.Counter({_product(op): 1}), 0)
    if op.type in _ELEMENTWISE:
        return Operations(collections.Counter(), math.prod(_shape(op, op.outputs[0])))
    if op.type in _SUMS:
        return Operations(collections.Counter(), math.prod(_shape(op, op.inputs[0])))
    return NONE


def _called(graph: Any, op: Any, name: str) -> Any:
    return graph._get_function(op.get_attr(name).name).graph


def _shape(op: Any, tensor: tf.Tensor) -> tuple[int, ...]:
    if not tensor.shape.is_fully_defined():
        raise ValueError(f"{op.name}: its shape {tensor.shape} is not known before the run")
    return tuple(tensor.shape.as_list())


def _product(op: Any) -> Product:
    attributes = tuple((name, _plain(op.get_attr(name))) for name in _ATTRIBUTES[op.type])
    shapes = tuple(_shape(op, tensor) for tensor in op.inputs)
    if op.type in ("MatMul", "BatchMatMulV2"):
        transposed = dict(attributes)[_ATTRIBUTES[op.type][0]]
        terms = shapes[0][-2 if transposed else -1]
        flops = 2 * terms * math.prod(_shape(op, op.outputs[0]))
        return Product(op.type, shapes, attributes, flops)
    if op.type == "Conv2D":
        image, kernel = op.outputs[0], op.inputs[1]
    else:  # the requested shape is an input of the operation, as numbers
        image = op.inputs[2]
        kernel = op.outputs[0] if op.type == "Conv2DBackpropFilter" else op.inputs[1]
        requested = 0 if op.type == "Conv2DBackpropInput" else 1
        shapes = tuple(
            _shape(op, op.outputs[0]) if i == requested else s for i, s in enumerate(shapes)
        )
    height, width, inputs, outputs = _shape(op, kernel)
    pixels = math.prod(_shape(op, image)) // outputs
    return Product(op.type, shapes, attributes, 2 * pixels * height * width * inputs * outputs)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return tuple(value) if isinstance(value, list) else value


def _source(tensor: tf.Tensor) -> tf.Tensor:
    """Skips the identities of an output, which wait for all effects of the body."""
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def _trip_count(graph: Any, op: Any) -> int:
    """Returns the number of iterations of a loop, computed from its counter alone."""
    condition, body = (_called(graph, op, name) for name in ("cond", "body"))
    used = _inputs_needed(condition, list(condition.outputs))
    while True:  # adds the inputs that the next value of the counter needs
        more = _inputs_needed(body, [_source(body.outputs[i]) for i in used])
        if more <= used:
            break
        used |= more
    session = tf.compat.v1.Session

    def feeds(graph: Any, values: list) -> dict[str, Any]:
        return {graph.inputs[i].name: v for i, v in zip(used, values, strict=True)}

    try:
        with (
            session(graph=graph) as outer,
            session(graph=condition) as test,
            session(graph=body) as advance,
        ):
            values = outer.run([op.inputs[i] for i in used])
            trips = 0
            while test.run(condition.outputs[0], feeds(condition, values)):
                values = advance.run([_source(body.outputs[i]) for i in used], feeds(body, values))
                trips += 1
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"{op.name}: its number of iterations depends on the data") from error
    return trips
