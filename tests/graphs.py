"""What a graph is made of, and whether XLA computes the same: for steps that are to run on GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# Operations that call Python, for which an accelerator waits.
HOST_CALLS = ("PyFunc", "PyFuncStateless", "EagerPyFunc", "NumpyFunction")


def assert_same_compiled(
    function: Callable[..., Any], *cases: Sequence[Any], close: float = 1e-5
) -> None:
    """XLA compiles the function, and what it gives is the same.

    Args:
        function: Tensors -> tensors, in any structure.
        *cases: What it is called with, alike in shapes: it is compiled once.
        close: How far a result may be off, as a share of its largest entry.
    """
    plain, compiled = (
        tf.function(function, autograph=False, jit_compile=jit) for jit in (False, True)
    )
    for case in cases:
        results = zip(*(tf.nest.flatten(f(*case)) for f in (compiled, plain)), strict=True)
        for found, expected in results:
            assert found.dtype == expected.dtype and found.shape == expected.shape
            found, expected = (np.asarray(part, np.float64) for part in (found, expected))
            largest = np.abs(expected).max(initial=0)
            np.testing.assert_allclose(found, expected, rtol=0, atol=close * largest)


def assert_stays_on_device(function: Callable[..., Any], *arguments: Any, doubles: int) -> None:
    """Neither the function's graph nor those it calls ask Python or hold large float64 tensors.

    Args:
        function: What is traced.
        *arguments: What it is traced for.
        doubles: The most entries that a float64 tensor may have.
    """
    concrete = tf.function(function, autograph=False).get_concrete_function(*arguments)
    graph = concrete.graph.as_graph_def(add_shapes=True)
    nodes = [*graph.node, *(n for function in graph.library.function for n in function.node_def)]
    calls = [(node.op, node.name) for node in nodes if node.op in HOST_CALLS]
    assert not calls, calls
    large = {
        (node.op, node.name, shape)
        for node in nodes
        for shape in _double_shapes(node)
        if shape is None or min(shape, default=1) < 0 or np.prod(shape) > doubles
    }
    assert not large, sorted(map(str, large))


def _double_shapes(node: Any) -> Iterator[tuple[int, ...] | None]:
    """The shapes of a node's float64 outputs, and of what it makes of float64 inputs.

    -1 is a side that is not known, None a shape of which nothing is.
    """
    shapes = node.attr["_output_shapes"].list.shape
    double = tf.float64.as_datatype_enum
    # Calls and loops list the types of their outputs; all others have few types, of all they hold.
    listed = node.attr["Tout"].list.type or node.attr["T"].list.type
    alone = any(attribute.type == double for attribute in node.attr.values())
    kinds = listed if len(listed) == len(shapes) else [double if alone else 0] * len(shapes)
    for kind, shape in zip(kinds, shapes, strict=True):
        if kind == double:
            yield None if shape.unknown_rank else tuple(side.size for side in shape.dim)
