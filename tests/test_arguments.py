"""The compiled operators called wrongly: every check names the argument, what was expected and what came."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("native")

# Four pairs along h and two quadruples: 6 reduced filters, 16 output channels.
ORBITS = [4, 0, 0, 2, 0, 0, 0, 0]
GEOMETRY = {
    "stride": [1, 2],
    "padding": [1, 1],
    "dilation": [1, 1],
    "groups": 2,
    "orbits": ORBITS,
    "transposed": False,
    "allow_tf32": False,
}


def right(operator: str) -> dict[str, Any]:
    """Arguments of a call that works."""
    input, weight = torch.randn(2, 6, 5, 7), torch.randn(6, 3, 3, 3)
    grad_output = torch.randn(2, 16, 5, 4)
    if operator == "fprop":
        return {"input": input, "weight": weight, "bias": torch.randn(16), **GEOMETRY}
    if operator == "dgrad":
        arguments = {"grad_output": grad_output, "weight": weight, "bias": torch.randn(6)}
        return {**arguments, "input_size": [2, 6, 5, 7], **GEOMETRY}
    if operator == "wgrad":
        return {"grad_output": grad_output, "input": input, "weight_size": [6, 3, 3, 3], **GEOMETRY}
    return {"weight": weight, "groups": 2, "orbits": ORBITS, "transposed": False}


def call(operator: str, **changes: Any) -> torch.Tensor:
    arguments = right(operator)
    assert set(changes) <= set(arguments)
    return getattr(torch.ops.symconv_ext, operator)(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("operator", "size"),
    [
        ("fprop", (2, 16, 5, 4)),
        ("dgrad", (2, 6, 5, 7)),
        ("wgrad", (6, 3, 3, 3)),
        ("mirror", (16, 3, 3, 3)),
    ],
)
def test_the_right_call(operator: str, size: tuple[int, ...]) -> None:
    assert call(operator).shape == size


T = torch.zeros
HUGE = 2**40
WRONG: list[tuple[str, dict[str, Any], str]] = [
    # dtypes and devices
    (
        "fprop",
        {"input": T(2, 6, 5, 7, dtype=torch.int64)},
        "input: expected dtype float32, float64, .*, got Long",
    ),
    (
        "fprop",
        {"weight": T(6, 3, 3, 3).double()},
        "weight: expected dtype float32 like input, got float64; conv",
    ),
    ("fprop", {"bias": T(16).half()}, "bias: expected dtype float32 like input, got float16"),
    (
        "dgrad",
        {"weight": T(6, 3, 3, 3).bfloat16()},
        "weight: expected dtype float32 like grad_output, got bfl",
    ),
    (
        "wgrad",
        {"input": T(2, 6, 5, 7).double()},
        "input: expected dtype float32 like grad_output, got float64",
    ),
    ("mirror", {"weight": T(6, 3, 3, 3, dtype=torch.bool)}, "weight: expected dtype .*, got Bool"),
    # ranks and channels
    ("fprop", {"input": T(6, 5, 7)}, r"input: expected 4 dimensions .*got size \[6, 5, 7\]; an unbatched"),
    ("fprop", {"input": T(2, 6, 5, 7, 1)}, "input: expected 4 dimensions"),
    ("fprop", {"weight": T(6, 3)}, r"weight: expected 3, 4 or 5 dimensions .*got size \[6, 3\]"),
    ("fprop", {"weight": T(())}, r"weight: expected 3, 4 or 5 dimensions .*got size \[\]"),
    ("fprop", {"weight": T(6, 3, 1, 1, 1, 1)}, "weight: expected 3, 4 or 5 dimensions"),
    ("fprop", {"input": T(2, 5, 5, 7)}, r"input: expected 6 channels .*got 5 in size \[2, 5, 5, 7\]"),
    ("fprop", {"input": T(2, 6, 0, 7)}, r"input: expected at least one .*got size \[2, 6, 0, 7\]"),
    (
        "fprop",
        {"weight": T(7, 3, 3, 3)},
        r"weight: expected 6 reduced filters .*got size \[7, 3, 3, 3\]; see Symm",
    ),
    ("fprop", {"weight": T(6, 0, 3, 3)}, "weight: expected at least one channel"),
    ("fprop", {"weight": T(6, 3, 0, 3)}, "weight: expected kernel sizes of at least 1"),
    ("fprop", {"bias": T(6)}, r"bias: expected size \[16\], .*got \[6\]"),
    ("fprop", {"bias": T(16, 1)}, r"bias: expected size \[16\], .*got \[16, 1\]"),
    ("fprop", {"transposed": True}, "input: expected 16 channels"),
    ("dgrad", {"bias": T(16)}, r"bias: expected size \[6\]"),
    ("dgrad", {"grad_output": T(2, 15, 5, 4)}, "grad_output: expected 16 channels"),
    ("dgrad", {"grad_output": T(3, 16, 5, 4)}, "grad_output: expected a batch of 2 like input_size"),
    ("dgrad", {"input_size": [2, 6, 5]}, r"input_size: expected 4 dimensions .*\[2, 6, 5\]"),
    ("dgrad", {"input_size": [2, 7, 5, 7]}, "input_size: expected 6 channels"),
    ("dgrad", {"input_size": [2, 6, -5, 7]}, "input_size: expected at least one"),
    ("wgrad", {"weight_size": [6, 3, 3]}, "stride: expected 1 numbers|orbits: expected no hv"),
    ("wgrad", {"weight_size": [5, 3, 3, 3]}, "weight_size: expected 6 reduced filters"),
    ("wgrad", {"input": T(3, 6, 5, 7)}, "grad_output: expected a batch of 3 like input"),
    ("mirror", {"weight": T(5, 3, 3, 3)}, "weight: expected 6 reduced filters"),
    # groups and orbits
    ("fprop", {"groups": 0}, "groups: expected at least 1, got 0"),
    ("fprop", {"groups": -2}, "groups: expected at least 1, got -2"),
    (
        "fprop",
        {"groups": 3},
        "orbits: expected a multiple of groups=3 in every block, got 4 orbits of h; change",
    ),
    ("mirror", {"groups": 4}, "orbits: expected a multiple of groups=4 in every block, got 2 orbits of hv"),
    ("fprop", {"orbits": [4, 0, 2]}, r"orbits: expected 8 numbers .*got \[4, 0, 2\]; see Symmetry.orbits"),
    ("fprop", {"orbits": [-2, 0, 0, 8, 0, 0, 0, 0]}, "orbits: expected counts of at least 0"),
    ("fprop", {"orbits": [2**62] * 8}, "orbits: expected counts"),
    (
        "fprop",
        {"orbits": [0, 0, 2, 0, 0, 0, 0, 4]},
        "orbits: expected no z orbits with a 2-d kernel, got 2; the axes",
    ),
    ("mirror", {"orbits": [0] * 8}, "weight: expected 0 reduced filters .*at least one"),
    # geometry
    ("fprop", {"stride": [1]}, r"stride: expected 2 numbers, one per spatial dimension, got \[1\]"),
    ("fprop", {"stride": [1, 0]}, r"stride: expected at least 1 in every dimension, got \[1, 0\]"),
    ("fprop", {"padding": [0, -1]}, r"padding: expected at least 0 in every dimension, got \[0, -1\]"),
    ("fprop", {"dilation": [0, 1]}, "dilation: expected at least 1"),
    ("dgrad", {"dilation": [1, 1, 1]}, "dilation: expected 2 numbers"),
    ("fprop", {"padding": [2**62, 2**62]}, "padding: expected at most"),
    ("fprop", {"dilation": [2**39, 2**39]}, "input: expected at least .* so that an output is left"),
    ("fprop", {"dilation": [HUGE, HUGE]}, "dilation: expected the dilated kernel to span at most"),
    (
        "fprop",
        {"padding": [0, 0], "dilation": [3, 1]},
        r"input: expected at least 7 points .*got size \[2, 6, 5, 7\]",
    ),
    (
        "dgrad",
        {"input_size": [2, 6, 5, 9]},
        r"grad_output: expected the size that fprop gives for input_size \[",
    ),
    ("dgrad", {"input_size": [2, 6, 4, 7]}, "grad_output: expected the size that fprop gives"),
    ("dgrad", {"input_size": [2, 6, 6, 7]}, "grad_output: expected the size that fprop gives"),
    ("wgrad", {"grad_output": T(2, 16, 5, 3)}, "grad_output: expected the size that fprop gives for input"),
    ("wgrad", {"grad_output": T(2, 16, 5, 5)}, "grad_output: expected the size that fprop gives for input"),
    # results that no memory holds
    ("fprop", {"padding": [2**38, 2**38]}, r"result: expected fewer than 2\^63 elements"),
    ("fprop", {"padding": [2**22, 2**22]}, "result: could not allocate a tensor of size"),
]


@pytest.mark.parametrize(("operator", "changes", "message"), WRONG)
def test_wrong_calls(operator: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        call(operator, **changes)
    assert re.match(message, str(error.value)), error.value


def test_freed_storage() -> None:
    weight = torch.randn(6, 3, 3, 3)
    weight.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"weight: expected a tensor with data, .*freed"):
        call("fprop", weight=weight)


@pytest.mark.parametrize("layout", ["sparse", "mkldnn"])
def test_layouts_without_a_kernel_are_refused(layout: str) -> None:
    weight = torch.randn(6, 3, 3, 3)
    other = weight.to_sparse() if layout == "sparse" else weight.to_mkldnn()
    with pytest.raises(RuntimeError):
        call("fprop", weight=other)


def test_tensors_that_only_look_large() -> None:
    """Sizes are checked before anything of that size is read or allocated."""
    with pytest.raises(RuntimeError, match=r"weight: expected 6 reduced filters"):
        call("fprop", weight=torch.zeros(1).expand(2**30, 2**30, 1, 1))
    with pytest.raises(RuntimeError, match=r"weight: expected|input: expected"):
        call("fprop", weight=torch.zeros(1).expand(6, 2**55, 3, 3))
    with pytest.raises(RuntimeError, match=r"result: "):
        call("fprop", input=torch.zeros(1).expand(2**40, 6, 5, 7))


@pytest.mark.parametrize("extra", range(4))
def test_every_output_padding_of_a_transposed_layer(extra: int) -> None:
    """Less than the stride or the dilation, as in torch; with more, the size is not one that fprop gives."""
    geometry = {"stride": [2, 1], "padding": [0, 0], "dilation": [1, 3], "groups": 2}
    arguments = {**right("dgrad"), **geometry, "grad_output": torch.randn(2, 16, 3, 3)}
    size = [2, 6, 2 * 2 + 3, 2 + 3 * 2 + 1 + extra]
    if extra == 3:
        with pytest.raises(RuntimeError, match="grad_output: expected the size that fprop gives"):
            torch.ops.symconv_ext.dgrad(**{**arguments, "input_size": size})
        return
    grad_input = torch.ops.symconv_ext.dgrad(**{**arguments, "input_size": size})
    dense = torch.ops.symconv_ext.mirror(arguments["weight"], 2, ORBITS, False)
    expected = torch.nn.functional.conv_transpose2d(
        arguments["grad_output"], dense, arguments["bias"], output_padding=(0, extra), **geometry
    )
    torch.testing.assert_close(grad_input, expected, rtol=1e-4, atol=1e-4)
