"""Checkpoints and results of CNN-Symmetry: outputs and all gradients, in float64, on both backends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
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


@pytest.mark.parametrize("name", CASES)
def test_the_oracle_gives_the_reference_s_results(name: str) -> None:
    """What all other tests compare with is itself compared with the reference implementation."""
    layer, golden = load(name)
    weight = golden["weight"].clone().requires_grad_()
    value = golden["input"].clone().requires_grad_()
    dense = oracle.dense_weight(weight, layer.symmetry.orbits, layer.groups, False)
    padded, padding = value, layer.padding
    if layer.padding_mode != "zeros":
        padded, padding = F.pad(value, [1] * 2 * (value.dim() - 2), mode=layer.padding_mode), 0
    rest = (layer.stride, padding, layer.dilation, layer.groups)
    output = oracle.CONVOLUTION[value.dim() - 2](padded, dense, golden.get("bias"), *rest)
    assert_close("fprop", output, golden["output"])
    found = torch.autograd.grad(output, (value, weight), golden["grad_output"])
    assert_close("dgrad", found[0], golden["grad_input"])
    assert_close("wgrad", found[1], golden["grad_weight"])


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
