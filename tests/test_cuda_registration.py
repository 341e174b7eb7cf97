"""The CUDA side of a built extension, as far as it shows without a GPU: what is in it, and fake tensors.

CI runs this with the torch that the CUDA kernels were built against, and the same extension with a CPU-only
torch.
"""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

import pytest
import torch
from problems import PROBLEMS, Problem, Tensors, make, random_problems
from test_layers import every_layer, make_input, make_layer
from test_operators import FORMATS, OPERATORS, compute, name
from torch import nn
from torch._subclasses import FakeTensorMode

import symconv_ext
from symconv_ext import backends, gpu, ops
from symconv_ext.verify.cases import cases

pytestmark = [
    pytest.mark.usefixtures("native"),
    pytest.mark.skipif(not ops.CUDA_ARCHITECTURES, reason="the extension was built without CUDA kernels"),
]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def has_kernel(operator: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{ops.NAMESPACE}::{operator}", key)


@pytest.mark.parametrize("operator", OPERATORS)
def test_cuda_kernels_are_registered(operator: str) -> None:
    assert has_kernel(operator, "CUDA")
    assert has_kernel(operator, "CPU")
    assert ops.has_kernel("cuda")


def test_the_extension_says_what_it_was_built_for() -> None:
    names = ops.CUDA_ARCHITECTURES.split(";")
    assert all(re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", one) for one in names)
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if wanted:
        assert names == re.split("[;, ]+", wanted)
    assert ops.CUDA_RUNTIME >= 12000
    for one in names:
        major, minor = re.sub(r"[af]?(\+PTX)?$", "", one).split(".")
        assert gpu.covers(ops.CUDA_ARCHITECTURES, (int(major), int(minor)))


def test_it_says_which_kernel_a_problem_runs() -> None:
    case = next(c for c in cases() if c.name == "2d all hv channels_last")
    strided, transposed = (
        next(c for c in cases() if c.problem.transposed == tied and max(c.problem.stride) == 2)
        for tied in (False, True)
    )
    for operator in OPERATORS:
        for dtype, tf32, kernel in (
            (torch.float16, False, "tensor core"),
            (torch.bfloat16, False, "tensor core"),
            (torch.float32, True, "tensor core"),
            (torch.float32, False, "plain"),
            (torch.float64, True, "plain"),
        ):
            problem = (case.problem, case.a_size, case.b_size)
            assert ops.cuda_kernel(operator, *problem, dtype, tf32) == kernel
    for case, last in ((strided, "tensor core"), (transposed, "plain")):
        problem = (case.problem, case.a_size, case.b_size)
        found = [ops.cuda_kernel(operator, *problem, torch.float16, False) for operator in OPERATORS]
        assert found == ["tensor core", "tensor core", last]
    with pytest.raises(RuntimeError, match="operator: expected 'fprop', 'dgrad' or 'wgrad', got 'prop'"):
        ops._C.cuda_kernel("prop", "float16", False, (0,) * 31)
    with pytest.raises(RuntimeError, match="problem: expected 31 numbers, got 2"):
        ops._C.cuda_kernel("fprop", "float16", False, (1, 2))


def on_cuda(mode: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    """A fake tensor on the GPU with the strides of this one."""
    with mode:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")


def check_fakes(p: Problem, dtype: torch.dtype) -> None:
    """On fake CUDA tensors every operator gives the shape, strides and dtype that it gives on a CPU."""
    t = make(p, dtype)
    mode = FakeTensorMode()
    fakes = Tensors(*(on_cuda(mode, getattr(t, field.name)) for field in dataclasses.fields(t)))
    for operator in OPERATORS:
        real = compute(operator, p, t)
        with mode:
            fake = compute(operator, p, fakes)
        assert fake.device == torch.device("cuda", 0), operator
        facts = [(x.shape, x.stride(), x.storage_offset(), x.dtype) for x in (fake, real)]
        assert facts[0] == facts[1], (operator, p, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("p", FORMATS, ids=name)
def test_fake_tensors_in_every_memory_format(p: Problem, dtype: torch.dtype) -> None:
    check_fakes(p, dtype)


def test_fake_tensors_on_every_problem() -> None:
    for number, p in enumerate([*PROBLEMS, *random_problems(40, seed=11)]):
        if p.multiplications < 300_000:
            check_fakes(p, DTYPES[number % len(DTYPES)])


LAYOUTS = {
    1: (torch.contiguous_format,),
    2: (torch.contiguous_format, torch.channels_last),
    3: (torch.contiguous_format, torch.channels_last_3d),
}


def facts_of(module: nn.Module, value: torch.Tensor) -> tuple[Any, ...]:
    output = module(value)
    return output.shape, output.stride(), output.dtype


@every_layer
@pytest.mark.skipif(torch.version.cuda is None, reason="a CPU-only torch makes no layers on a GPU")
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_layers_on_fake_tensors(
    kind: type[nn.Module], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a CPU, on the native backend, in every memory format of input and weight."""
    monkeypatch.setattr(gpu, "why_not", lambda device: None)
    real, value = make_layer(kind, dtype=dtype), make_input(kind, dtype=dtype)
    formats = LAYOUTS[value.dim() - 2]
    for of_input in formats:
        for of_weight in formats:
            with symconv_ext.backend("native"):
                mine = real.to(memory_format=of_weight), value.contiguous(memory_format=of_input)
                expected = facts_of(*mine)
                with FakeTensorMode():
                    fake = make_layer(kind, dtype=dtype, device="cuda")
                    fake.weight = nn.Parameter(fake.weight.contiguous(memory_format=of_weight))
                    fake_value = torch.empty(value.shape, dtype=dtype, device="cuda")
                    fake_value = fake_value.contiguous(memory_format=of_input)
                    assert fake_value.stride() == mine[1].stride()
                    assert facts_of(fake, fake_value) == expected, (of_input, of_weight)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_auto_takes_torch_and_says_why() -> None:
    layer = make_layer(symconv_ext.SymmetricConv2d)
    reason = backends.why_not_native(torch.device("cuda"), torch.float32)
    assert reason == "torch sees no CUDA GPU here"
    with symconv_ext.backend("auto"):
        choice = backends.decide(layer.problem, torch.device("cuda"), torch.float32)
    assert (choice.native, choice.reason) == (False, reason)
