"""torch.compile, torch.export, opcheck and autocast."""

from __future__ import annotations

import io
from collections.abc import Callable

import oracle
import pytest
import torch
from conftest import compiler
from layers import CONVOLUTIONS, DENSE, LAYERS, TRANSPOSED
from problems import FEW, Problem, make, problem
from test_layers import every_layer, kind_id, make_input, make_layer
from test_operators import OPERATORS, name, operands
from torch import nn

import symconv_ext
from symconv_ext import SymmetricConv2d, functional

CHECKED = (
    [p for p in FEW if p.batch and p.rank == 2][::2]
    + [p for p in FEW if p.rank != 2][::3]
    + [
        problem("one-channel-channels-last", 4, 1, (5, 6), 3, {"hv": 4}, layout="channels_last"),
        problem("one-point-channels-last", 4, 2, (1, 1), 1, {"h": 4}, layout="channels_last"),
    ]
)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("p", CHECKED, ids=name)
def test_opcheck(p: Problem, operator: str) -> None:
    arguments = [
        x.detach().requires_grad_() if isinstance(x, torch.Tensor) else x
        for x in operands(operator, p, make(p))
    ]
    torch.library.opcheck(getattr(torch.ops.symconv_ext, operator).default, tuple(arguments))


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_opcheck_of_dtypes_without_bias(operator: str, dtype: torch.dtype) -> None:
    p = problem("dtypes", 10, 4, (5, 6), 3, {"h": 2, "v": 2, "hv": 4}, padding=1, layout="channels_last")
    arguments = operands(operator, p, make(p, dtype), bias=False)
    torch.library.opcheck(getattr(torch.ops.symconv_ext, operator).default, arguments)


def gradients(
    module: nn.Module, call: Callable[[torch.Tensor], torch.Tensor], value: torch.Tensor
) -> list[torch.Tensor]:
    value = value.detach().clone().requires_grad_()
    output = call(value)
    output.sin().sum().backward()
    found = [output.detach(), value.grad, *(p.grad.clone() for p in module.parameters())]
    module.zero_grad()
    return found


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("kind", "name"),
    [*((kind, "native") for kind in LAYERS), (CONVOLUTIONS[2], "torch"), (TRANSPOSED[2], "torch")],
    ids=lambda value: kind_id(value) or value,
)
def test_compile_forward_and_backward(kind: type[nn.Module], name: str) -> None:
    with symconv_ext.backend(name):
        check_compiled(kind)


def check_compiled(kind: type[nn.Module]) -> None:
    layer, value = make_layer(kind, groups=2, stride=2, share_bias=True), make_input(kind)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for a, b in zip(gradients(layer, compiled, value), gradients(layer, layer, value), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        assert a.stride() == b.stride()
    with torch.no_grad():
        torch.testing.assert_close(compiled(value), layer(value), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(compiled(value[0]), layer(value[0]), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("backend")
def test_compile_padding_mode() -> None:
    layer, value = make_layer(SymmetricConv2d, padding=2, padding_mode="reflect"), make_input(SymmetricConv2d)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(value), layer(value), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kind", [CONVOLUTIONS[2], TRANSPOSED[2]], ids=kind_id)
def test_compile_with_dynamic_sizes_does_not_recompile(kind: type[nn.Module]) -> None:
    layer = make_layer(kind, stride=2, padding=1)
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch, height, width in ((2, 8, 9), (3, 11, 7), (5, 6, 12)):
        value = torch.randn(batch, 4, height, width, dtype=torch.float64)
        for a, b in zip(gradients(layer, compiled, value), gradients(layer, layer, value), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.usefixtures("backend")
def test_compile_keeps_channels_last() -> None:
    layer = make_layer(SymmetricConv2d, dtype=torch.float32)
    value = make_input(SymmetricConv2d, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert compiled(value).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("backend")
def test_compile_follows_the_backend_and_the_weights() -> None:
    layer, value = make_layer(SymmetricConv2d), make_input(SymmetricConv2d)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    first = compiled(value)
    with torch.no_grad():
        layer.weight.mul_(2)
        layer.bias.mul_(2)
        torch.testing.assert_close(compiled(value), 2 * first, rtol=1e-12, atol=1e-12)
    with symconv_ext.backend("torch"):
        torch.testing.assert_close(compiled(value), layer(value), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("backend")
def test_compile_functional() -> None:
    p = problem("functional", 10, 3, (5, 6), 3, {"h": 2, "v": 2, "hv": 4}, padding=1)
    t = make(p)

    def call(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.symmetric_conv2d(
            value, weight, padding=1, symmetry={"h": 2, "v": 2, "hv": 4}
        ).relu()

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    expected = oracle.fprop(p, t.input, t.weight, None).relu()
    torch.testing.assert_close(compiled(t.input, t.weight), expected, rtol=1e-12, atol=1e-12)


def test_compile_with_inductor(native: None) -> None:
    if compiler() is None:
        pytest.skip("no C++ compiler here")
    net = nn.Sequential(
        SymmetricConv2d(3, 10, 3, padding=1, symmetry={"h": 2, "hv": 8}, dtype=torch.float64), nn.ReLU()
    )
    value = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    with symconv_ext.backend("native"):
        expected = gradients(net, net, value)
        found = gradients(net, torch.compile(net, fullgraph=True), value)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("kind", "strict"),
    [*((kind, False) for kind in LAYERS), (SymmetricConv2d, True)],
    ids=lambda value: kind_id(value) or ("strict" if value else "traced"),
)
def test_export(kind: type[nn.Module], strict: bool) -> None:
    layer, value = make_layer(kind, padding=1).eval(), make_input(kind)
    program = torch.export.export(layer, (value,), strict=strict)
    torch.testing.assert_close(program.module()(value), layer(value), rtol=1e-12, atol=1e-12)
    stream = io.BytesIO()
    torch.export.save(program, stream)
    stream.seek(0)
    torch.testing.assert_close(
        torch.export.load(stream).module()(value), layer(value), rtol=1e-12, atol=1e-12
    )


@pytest.mark.usefixtures("backend")
def test_export_with_a_dynamic_batch() -> None:
    layer, value = make_layer(SymmetricConv2d).eval(), make_input(SymmetricConv2d, batch=4)
    shapes = {
        "input": {0: torch.export.Dim("batch", min=2, max=64), 3: torch.export.Dim("width", min=4, max=64)}
    }
    program = torch.export.export(layer, (value,), dynamic_shapes=shapes)
    other = torch.randn(7, 4, 8, 21, dtype=torch.float64)
    torch.testing.assert_close(program.module()(other), layer(other), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("p", CHECKED[:4], ids=name)
def test_a_program_of_operators_can_be_traced(p: Problem) -> None:
    """make_fx sees the three operators, also in the backward pass."""
    from torch.fx.experimental.proxy_tensor import make_fx

    t = make(p)
    operator = "dgrad" if p.transposed else "fprop"
    value = t.grad_output if p.transposed else t.input

    def gradient(value: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        value, weight = value.detach().requires_grad_(), weight.detach().requires_grad_()
        rest = (p.input_size, *p.arguments) if p.transposed else p.arguments
        output = getattr(torch.ops.symconv_ext, operator)(value, weight, None, *rest)
        return torch.autograd.grad(output.sum(), (value, weight))

    graph = make_fx(gradient)(value, t.weight)
    called = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    expected = {f"symconv_ext.{o}.default" for o in OPERATORS}
    assert expected <= called
    for a, b in zip(graph(value, t.weight), gradient(value, t.weight), strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("backend")
@every_layer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_torch_s(kind: type[nn.Module], dtype: torch.dtype) -> None:
    symmetric = make_layer(kind, padding=1, dtype=torch.float32)
    dense = DENSE[kind](symmetric.in_channels, symmetric.out_channels, 3, padding=1)
    value = make_input(kind, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        output = symmetric(value)
        assert output.dtype == dense(value).dtype == dtype
        assert symmetric(value[0]).dtype == dtype
        assert symmetric(value.detach().to(dtype)).dtype == dtype
        output.float().square().sum().backward()
    with torch.autocast("cpu", enabled=False):
        assert symmetric(value).dtype == torch.float32
    assert symmetric.weight.grad.dtype == symmetric.bias.grad.dtype == value.grad.dtype == torch.float32
    expected = symmetric(value)
    loose = 0.05 if dtype == torch.bfloat16 else 0.01
    torch.testing.assert_close(output.float(), expected, rtol=loose, atol=loose)
    double = make_layer(kind)
    with torch.autocast("cpu", dtype=dtype):
        assert double(make_input(kind)).dtype == DENSE[kind](4, 4, 3).double()(make_input(kind)).dtype


@pytest.mark.usefixtures("backend")
def test_compile_under_autocast() -> None:
    layer = make_layer(SymmetricConv2d, dtype=torch.float32)
    value = make_input(SymmetricConv2d, dtype=torch.float32)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, expected = compiled(value), layer(value)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected)
