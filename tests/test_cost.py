"""The cost rule of backend 'auto': what it says of a layer, and that the dense path computes the same."""

from __future__ import annotations

import pytest
import torch

import symconv_ext
from symconv_ext import SymmetricConv2d, SymmetricConvTranspose2d, backends, cost, ops, reference

pytestmark = pytest.mark.skipif(not ops.LOADED, reason="without the extension there is nothing to choose")

MIXED = {"h": "25%", "v": "25%", "hv": "50%"}


def small() -> tuple[SymmetricConv2d, torch.Tensor]:
    return SymmetricConv2d(1, 16, 3, symmetry={"h": 2, "v": 4, "hv": 8}), torch.randn(1, 1, 8, 8)


def narrow_groups() -> tuple[SymmetricConv2d, torch.Tensor]:
    layer = SymmetricConv2d(16, 32, 3, padding=1, groups=2, symmetry=MIXED)
    return layer, torch.randn(8, 16, 16, 16).to(memory_format=torch.channels_last)


def narrow_groups_transposed() -> tuple[SymmetricConvTranspose2d, torch.Tensor]:
    layer = SymmetricConvTranspose2d(16, 32, 3, stride=2, groups=2, symmetry=MIXED)
    return layer, torch.randn(2, 16, 16, 16).to(memory_format=torch.channels_last)


DENSE = {
    small: cost.SMALL,
    narrow_groups: cost.NARROW_GROUPS,
    narrow_groups_transposed: cost.NARROW_GROUPS,
}


@pytest.mark.parametrize(("case", "reason"), DENSE.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_where_the_dense_path_is_taken(case, reason):
    layer, value = case()
    with symconv_ext.backend("auto"):
        assert backends.choose(layer.problem, value) == (False, reason)
        assert backends.choose(layer.problem, value.double()).native  # fitted to float32 only


@pytest.mark.parametrize("prepacked", [False, True])
@pytest.mark.parametrize("amx", [False, True])
def test_a_matrix_unit_computes_dense_bfloat16_in_channels_last(monkeypatch, amx, prepacked):
    monkeypatch.setattr(cost, "HAS_MATRIX_UNIT", amx)
    layer = SymmetricConv2d(128, 128, 3, padding=1, symmetry=MIXED).bfloat16().eval()
    planar = torch.randn(2, 128, 6, 6, dtype=torch.bfloat16)
    value = planar.to(memory_format=torch.channels_last)
    calls = []
    dense_fprop = reference.dense_fprop
    monkeypatch.setattr(reference, "dense_fprop", lambda *a: calls.append(1) or dense_fprop(*a))
    with symconv_ext.backend("auto"), torch.no_grad():
        expected = layer(value)
        if prepacked:
            symconv_ext.prepack(layer)
        assert backends.choose(layer.problem, value).native == (not amx)
        assert backends.choose(layer.problem, planar).native
        assert backends.choose(layer.problem, value.float()).native
        calls.clear()
        torch.testing.assert_close(layer(value), expected)
        assert bool(calls) == amx
        calls.clear()
        layer(planar)
        assert not calls


@pytest.mark.parametrize(
    ("limit", "allowed"), [("", True), ("ALL", True), ("AVX512_CORE_AMX", True), ("AVX2", False)]
)
def test_a_matrix_unit_counts_where_onednn_may_use_it(monkeypatch, limit, allowed):
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert cost._has_matrix_unit() == allowed


def test_large_layers_are_folded():
    layer = SymmetricConv2d(64, 64, 3, padding=1, symmetry=MIXED)
    with symconv_ext.backend("auto"):
        assert backends.choose(layer.problem, torch.randn(1, 64, 14, 14)).native
        tiny, value = small()
        with torch.no_grad():
            assert backends.choose(tiny.problem, value).native  # with gradients only
        assert backends.choose(tiny.problem, value.repeat(2, 1, 1, 1)).native  # a single image only
        assert backends.choose(
            tiny.problem, torch.randn(32, 1, 64, 64)
        ).native  # the size of the input counts


@pytest.mark.parametrize("prepacked", [False, True])
def test_plain_kernels_of_one_point_are_taken_in_contiguous(prepacked):
    layer = SymmetricConv2d(8, 2, 1, symmetry={"hv": "100%"})
    assert layer.symmetry.is_plain
    dense = torch.nn.Conv2d(8, 2, 1)
    dense.load_state_dict(layer.state_dict())
    if prepacked:
        symconv_ext.prepack(layer)
    value = torch.randn(4, 8, 32, 32, requires_grad=True)
    with symconv_ext.backend("auto"):
        assert backends.choose(layer.problem, value) == (True, cost.POINTWISE)
        for other in (value.to(memory_format=torch.channels_last), value.double()):
            assert backends.choose(layer.problem, other) == (False, backends.PLAIN)
        for like in (
            SymmetricConv2d(8, 2, 3),
            SymmetricConv2d(8, 2, 1, 2),
            SymmetricConvTranspose2d(8, 2, 1),
        ):
            assert backends.choose(like.problem, value) == (False, backends.PLAIN)
        for format_ in (torch.contiguous_format, torch.channels_last):
            x = value.detach().to(memory_format=format_).requires_grad_()
            results = []
            for module in (layer, dense):
                y = module(x)
                results.append((y, *torch.autograd.grad(y.square().sum(), [x, module.weight])))
            with torch.no_grad():
                torch.testing.assert_close(layer(x), dense(x))
            for ours, theirs in zip(*results, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
                assert layout(ours) == layout(theirs)


def layout(tensor):
    """The strides that say something: of dimensions of size 1 they may be anything."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@pytest.mark.parametrize("format_", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", DENSE, ids=lambda case: case.__name__)
def test_dense_path_agrees_with_the_torch_backend(case, format_):
    layer, value = case()
    layer.to(memory_format=format_)
    value = value.to(memory_format=format_).requires_grad_()
    results = []
    for name in ("auto", "torch"):
        with symconv_ext.backend(name):
            output = layer(value)
            gradient = torch.autograd.grad(output.square().sum(), [value, layer.weight, layer.bias])
            results.append((output, *gradient))
    for ours, dense in zip(*results, strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-4, atol=1e-4)
        assert layout(ours) == layout(dense)


@pytest.mark.parametrize("case", DENSE, ids=lambda case: case.__name__)
def test_dense_path_under_vmap(case):
    layer, value = case()
    with symconv_ext.backend("auto"):
        layer(value)  # the choice for a tensor of this size is now known
        mapped = torch.func.vmap(layer)(torch.stack([value, value + 1]))
        torch.testing.assert_close(mapped[1], layer(value + 1), rtol=1e-4, atol=1e-4)


def test_a_weight_mirrored_in_inference_mode_still_trains():
    layer, value = small()
    with symconv_ext.backend("auto"):
        with torch.inference_mode(), torch.enable_grad():
            layer(value)
        layer(value).sum().backward()
    assert layer.weight.grad is not None


CUDA = torch.device("cuda")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_on_a_gpu_only_problems_with_tensor_core_kernels_are_folded(dtype):
    plain, strided = (SymmetricConv2d(8, 8, 3, stride=s, symmetry={"hv": 8}).problem for s in (1, 2))
    transposed = SymmetricConvTranspose2d(8, 8, 3, stride=2, symmetry={"hv": 8}).problem
    even, far = (SymmetricConv2d(8, 8, k, stride=s, symmetry={"hv": 8}).problem for k, s in ((4, 2), (3, 9)))
    large = SymmetricConv2d(8, 8, 13, symmetry={"hv": 8}).problem

    def folded(problem, tf32=True):
        return cost.why_dense(problem, CUDA, dtype, None, tf32) is None

    assert folded(plain)
    assert folded(plain, tf32=False) == (dtype != torch.float32)
    wide = SymmetricConv2d(128, 8, 3, stride=2, symmetry={"hv": 8}).problem
    assert folded(wide)
    assert not folded(strided)  # its gradients are slow
    assert not folded(even)  # its input gradient
    assert not folded(far)
    assert not folded(transposed)  # its weight gradient
    assert not folded(large)
    narrow = SymmetricConv2d(3, 8, 3, symmetry={"hv": 8}).problem
    assert not folded(narrow)
    with torch.no_grad():
        assert not folded(narrow)
        assert folded(strided)
        assert folded(even)
        assert folded(far)
        assert folded(transposed)
    assert cost.why_dense(plain, CUDA, torch.float64, None, True) == cost.NO_TENSOR_CORE


def test_on_a_gpu_the_dense_path_needs_no_operator_that_only_the_cpu_has():
    """`mirror` has no CUDA kernel."""
    assert backends.mirror_for(backends.Choice(False, cost.NO_TENSOR_CORE)) is reference.mirror
    for reason in cost.CPU_EXCEPTIONS:
        assert backends.mirror_for(backends.Choice(False, reason)) is not reference.mirror
