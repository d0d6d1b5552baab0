"""A trained policy at work: numpy arrays that decide here, and the same as ONNX for wherever else it is to run.

In both, the normalisation is folded into the first layer and the mask is inside. A policy this small costs what it
takes to fetch its weights and its code, as the model has had the cache since the last decision; numpy has less code to
fetch than onnxruntime (`python -m bench.controller_decision`). The graph is written node by node, so exporting needs
`onnx` alone and running it `onnxruntime` alone (`pip install edgebench[onnx]`).
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from controller.policy import Array, Policy


class Decider(Protocol):
    """`Arrays` or a `Session`."""

    def decide(self, features: Array, latency_ms: Array, budget_ms: float) -> int:
        """Number of the most probable action that fits the budget; the first always does.

        Args:
            features: of one state, (f,).
            latency_ms: to expect of each action, (a,); zeros: no mask.
            budget_ms: of the state.
        """


class Arrays:
    """A trained policy, copied: training that goes on does not move it."""

    def __init__(self, policy: Policy) -> None:
        *self._hidden, self._last = _layers(policy)

    def decide(self, features: Array, latency_ms: Array, budget_ms: float) -> int:
        """See `Decider.decide`."""
        state = features.astype(np.float32, copy=False)
        for weight, bias in self._hidden:
            state = np.maximum(weight @ state + bias, 0.0)
        weight, bias = self._last
        fits = latency_ms <= budget_ms
        fits[0] = True
        return int(np.where(fits, weight @ state + bias, -np.inf).argmax())


def exported(policy: Policy, path: Path) -> Arrays:
    """The policy ready to decide; where ONNX is installed it is written to `path` too, if it is not there yet."""
    if find_spec("onnx") is not None and not path.exists():
        part = path.with_name(f".{os.getpid()}.{path.name}")  # another launch may be reading or writing it
        export(policy, part)
        part.replace(path)
    return Arrays(policy)


def _layers(policy: Policy) -> list[tuple[Array, Array]]:
    """Weight (out, in) and bias (out,) of the three layers, float32; the first one normalises."""
    hidden = {name: value.detach().double() for name, value in policy.hidden.named_parameters()}
    first = hidden["0.weight"] / policy.spread.double()
    layers = [
        (first, hidden["0.bias"] - first @ policy.mean.double()),
        (hidden["2.weight"], hidden["2.bias"]),
        tuple(value.detach() for value in policy.joint()),
    ]
    return [(weight.float().numpy(), bias.float().numpy()) for weight, bias in layers]


def export(policy: Policy, path: Path) -> None:
    """Write the graph.

    Inputs: features (f,), latency_ms (a,) to expect of each action or zeros, budget_ms (1,), all float32. Output:
    action (1, 1) int64, the most probable action that fits the budget; the first always does.
    """
    from onnx import TensorProto, checker, helper, numpy_helper, save_model

    always = np.zeros((1, policy.actions), dtype=bool)
    always[0, 0] = True
    arrays = {"always": always, "never": np.array(-np.inf, dtype=np.float32), "row": np.array([1, -1])}
    for number, (weight, bias) in enumerate(_layers(policy), 1):
        arrays |= {f"weight_{number}": weight, f"bias_{number}": bias}
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
        """See `Decider.decide`."""
        given = {
            "features": features.astype(np.float32, copy=False),
            "latency_ms": latency_ms.astype(np.float32, copy=False),
            "budget_ms": np.array([budget_ms], dtype=np.float32),
        }
        return int(self._run(None, given)[0][0, 0])
