"""Checkpoints and results of CNN-Symmetry: outputs and all gradients, in float64, on both backends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from layers import CONVOLUTIONS
from tolerances import assert_close
from torch import nn

GOLDEN = Path(__file__).parent / "data" / "golden"
CASES = {case["name"]: case for case in json.loads((GOLDEN / "index.json").read_text())}


def load(name: str, **rest: object) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The layer of a case with its checkpoint loaded, and all of the case's tensors."""
    with np.load(GOLDEN / f"{name}.npz") as data:
        tensors = {key: torch.from_numpy(data[key]) for key in data}
    layer = CONVOLUTIONS[CASES[name]["ndim"]](**CASES[name]["kwargs"], dtype=torch.float64, **rest)
    state = {key: tensors[key] for key in ("weight", "bias") if key in tensors}
    layer.load_state_dict(state)
    return layer, tensors


def test_there_are_ten_cases() -> None:
    assert len(CASES) == 10
    assert {path.stem for path in GOLDEN.glob("*.npz")} == set(CASES)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients(name: str) -> None:
    layer, golden = load(name)
    value = golden["input"].clone().requires_grad_()
    output = layer(value)
    assert_close("fprop", output, golden["output"])
    output.backward(golden["grad_output"])
    assert_close("dgrad", value.grad, golden["grad_input"])
    assert_close("wgrad", layer.weight.grad, golden["grad_weight"])
    assert (layer.bias is None) == ("bias" not in golden)
    if layer.bias is not None:
        assert_close("wgrad", layer.bias.grad, golden["grad_bias"])
