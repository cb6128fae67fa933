"""The benchmark networks as ONNX files with the same weights, built node by node.

No converter takes part, so the file is what ONNX Runtime likes best: Conv, Relu, MatMul/Gemm in
its own layout (the weights are transposed here, once).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["write_onnx"]


def write_onnx(model: Any, input_shape: tuple[int, ...], path: Path) -> None:
    """Write a ``networks.Cnn`` or ``networks.Mlp`` as an ONNX file with an open batch."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def weight(name: str, array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind.lower()}{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def dense(layer: Any, name: str, x: str) -> str:
        kernel = weight(f"{name}.kernel", np.asarray(layer.kernel[...]))
        return node("Gemm", x, kernel, weight(f"{name}.bias", np.asarray(layer.bias[...])))

    x = "input"
    if hasattr(model, "convs"):
        x = node("Transpose", x, perm=[0, 3, 1, 2])  # NHWC → NCHW
        for index, conv in enumerate(model.convs):
            kernel = np.asarray(conv.kernel[...]).transpose(3, 2, 0, 1)  # HWIO → OIHW
            x = node(
                "Conv",
                x,
                weight(f"conv{index}.kernel", kernel),
                weight(f"conv{index}.bias", np.asarray(conv.bias[...])),
                auto_pad="SAME_UPPER",
                strides=list(np.broadcast_to(conv.strides, 2).tolist()),
            )
            x = node("Relu", x)
        x = node("Flatten", node("Transpose", x, perm=[0, 2, 3, 1]))  # rows in NHWC order
    for index, layer in enumerate(model.layers):
        x = dense(layer, f"dense{index}", x)
        if index + 1 < len(model.layers):
            x = node("Relu", x)
    node("Identity", x)
    nodes[-1].output[0] = "output"
    width = model.layers[-1].out_features
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["B", *input_shape])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["B", width])],
        initializer=weights,
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
