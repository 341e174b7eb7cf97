"""Bad input: the error names the argument, what was expected, what came, what to do; nothing else happens."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layers import LAYERS, TRANSPOSED
from test_layers import OUT, every_layer, is_transposed, kind_id, make_input, make_layer, rank_of
from torch import nn

import symconv_ext
from symconv_ext import GlobalConv1d, SymmetricConv1d, SymmetricConv2d, SymmetricConv3d, TopKPool, functional

C2 = SymmetricConv2d


def raises(
    call: Callable[[], object], kind: type[BaseException] | tuple[type[BaseException], ...], text: str
) -> None:
    """`text` is a pattern; the first word of it is the argument that the message must name."""
    with pytest.raises(kind, match=text) as caught:
        call()
    assert len(str(caught.value)) < 1500


# Symmetry specifications, as a layer meets them.

SPECIFICATIONS = {
    "not whole pairs": (
        {"h": 3},
        8,
        ValueError,
        r"symmetry: 'h': expected a multiple of 2 .*got 3; use 2 or 4",
    ),
    "not whole quadruples": (
        {"hv": 6},
        8,
        ValueError,
        r"symmetry: 'hv': expected a multiple of 4 .*got 6; use 4 or 8",
    ),
    "too many": ({"h": 4, "hv": 8}, 8, ValueError, r"symmetry: .*asks for 12 filters.*out_channels=8"),
    "far too many": ({"h": 10**30}, 8, ValueError, r"symmetry: .*filters.*out_channels=8"),
    "unknown letter": ({"x": 2}, 8, ValueError, r"symmetry: key 'x'.*'h' and 'v'"),
    "capital letter": ({"H": 2}, 8, ValueError, r"symmetry: key 'H'.*'h' and 'v'"),
    "unknown among known": ({"hq": 4}, 8, ValueError, r"symmetry: key 'hq'.*'h' and 'v'"),
    "repeated letter": ({"hh": 4}, 8, ValueError, r"symmetry: key 'hh'.*'h' and 'v'"),
    "no letter": ({"": 4}, 8, ValueError, r"symmetry: key ''.*plain"),
    "key is no string": ({1: 4}, 8, (TypeError, ValueError), r"symmetry: key 1"),
    "key is None": ({None: 4}, 8, (TypeError, ValueError), r"symmetry: key None"),
    "axis of another rank": ({"z": 2}, 8, ValueError, r"symmetry: key 'z': a 2-D layer has no axis 'z'"),
    "axes of another rank": ({"hvz": 8}, 8, ValueError, r"symmetry: key 'hvz': a 2-D layer has no axis 'z'"),
    "mask named twice": (
        {"hv": 4, "vh": 4},
        8,
        ValueError,
        r"symmetry: keys 'hv' and 'vh' name the same mask",
    ),
    "percentage over 100": (
        {"h": "101%"},
        8,
        ValueError,
        r"symmetry: 'h': expected at most '100%', got '101%'",
    ),
    "percentages over 100": (
        {"h": "60%", "v": "60%"},
        8,
        ValueError,
        r"symmetry: .*more than out_channels=8",
    ),
    "number and percentage": ({"h": 6, "hv": "50%"}, 8, ValueError, r"symmetry: .*more than out_channels=8"),
    "percentage without sign": (
        {"h": "50"},
        8,
        ValueError,
        r"symmetry: 'h': .*percentage such as '50%', got '50'",
    ),
    "percentage of letters": ({"h": "half"}, 8, ValueError, r"symmetry: 'h': .*percentage.*got 'half'"),
    "percentage of nothing": ({"h": "%"}, 8, ValueError, r"symmetry: 'h': .*percentage.*got '%'"),
    "percentage nan": ({"h": "nan%"}, 8, ValueError, r"symmetry: 'h': .*percentage.*got 'nan%'"),
    "percentage inf": ({"h": "inf%"}, 8, ValueError, r"symmetry: 'h': .*percentage.*got 'inf%'"),
    "percentage exponent": ({"h": "1e2%"}, 8, ValueError, r"symmetry: 'h': .*percentage.*got '1e2%'"),
    "negative percentage": ({"h": "-50%"}, 8, ValueError, r"symmetry: 'h': .*percentage.*got '-50%'"),
    "negative": ({"h": -2}, 8, ValueError, r"symmetry: 'h': .*at least 0, got -2"),
    "fraction": ({"h": 2.5}, 8, TypeError, r"symmetry: 'h': expected a whole number.*got float 2\.5"),
    "whole float": ({"h": 2.0}, 8, TypeError, r"symmetry: 'h': expected a whole number.*got float 2\.0"),
    "bool": ({"h": True}, 8, TypeError, r"symmetry: 'h': expected a whole number.*got bool True"),
    "None": ({"h": None}, 8, TypeError, r"symmetry: 'h': expected a whole number.*got NoneType None"),
    "list": (["h"], 8, TypeError, r"symmetry: expected a dict such as .*got list \['h'\]"),
    "string": ("hv", 8, TypeError, r"symmetry: expected a dict such as .*got str 'hv'"),
    "number": (8, 8, TypeError, r"symmetry: expected a dict such as .*got int 8"),
}


@pytest.mark.parametrize(("spec", "out", "kind", "text"), SPECIFICATIONS.values(), ids=SPECIFICATIONS.keys())
def test_symmetry(spec: Any, out: int, kind: Any, text: str) -> None:
    before = torch.get_rng_state()
    raises(lambda: C2(3, out, 3, symmetry=spec), kind, text)
    raises(lambda: TRANSPOSED[2](3, out, 3, symmetry=spec), kind, text)
    assert torch.equal(torch.get_rng_state(), before)


def test_symmetry_of_other_ranks_and_of_groups() -> None:
    raises(
        lambda: SymmetricConv1d(1, 8, 3, symmetry={"v": 2}),
        ValueError,
        r"symmetry: key 'v': a 1-D layer has no axis 'v'; use 'h'",
    )
    raises(lambda: SymmetricConv1d(1, 8, 3, symmetry={"hv": 4}), ValueError, r"symmetry: key 'hv'")
    raises(
        lambda: SymmetricConv3d(1, 8, 3, symmetry={"hvz": 4}),
        ValueError,
        r"symmetry: 'hvz': expected a multiple of 8",
    )
    raises(
        lambda: C2(4, 8, 3, groups=2, symmetry={"h": 2}),
        ValueError,
        r"symmetry: 'h': expected a multiple of 4 .*2 groups.*got 2",
    )
    raises(
        lambda: C2(4, 16, 3, groups=4, symmetry={"hv": 8}),
        ValueError,
        r"symmetry: 'hv': expected a multiple of 16 .*4 groups",
    )


def test_accepted_specifications_that_look_odd() -> None:
    """The edges of what is right."""
    for spec, counts in (
        ({"h": np.int64(4)}, {"h": 4}),
        ({"h": torch.tensor(4)}, {"h": 4}),
        ({"h": "100%"}, {"h": 8}),
        ({"h": " 50.0 % "}, {"h": 4}),
        ({"h": "0%", "v": 0}, {}),
        ({"hv": "49%"}, {"hv": 4}),
        ({"hv": "30%"}, {}),
        ({"h": "50%", "v": "50%"}, {"h": 4, "v": 4}),
    ):
        assert C2(3, 8, 3, symmetry=spec).symmetry.counts == counts
    assert C2(3, 9, 3, symmetry={"h": "100%"}).symmetry.counts == {"h": 8}
    # 55.6 % and 44.4 % of 9 are rounded to 5 and 4, then down to whole pairs.
    assert C2(3, 9, 3, symmetry={"h": "55.6%", "v": "44.4%"}).symmetry.counts == {"h": 4, "v": 4}


@pytest.mark.parametrize("kind", LAYERS, ids=kind_id)
def test_a_dict_where_device_or_dtype_stands(kind: type[nn.Module]) -> None:
    """CNN-Symmetry has symmetry in tenth place, where torch.nn has device."""
    device = (
        [3, 8, 3, 1, 0, 0, 1, True, 1, "zeros"]
        if is_transposed(kind)
        else [3, 8, 3, 1, 0, 1, 1, True, "zeros"]
    )
    assert kind(*device).symmetry.is_plain
    raises(lambda: kind(*device, {"h": 4}), TypeError, r"device: .*symmetry=\{'h': 4\}")
    raises(lambda: kind(*device, None, {"h": 4}), TypeError, r"dtype: .*symmetry=\{'h': 4\}")


# Other constructor arguments.

CONSTRUCTORS = {
    "kernel 0": ({"kernel_size": 0}, ValueError, r"kernel_size: expected at least 1"),
    "negative kernel": ({"kernel_size": (3, -1)}, ValueError, r"kernel_size: expected at least 1"),
    "kernel of another rank": (
        {"kernel_size": (3, 3, 3)},
        ValueError,
        r"kernel_size: expected one number or 2",
    ),
    "no kernel": ({"kernel_size": ()}, ValueError, r"kernel_size: expected one number or 2"),
    "kernel is a float": ({"kernel_size": 3.0}, TypeError, r"kernel_size: expected (a )?whole number"),
    "kernel holds a float": (
        {"kernel_size": (3, 3.0)},
        TypeError,
        r"kernel_size: expected (a )?whole number",
    ),
    "kernel is None": ({"kernel_size": None}, TypeError, r"kernel_size: expected"),
    "stride 0": ({"stride": 0}, ValueError, r"stride: expected at least 1"),
    "negative stride": ({"stride": (1, -1)}, ValueError, r"stride: expected at least 1"),
    "stride of another rank": ({"stride": (1,)}, ValueError, r"stride: expected one number or 2"),
    "dilation 0": ({"dilation": 0}, ValueError, r"dilation: expected at least 1"),
    "negative padding": ({"padding": -1}, ValueError, r"padding: expected at least 0"),
    "one negative padding": ({"padding": (0, -1)}, ValueError, r"padding: expected at least 0"),
    "padding of another rank": ({"padding": (0, 0, 0)}, ValueError, r"padding: expected one number or 2"),
    "groups 0": ({"groups": 0}, ValueError, r"groups"),
    "negative groups": ({"groups": -1}, ValueError, r"groups"),
    "groups does not divide in": (
        {"in_channels": 5, "groups": 2},
        ValueError,
        r"in_channels: .*groups=2, got 5",
    ),
    "groups does not divide out": (
        {"out_channels": 15, "groups": 2},
        ValueError,
        r"out_channels: .*groups=2, got 15",
    ),
    "no input channels": ({"in_channels": 0}, ValueError, r"in_channels: expected a positive"),
    "no output channels": (
        {"out_channels": 0, "symmetry": {}},
        ValueError,
        r"out_channels: expected a positive",
    ),
    "negative channels": ({"in_channels": -4}, ValueError, r"in_channels: expected a positive"),
    "padding mode": ({"padding_mode": "mirror"}, ValueError, r"padding_mode.*'?mirror"),
}
CONVOLUTIONS_ONLY = {
    "padding word": ({"padding": "full"}, ValueError, r"padding: .*'same' or 'valid', got 'full'"),
    "same with a stride": ({"padding": "same", "stride": 2}, ValueError, r"padding: 'same' needs stride 1"),
}
TRANSPOSED_ONLY = {
    "padding same": ({"padding": "same"}, ValueError, r"padding.*'same'"),
    "padding mode reflect": ({"padding_mode": "reflect"}, ValueError, r"padding_mode.*'reflect'"),
    "negative output padding": ({"output_padding": -1}, ValueError, r"output_padding: expected at least 0"),
    "output padding too large": (
        {"output_padding": 2, "stride": 2},
        ValueError,
        r"output_padding: expected less than",
    ),
    "output padding without stride": (
        {"output_padding": 1},
        ValueError,
        r"output_padding: expected less than",
    ),
    "output padding of another rank": (
        {"output_padding": (0,)},
        ValueError,
        r"output_padding: expected one number or",
    ),
}


def _constructors() -> list[Any]:
    cases = [
        (C2, CONSTRUCTORS),
        (C2, CONVOLUTIONS_ONLY),
        (TRANSPOSED[2], CONSTRUCTORS),
        (TRANSPOSED[2], TRANSPOSED_ONLY),
    ]
    return [
        pytest.param(kind, *case, id=f"{kind_id(kind)}-{key}")
        for kind, table in cases
        for key, case in table.items()
    ]


@pytest.mark.parametrize(("layer", "arguments", "kind", "text"), _constructors())
def test_constructor(layer: type[nn.Module], arguments: dict[str, Any], kind: Any, text: str) -> None:
    base = {"in_channels": 4, "out_channels": 16, "kernel_size": 3, "symmetry": {"h": 8}}
    raises(lambda: layer(**{**base, **arguments}), kind, text)


# Calls.


def calls(kind: type[nn.Module]) -> dict[str, tuple[object, str]]:
    rank = rank_of(kind)
    value = make_input(kind)
    names = {1: "length", 2: "height, width", 3: "depth, height, width"}[rank]
    return {
        "too many channels": (
            torch.randn(2, 5, *value.shape[2:]).double(),
            r"input: expected 4 channels, got 5 .*in_channels",
        ),
        "no channels": (value[:, :0], r"input: expected 4 channels, got 0"),
        "unbatched with other channels": (value[0, :3], r"input: expected 4 channels, got 3"),
        "rank too low": (
            value[0, 0],
            rf"input: expected \(batch, channels, {names}\) or \(channels, {names}\), got {rank} dim",
        ),
        "rank too high": (
            value[None],
            rf"input: expected \(batch, channels, {names}\).*got {rank + 3} dimensions",
        ),
        "scalar": (value.sum(), r"input: expected \(batch.*got 0 dimensions"),
        "single": (value.float(), r"input: expected float64, the dtype of the weight, got float32; convert"),
        "whole numbers": (value.long(), r"input: expected float64, .*got int64"),
        "bools": (value > 0, r"input: expected float64, .*got bool"),
        "complex": (value.to(torch.complex128), r"input: expected float64, .*got complex128"),
        "device": (
            value.to("meta"),
            r"input: expected a tensor on cpu, where the weight is, got one on meta",
        ),
    }


@every_layer
@pytest.mark.parametrize("case", list(calls(C2)))
def test_call(kind: type[nn.Module], case: str, backend: str) -> None:
    if case == "device" and backend == "torch":
        pytest.skip("torch itself takes a meta tensor with a weight on the CPU")
    layer, good = make_layer(kind), make_input(kind)
    expected, before = layer(good), {n: v.clone() for n, v in layer.state_dict().items()}
    bad, text = calls(kind)[case]
    raises(lambda: layer(bad), RuntimeError, text)
    with torch.no_grad():
        raises(lambda: layer(bad), RuntimeError, text)
    assert torch.equal(layer(good), expected), "the layer does not work any more"
    assert all(torch.equal(before[n], v) for n, v in layer.state_dict().items())
    assert all(p.grad is None for p in layer.parameters())


@pytest.mark.usefixtures("backend")
@every_layer
def test_sizes_that_leave_no_output(kind: type[nn.Module]) -> None:
    rank = rank_of(kind)
    if is_transposed(kind):
        layer, bad = make_layer(kind, padding=3), make_input(kind)[..., :2]
    else:
        layer, bad = make_layer(kind, kernel_size=5, dilation=2), make_input(kind)[..., :8]
        if rank == 3:
            layer = make_layer(kind, kernel_size=(1, 1, 5), dilation=2)
    raises(
        lambda: layer(bad),
        RuntimeError,
        r"input: expected sizes that leave an output, got .*kernel_size=.*enlarge",
    )
    raises(lambda: layer(bad[0]), RuntimeError, r"input: expected sizes that leave an output")
    empty = make_input(kind)[..., :0]
    with pytest.raises(RuntimeError, match="input"):
        make_layer(kind)(empty)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "bad", [None, 3, "x", [1.0], np.zeros((2, 4, 8, 9))], ids=["None", "int", "str", "list", "numpy"]
)
def test_input_that_is_no_tensor(bad: object) -> None:
    for kind in (C2, symconv_ext.SymmetricConvTranspose2d):
        layer = make_layer(kind)
        raises(lambda layer=layer: layer(bad), TypeError, "input: expected a tensor, got")
        assert layer(make_input(kind)).isfinite().all()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "convert",
    [lambda x: x.to_sparse(), lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)],
    ids=["sparse", "quantized"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_without_strides(convert: Callable[[torch.Tensor], torch.Tensor]) -> None:
    layer = make_layer(C2, dtype=torch.float32)
    value = make_input(C2, dtype=torch.float32)
    with pytest.raises((RuntimeError, NotImplementedError)):
        layer(convert(value))
    assert layer(value).isfinite().all()


@pytest.mark.usefixtures("backend")
def test_padding_mode_that_the_input_is_too_small_for() -> None:
    layer, dense = (kind(4, 4, 3, padding=5, padding_mode="reflect") for kind in (C2, nn.Conv2d))
    bad = torch.zeros(1, 4, 3, 3)
    for each in (layer, dense):
        with pytest.raises(RuntimeError, match=r"[Pp]adding size should be less"):
            each(bad)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kind", TRANSPOSED.values(), ids=kind_id)
def test_output_size_that_cannot_be(kind: type[nn.Module]) -> None:
    rank, layer, value = rank_of(kind), make_layer(kind, stride=2), make_input(kind)
    good = layer(value).shape[2:]
    for bad in ([n + 2 for n in good], [n - 1 for n in good], [0] * rank, [-1] * rank):
        raises(lambda bad=bad: layer(value, bad), ValueError, r"output_size")
    for bad in ([5] * (rank + 3), [], [5]) if rank > 1 else ([5] * 4, []):
        raises(lambda bad=bad: layer(value, bad), ValueError, r"output_size|[Cc]onvTranspose")
    assert layer(value, good).shape[2:] == good


def test_a_changed_parameter_is_noticed() -> None:
    layer = make_layer(C2)
    value = make_input(C2)
    layer.weight = nn.Parameter(torch.zeros(OUT[2], 4, 3, 3, dtype=torch.float64))
    text = r"weight: expected \d+ reduced filters .* of 20 filters.*got \(20, 4, 3, 3\).*unique_out_channels"
    raises(lambda: layer(value), RuntimeError, text)
    layer = make_layer(C2)
    layer.bias = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    raises(
        lambda: layer(value),
        RuntimeError,
        r"bias: expected one value per output channel, \(20,\), got \(3,\)",
    )
    layer = make_layer(C2)
    layer.bias = nn.Parameter(torch.zeros(20))
    raises(lambda: layer(value), RuntimeError, r"input: expected float32, the dtype of the bias, got float64")


# Functions.


@pytest.mark.usefixtures("backend")
def test_functional() -> None:
    conv, up = functional.symmetric_conv2d, functional.symmetric_conv_transpose2d
    value, weight = torch.randn(2, 3, 8, 8), torch.randn(7, 3, 3, 3)
    spec = {"h": 2, "v": 4, "hv": 8}
    assert conv(value, weight, symmetry=spec).shape == (2, 16, 6, 6)
    raises(
        lambda: conv(value, weight[0], symmetry=spec),
        RuntimeError,
        r"weight: expected 4 dimensions.*got shape \(3, 3, 3\)",
    )
    raises(lambda: conv(value, weight[:3], symmetry=spec), (RuntimeError, ValueError), r"weight|symmetry")
    raises(
        lambda: conv(value, weight, torch.zeros(7), symmetry=spec),
        RuntimeError,
        r"bias: expected one value per output channel, \(16,\)",
    )
    raises(
        lambda: conv(value, weight, symmetry={"h": "50%"}), ValueError, r"symmetry: 'h': a percentage needs"
    )
    raises(lambda: conv(value, weight, symmetry={"q": 2}), ValueError, r"symmetry: key 'q'")
    raises(lambda: conv(value, weight, symmetry={"z": 2}), ValueError, r"symmetry: key 'z'")
    raises(lambda: conv(value, weight, symmetry=["h"]), TypeError, r"symmetry: expected a dict")
    raises(lambda: conv(value, weight, symmetry={"h": 2.5}), TypeError, r"symmetry: 'h'")
    raises(lambda: conv(value, weight, symmetry={"h": None}), TypeError, r"symmetry: 'h'")
    raises(lambda: conv(value, weight, symmetry={"h": 3}), ValueError, r"symmetry: 'h'")
    raises(lambda: conv(value, weight, symmetry={"h": [2]}), TypeError, r"symmetry: 'h'")
    raises(lambda: conv(value, weight, symmetry=spec, groups=0), ValueError, r"groups|out_channels")
    raises(lambda: conv(value, weight, symmetry=spec, groups=3), ValueError, r"symmetry|groups|out_channels")
    raises(
        lambda: conv(value, weight, symmetry=spec, padding=-1), ValueError, r"padding: expected at least 0"
    )
    raises(lambda: conv(value, weight, symmetry=spec, padding="full"), ValueError, r"padding")
    raises(
        lambda: conv(value, weight, symmetry=spec, stride=(1, 1, 1)),
        ValueError,
        r"stride: expected one number or 2",
    )
    raises(
        lambda: conv(value[:, :2], weight, symmetry=spec), RuntimeError, r"input: expected 3 channels, got 2"
    )
    raises(lambda: conv(value, torch.randn(7, 3, 0, 3), symmetry=spec), ValueError, r"kernel_size|weight")
    raises(lambda: conv(value, torch.randn(7, 0, 3, 3), symmetry=spec), ValueError, r"in_channels|weight")
    wanted = symconv_ext.Symmetry(spec, 16, groups=1, rank=2)
    assert conv(value, weight, symmetry=wanted).shape == (2, 16, 6, 6)
    raises(
        lambda: conv(value, weight, groups=2, symmetry=wanted),
        ValueError,
        r"groups: expected 1, as in the symmetry, got 2",
    )
    raises(
        lambda: up(value, torch.randn(3, 7, 3, 3), symmetry=spec, output_padding=1),
        ValueError,
        r"output_padding",
    )
    of_3d = symconv_ext.Symmetry({"z": 2}, 8, rank=3)
    raises(
        lambda: conv(value, torch.randn(7, 3, 3, 3), symmetry=of_3d),
        (ValueError, RuntimeError),
        r"symmetry|orbits",
    )
    raises(lambda: C2(3, 8, 3, symmetry=of_3d), ValueError, r"symmetry: key 'z'")


# The two other modules.


def test_global_conv_and_top_k_pool() -> None:
    raises(lambda: GlobalConv1d(0, 4), ValueError, r"in_channels: expected at least 1, got 0")
    raises(lambda: GlobalConv1d(4, -1), ValueError, r"out_channels: expected at least 1, got -1")
    raises(
        lambda: GlobalConv1d(3, 4)(torch.zeros(2, 4, 5)),
        RuntimeError,
        r"input: expected \(batch, 3, length\).*got \(2, 4, 5\)",
    )
    raises(lambda: GlobalConv1d(3, 4)(torch.zeros(3)), RuntimeError, r"input: expected")
    raises(lambda: GlobalConv1d(3, 4)(torch.zeros(2, 2, 3, 5)), RuntimeError, r"input: expected")
    raises(lambda: TopKPool(0), ValueError, r"k: expected at least 1, got 0")
    raises(
        lambda: TopKPool(6)(torch.zeros(2, 4, 5)),
        RuntimeError,
        r"input: expected at least k=6 values per channel, got 5",
    )
    raises(lambda: TopKPool(2)(torch.zeros(5)), RuntimeError, r"input: expected \(batch, channels, length\)")


# The operators, called directly. Their messages are in test_arguments.py.


@pytest.mark.usefixtures("native")
def test_random_arguments_never_crash_the_process() -> None:
    """Good calls broken in one to three arguments, thousands of them, in a process of their own."""
    code = """
import random
import torch
import symconv_ext
from problems import make, random_problems

torch.set_num_threads(2)
draw = random.Random(0)
extremes = [-(2**63), -2, -1, 0, 1, 2, 3, 5, 2**40, 2**62]
dtypes = [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64]

def broken_numbers(numbers):
    numbers = list(numbers)
    change = draw.randrange(4)
    if change == 0 and numbers:
        numbers[draw.randrange(len(numbers))] = draw.choice(extremes)
    elif change == 1 and numbers:
        numbers[draw.randrange(len(numbers))] += draw.choice([-1, 1])
    elif change == 2:
        numbers = numbers[1:] if draw.random() < 0.5 else [*numbers, draw.choice(extremes)]
    else:
        numbers = [draw.choice(extremes) for _ in numbers]
    return numbers

def broken_tensor(tensor):
    change = draw.randrange(6)
    dim = draw.randrange(tensor.dim())
    if change == 0:
        return tensor.to(draw.choice(dtypes))
    if change == 1:
        return tensor.narrow(dim, 0, draw.randrange(tensor.size(dim) + 1))
    if change == 2:
        return tensor.select(dim, 0)
    if change == 3:
        return tensor.unsqueeze(dim)
    if change == 4:
        return tensor.narrow(dim, 0, 1).expand([draw.choice([1, 2, 5, 2**10]) if d == dim else n
                                                for d, n in enumerate(tensor.shape)])
    return tensor.transpose(dim, draw.randrange(tensor.dim()))

def broken(value):
    if value is None or isinstance(value, bool):
        return not value if isinstance(value, bool) else None
    if isinstance(value, int):
        return draw.choice(extremes)
    return broken_tensor(value) if isinstance(value, torch.Tensor) else broken_numbers(value)

outcomes = {"error": 0, "result": 0}
for p in random_problems(800, seed=99, largest=3):
    t = make(p, torch.float32)
    calls = (
        (torch.ops.symconv_ext.fprop, (t.input, t.weight, t.bias_a, *p.arguments)),
        (torch.ops.symconv_ext.dgrad, (t.grad_output, t.weight, t.bias_b, p.input_size, *p.arguments)),
        (torch.ops.symconv_ext.wgrad, (t.grad_output, t.input, p.weight_size, *p.arguments)),
    )
    for operator, good in calls:
        arguments = list(good)
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            at = draw.randrange(len(arguments))
            arguments[at] = broken(arguments[at])
        try:
            result = operator(*arguments)
            outcomes["result"] += 1
        except (RuntimeError, OverflowError, TypeError, ValueError):
            outcomes["error"] += 1
assert outcomes["result"] > 150 and outcomes["error"] > 800, outcomes
print("alive", outcomes)
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("alive")
