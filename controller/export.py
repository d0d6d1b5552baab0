"""A trained policy as ONNX: normalisation, network and mask in one graph, one decision a call.

The graph is small enough to be written node by node, so exporting needs `onnx` alone and running it `onnxruntime`
alone (`pip install edgebench[onnx]`). Without them the policy decides itself, through torch: the same decisions, later.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from controller.policy import Array, Policy


class Decider(Protocol):
    """A `Policy` or a `Session`."""

    def decide(self, features: Array, latency_ms: Array, budget_ms: float) -> int:
        """Number of the action to take; see `Policy.decide`."""


def decider(policy: Policy, path: Path) -> Decider:
    """The policy exported to `path`, if it is not there yet, where ONNX is installed; else the policy."""
    if find_spec("onnx") is None or find_spec("onnxruntime") is None:
        return policy
    if not path.exists():
        part = path.with_name(f".{os.getpid()}.{path.name}")  # another launch may be reading or writing it
        export(policy, part)
        part.replace(path)
    return Session(path)


def export(policy: Policy, path: Path) -> None:
    """Write the graph.

    Inputs: features (f,), latency_ms (a,) to expect of each action or zeros, budget_ms (1,), all float32. Output:
    action (1, 1) int64, the most probable action that fits the budget; the first always does.
    """
    from onnx import TensorProto, checker, helper, numpy_helper, save_model

    weight, bias = policy.joint()
    hidden = dict(policy.hidden.named_parameters())
    first = hidden["0.weight"].double() / policy.spread.double()  # normalises in the product: three nodes less to run
    always = np.zeros((1, policy.actions), dtype=bool)
    always[0, 0] = True
    constants = {
        "weight_1": first.float(),
        "bias_1": (hidden["0.bias"].double() - first @ policy.mean.double()).float(),
        "weight_2": hidden["2.weight"],
        "bias_2": hidden["2.bias"],
        "weight_3": weight,
        "bias_3": bias,
    }
    arrays = {name: tensor.detach().numpy() for name, tensor in constants.items()}
    arrays |= {"always": always, "never": np.array(-np.inf, dtype=np.float32), "row": np.array([1, -1])}
    node = helper.make_node
    nodes = [
        node("Reshape", ["features", "row"], ["state"]),
        node("Gemm", ["state", "weight_1", "bias_1"], ["sum_1"], transB=1),
        node("Relu", ["sum_1"], ["hidden_1"]),
        node("Gemm", ["hidden_1", "weight_2", "bias_2"], ["sum_2"], transB=1),
        node("Relu", ["sum_2"], ["hidden_2"]),
        node("Gemm", ["hidden_2", "weight_3", "bias_3"], ["logits"], transB=1),
        node("LessOrEqual", ["latency_ms", "budget_ms"], ["fits"]),
        node("Or", ["fits", "always"], ["allowed"]),
        node("Where", ["allowed", "logits", "never"], ["masked"]),
        node("ArgMax", ["masked"], ["action"], axis=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "controller",
        inputs=[
            value("features", TensorProto.FLOAT, [len(policy.mean)]),
            value("latency_ms", TensorProto.FLOAT, [policy.actions]),
            value("budget_ms", TensorProto.FLOAT, [1]),
        ],
        outputs=[value("action", TensorProto.INT64, [1, 1])],
        initializer=[numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    # Opset 17 and IR 8: what any onnxruntime since 1.13 reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    save_model(model, str(path))


class Session:
    """An exported policy, run by onnxruntime on one thread."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._run = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run

    def decide(self, features: Array, latency_ms: Array, budget_ms: float) -> int:
        """Number of the action to take; see `Policy.decide`."""
        given = {
            "features": features.astype(np.float32, copy=False),
            "latency_ms": latency_ms.astype(np.float32, copy=False),
            "budget_ms": np.array([budget_ms], dtype=np.float32),
        }
        return int(self._run(None, given)[0][0, 0])
