"""The backend switch, the predicate behind it, and that both backends are what they say."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch
from layers import forward
from problems import make, problem

import symconv_ext
from symconv_ext import SymmetricConv2d, autograd, backends, ops, reference

P = problem("backends", 10, 3, (5, 6), 3, {"h": 2, "v": 2, "hv": 4}, padding=1)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def reasons(layer: SymmetricConv2d, value: torch.Tensor) -> backends.Choice:
    return backends.choose(layer.problem, value)


def layer_and_input(dtype: torch.dtype = torch.float32) -> tuple[SymmetricConv2d, torch.Tensor]:
    return SymmetricConv2d(3, 10, 3, symmetry={"hv": 8}, dtype=dtype), torch.randn(2, 3, 5, 6, dtype=dtype)


def test_setting_holds_until_the_block_ends() -> None:
    before = backends.setting
    with symconv_ext.backend("torch"):
        assert backends.setting == "torch"
        with symconv_ext.backend("auto"):
            assert backends.setting == "auto"
        assert backends.setting == "torch"
    assert backends.setting == before
    with pytest.raises(KeyError), symconv_ext.backend("torch"):
        raise KeyError
    assert backends.setting == before
    try:
        symconv_ext.backend("torch")
        assert backends.setting == "torch"
        seen = []
        thread = threading.Thread(target=lambda: seen.append(backends.setting))
        thread.start()
        thread.join()
        assert seen == ["torch"]
    finally:
        symconv_ext.backend(before)


@pytest.mark.parametrize("name", ["cuda", "", "NATIVE", None, 3])
def test_unknown_backend(name: object) -> None:
    before = backends.setting
    with pytest.raises(ValueError, match=f"backend: expected 'auto', 'native' or 'torch', got {name!r}"):
        symconv_ext.backend(name)  # type: ignore[arg-type]
    assert backends.setting == before


def test_environment_variable_sets_the_default() -> None:
    show = "import symconv_ext.backends as b; print(b.setting)"
    assert run(show, SYMCONV_BACKEND="torch").stdout.strip() == "torch"
    wrong = run(show, SYMCONV_BACKEND="fast")
    assert wrong.returncode != 0
    assert (
        "environment variable SYMCONV_BACKEND: expected 'auto', 'native' or 'torch', got 'fast'"
        in wrong.stderr
    )


def test_importing_prints_nothing() -> None:
    imported = run("import symconv_ext")
    assert (imported.returncode, imported.stdout, imported.stderr) == (0, "", "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_native_calls_the_operators_and_torch_does_not(
    native: None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, value = layer_and_input(dtype)
    with symconv_ext.backend("native"):
        expected = layer(value)
    monkeypatch.setattr(reference, "fprop", None)
    with symconv_ext.backend("native"):
        assert torch.equal(layer(value), expected)
    with symconv_ext.backend("torch"), pytest.raises(TypeError, match="'NoneType' object is not callable"):
        layer(value)
    monkeypatch.undo()
    monkeypatch.setattr(autograd, "fprop", None)
    with symconv_ext.backend("torch"):
        torch.testing.assert_close(layer(value), expected, rtol=1e-2, atol=1e-2)


def test_auto_takes_torch_where_nothing_is_tied(native: None) -> None:
    plain = SymmetricConv2d(3, 8, 3)
    choice = reasons(plain, torch.zeros(1, 3, 5, 5))
    assert not choice.native
    assert "tied" in choice.reason
    with symconv_ext.backend("native"):
        assert reasons(plain, torch.zeros(1, 3, 5, 5)).native


def test_the_choice_follows_the_setting(native: None) -> None:
    """What a layer remembers must not outlive the setting that it depends on."""
    layer, value = layer_and_input()
    for _ in range(2):
        for name in ("native", "torch"):
            with symconv_ext.backend(name):
                assert reasons(layer, value) == (name == "native", f"the {name} backend was asked for")


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "LOADED", False)
    monkeypatch.setattr(ops, "WHY_NOT", "the compiled extension was not built (reason)")
    before = backends.setting
    with pytest.raises(
        RuntimeError, match=r"backend: 'native' cannot run: .*not built \(reason\); use 'torch' or"
    ):
        symconv_ext.backend("native")
    assert backends.setting == before
    layer, value = layer_and_input()
    with symconv_ext.backend("auto"):
        choice = reasons(layer, value)
        assert not choice.native
        assert choice.reason == "the compiled extension was not built (reason)"
        torch.testing.assert_close(
            layer(value), torch.nn.functional.conv2d(value, symconv_ext.expand_weight(layer), layer.bias)
        )


def test_native_where_there_is_no_kernel_is_an_error_that_says_why(native: None) -> None:
    layer, value = layer_and_input()
    with (
        symconv_ext.backend("native"),
        pytest.raises(RuntimeError, match=r"'native' cannot run: .* meta tensors"),
    ):
        layer.to("meta")(value.to("meta"))
    with symconv_ext.backend("auto"):
        assert layer.to("meta")(value.to("meta")).shape == (2, 10, 3, 4)


def test_pure_python_package_works() -> None:
    """As installed without a compiler: the module of the extension does not exist."""
    code = """
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "symconv_ext._C":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import torch, symconv_ext
layer = symconv_ext.SymmetricConv2d(3, 10, 3, symmetry={"hv": 8})
layer(torch.randn(2, 3, 5, 6)).sum().backward()
assert layer.weight.grad.abs().sum() > 0
up = symconv_ext.SymmetricConvTranspose1d(3, 4, 3, symmetry={"h": 4})
up(torch.randn(2, 3, 5)).sum().backward()
try:
    symconv_ext.backend("native")
except RuntimeError as error:
    print(error)
"""
    done = run(code, SYMCONV_BACKEND="auto")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("backend: 'native' cannot run: the compiled extension was not built")
    assert done.stderr == ""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_backends_agree_in_value_format_and_dtype(native: None, dtype: torch.dtype) -> None:
    t = make(P, dtype)
    loose = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    for layout in (torch.contiguous_format, torch.channels_last):
        results = []
        for name in ("torch", "native"):
            with symconv_ext.backend(name):
                value = t.input.clone(memory_format=layout).requires_grad_()
                weight = t.weight.clone().requires_grad_()
                output = forward(P, value, weight, t.bias_a)
                output.sum().backward()
                results.append((output, value.grad, weight.grad))
        for a, b in zip(*results, strict=True):
            assert a.dtype == b.dtype == dtype
            torch.testing.assert_close(a, b, rtol=loose, atol=loose * b.abs().max().item())
        assert results[0][0].stride() == results[1][0].stride()


def test_tf32_follows_torch_s_switch_and_is_nothing_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backends.allow_tf32(torch.zeros(1)) is False

    class OnGpu:
        is_cpu = False

    before = torch.backends.cudnn.conv.fp32_precision
    try:
        for precision, allowed in (("tf32", True), ("ieee", False)):
            torch.backends.cudnn.conv.fp32_precision = precision
            assert backends.allow_tf32(OnGpu()) is allowed  # type: ignore[arg-type]
        # 'none' inherits from the backend, and that from torch.backends.
        torch.backends.cudnn.conv.fp32_precision = "none"
        torch.backends.cudnn.fp32_precision = "none"
        for precision, allowed in (("tf32", True), ("ieee", False)):
            torch.backends.fp32_precision = precision
            assert backends.allow_tf32(OnGpu()) is allowed  # type: ignore[arg-type]
    finally:
        torch.backends.fp32_precision = torch.backends.cudnn.fp32_precision = "none"
        torch.backends.cudnn.conv.fp32_precision = before
