"""The CUDA kernels on the emulated device, against the float64 oracle, over the shared list of problems."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from emulator import build
from emulator.operators import Device
from huge import end_of_huge_result, last_points
from oracle import Results, results
from oracle import case as case_of
from problems import CONVOLUTIONS, FEW, PROBLEMS, TIMES, Problem, Tensors, lay_out, problem, random_problems
from tolerances import assert_close

from symconv_ext import ops
from symconv_ext.verify.arithmetic import ARITHMETICS, TF32, kernel
from symconv_ext.verify.cases import Case, cases

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")

OPERATORS = ("fprop", "dgrad", "wgrad")
FULL = os.environ.get("SYMCONV_TEST_FULL", "0") not in ("", "0")  # every case of verify
# The larger problems of the shared list take the plain kernels too long in the emulator.
AFFORDABLE = [p for p in PROBLEMS if p.multiplications <= 600_000]
LARGE = [p for p in PROBLEMS if p.multiplications > 600_000]


@pytest.fixture(scope="module")
def device() -> Device:
    return Device(build.load())


def rounded_to_tf32(tensor: torch.Tensor) -> torch.Tensor:
    """The float64 values of a float32 tensor rounded to the 10 fraction bits of tf32, ties away from zero."""
    bits = tensor.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).double()


@functools.lru_cache(maxsize=4)
def dense_in_tf32(problem: Problem) -> Results:
    """What a dense convolution gives that rounds its operands to tf32 and is exact otherwise."""
    t = case_of(problem, torch.float32).tensors
    operands = [rounded_to_tf32(x) for x in (t.input, t.weight, t.grad_output)]
    exact = results(problem, Tensors(*operands, t.bias_a.double(), t.bias_b.double()))
    return Results(*(getattr(exact, operator).float() for operator in OPERATORS))


def run(
    device: Device,
    operator: str,
    problem: Problem,
    dtype: torch.dtype,
    seed: int = 0,
    allow_tf32: bool = False,
) -> torch.Tensor:
    """The operator's result in one schedule."""
    reference = case_of(problem, dtype)
    layout = problem.weight_layout if operator == "wgrad" else problem.layout
    layout = "contiguous" if layout in ("expanded", "broadcast") else layout
    device.module.settings().seed = seed
    result = lay_out(torch.empty(getattr(reference.oracle, operator).shape, dtype=dtype), layout)
    return getattr(device, operator)(problem, reference.tensors, result, allow_tf32=allow_tf32)


def check(
    device: Device,
    operator: str,
    problem: Problem,
    dtype: torch.dtype,
    *seeds: int,
    allow_tf32: bool = False,
) -> str:
    """Runs the operator, holds it to the oracle, and returns the name of the kernel that ran.

    Of several schedules all must give the bits of the first.
    """
    reference = case_of(problem, dtype)
    oracle, dense = getattr(reference.oracle, operator), getattr(reference.dense, operator)
    kernel = device.kernel_for(operator, problem, dtype, allow_tf32)
    on_tensor_core = kernel == "tensor core"
    if dtype == torch.float32 and on_tensor_core:
        dense = getattr(dense_in_tf32(problem), operator)
    first, *others = seeds or (0,)
    value = run(device, operator, problem, dtype, first, allow_tf32)
    # Of a few numbers, the ratio of two rounding errors means little: the wider bound then, in tf32 too.
    folded_in_half = on_tensor_core and (dtype != torch.float32 or int((oracle != 0).sum()) < 64)
    context = (problem, kernel, first)
    assert_close(operator, value, oracle, dense, folded_in_half=folded_in_half, context=context)
    for seed in others:
        again = run(device, operator, problem, dtype, seed, allow_tf32)
        assert torch.equal(again, value), (problem, kernel, seed)
    return kernel


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("problem", AFFORDABLE, ids=str)
def test_float64_on_every_problem(device: Device, problem: Problem, operator: str) -> None:
    assert check(device, operator, problem, torch.float64) == "plain"


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("problem", FEW, ids=str)
def test_float32_without_tf32_is_exact(device: Device, problem: Problem, operator: str) -> None:
    assert check(device, operator, problem, torch.float32, 1) == "plain"


TENSOR_CORE_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", TENSOR_CORE_DTYPES, ids=str)
@pytest.mark.parametrize(("number", "problem"), list(enumerate(AFFORDABLE)), ids=str)
def test_tensor_cores_on_every_problem_in_several_schedules(
    device: Device, number: int, problem: Problem, dtype: torch.dtype, operator: str
) -> None:
    check(device, operator, problem, dtype, number, 1000 + number, 2000 + number, allow_tf32=True)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("problem", LARGE, ids=str)
def test_large_problems(device: Device, problem: Problem, operator: str) -> None:
    kernel = device.kernel_for(operator, problem, torch.bfloat16)
    if kernel == "plain":
        pytest.skip("the plain kernel takes too long in the emulator")
    check(device, operator, problem, torch.bfloat16, 7)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    "problem", [p for seed in range(TIMES) for p in random_problems(20, seed=4 + seed, largest=3)], ids=str
)
def test_random_problems(device: Device, problem: Problem, operator: str) -> None:
    for dtype in (torch.float64, torch.float32):
        assert check(device, operator, problem, dtype, 2) == "plain"
    for dtype in TENSOR_CORE_DTYPES:
        check(device, operator, problem, dtype, 3, 4, 5, allow_tf32=True)


def in_strips(name: str, a: int, b: int, size: tuple[int, int], **options: Any) -> Problem:
    """A problem for the kernels that take three taps along v from tiles of strips."""
    symmetry = options.pop("symmetry", {"hv": a})
    return problem(f"strips-{name}", a, b, size, (3, options.pop("taps", 3)), symmetry, **options)


STRIPS = [
    in_strips("of-eight", 32, 136, (16, 16), padding=1),
    in_strips("of-seven", 40, 72, (7, 9), padding=1, batch=8),
    in_strips("of-seven-and-many", 160, 40, (14, 7), padding=1, batch=5, layout="channels_last"),
    in_strips("narrow", 32, 24, (9, 3), padding=(1, 2), batch=3),
    in_strips("even-taps", 32, 24, (17, 8), taps=4, padding=(0, 1)),
    in_strips("seven-taps-far-apart", 32, 24, (8, 20), taps=7, padding=(2, 6), dilation=(1, 2)),
    in_strips("of-one-tap", 32, 24, (8, 11), taps=1, groups=2, symmetry={"hv": 16, "v": 8}),
    in_strips("blocks", 34, 24, (8, 16), padding=1, symmetry={"h": 8, "v": 6, "hv": 16}),
    in_strips("two-steps-a-stage", 48, 2, (6, 8), padding=1),
]


@pytest.mark.parametrize("multiprocessors", [1, 108])
@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
@pytest.mark.parametrize("p", STRIPS, ids=str)
def test_strips(device: Device, p: Problem, operator: str, multiprocessors: int) -> None:
    """Both runs, tiles of all sizes and all coefficients along v; of a GPU that they fill, or not."""
    settings, before = device.module.settings(), device.module.settings().multiprocessors
    settings.multiprocessors = multiprocessors
    try:
        for q in (p, p.twin()):
            for dtype in TENSOR_CORE_DTYPES:
                device.module.reset_counters()
                check(device, operator, q, dtype, 5, allow_tf32=True)
    finally:
        settings.multiprocessors = before


def test_strips_of_seven_and_of_eight_are_taken(device: Device) -> None:
    device.module.settings().multiprocessors = 1
    kernels = set()
    for p in STRIPS:
        for operator in ("fprop", "dgrad"):
            device.module.reset_counters()
            check(device, operator, p, torch.bfloat16)
            kernels |= {launch["kernel"] for launch in device.module.launches()}
    device.module.settings().multiprocessors = 4
    for side in ("result", "source"):
        for run in (7, 8):
            assert f"tied_{side}_strips_kernel<symconv::cuda::BFloat16, {run}>" in kernels


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["2d-blocks-17-15-33", "3d-all-masks-transposed"])
def test_every_schedule_gives_the_same_bits(device: Device, name: str, seed: int) -> None:
    problem = next(p for p in PROBLEMS if p.name == name)
    tensors = case_of(problem, torch.float16).tensors
    for operator in OPERATORS:
        size = getattr(case_of(problem, torch.float16).oracle, operator).shape
        device.module.settings().seed = seed
        device.module.settings().resident_blocks = 1 + seed % 4
        value = getattr(device, operator)(problem, tensors, torch.empty(size, dtype=torch.float16))
        device.module.settings().resident_blocks = 2
        check(device, operator, problem, torch.float16)
        device.module.settings().seed = 1000
        again = getattr(device, operator)(problem, tensors, torch.empty(size, dtype=torch.float16))
        assert torch.equal(value, again)


def as_problem(case: Case) -> Problem:
    """A case of `verify` as a problem of the shared list."""
    p, a, b = case.problem, case.a_size[1], case.b_size[1]
    geometry = (p.kernel_size, tuple(p.symmetry.counts.items()), p.stride, p.padding, p.dilation)
    return Problem(
        case.name,
        *(a, b, case.size, *geometry, p.groups, case.batch, p.transposed),
        layout="channels_last" if case.channels_last else "contiguous",
    )


@pytest.mark.parametrize("case", cases(quick=True), ids=lambda case: case.name.replace(" ", "-"))
def test_the_cases_of_verify_are_named_to_the_kernels(
    device: Device, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kernel_for(operator: str, dtype: str, allow_tf32: bool, numbers: tuple[int, ...]) -> str:
        return device.module.kernel_for(operator, list(numbers), dtype, allow_tf32)

    monkeypatch.setattr(ops, "_C", SimpleNamespace(cuda_kernel=kernel_for), raising=False)
    p = as_problem(case)
    assert (p.output_size, p.input_size) == (case.a_size, case.b_size)
    assert p.weight_size == list(case.problem.weight_size)
    for operator in OPERATORS:
        for arithmetic in (*ARITHMETICS, TF32):
            found = kernel(operator, case, torch.device("cuda"), arithmetic)
            assert found == device.kernel_for(operator, p, arithmetic.dtype, arithmetic.tf32)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "p",
    [as_problem(c) for c in cases(quick=not FULL) if FULL or c.rank < 3],
    ids=lambda p: p.name.replace(" ", "-"),
)
def test_the_cases_of_verify_are_within_the_error_allowed(
    device: Device, p: Problem, dtype: torch.dtype, operator: str
) -> None:
    """So that what a GPU's first run reports is no matter of luck."""
    if device.kernel_for(operator, p, dtype, True) == "plain":
        pytest.skip("the plain kernel takes too long in the emulator")
    check(device, operator, p, dtype, 5, allow_tf32=True)


def test_a_grid_that_is_too_large_is_named(device: Device) -> None:
    problem = next(p for p in CONVOLUTIONS if p.name == "2d-hv-all")
    limit = device.module.settings().max_grid_x
    device.module.settings().max_grid_x = 1
    try:
        with pytest.raises(
            RuntimeError, match=r"fprop_plain: invalid config.* batch 2, channels 3 to 8 .* map 1x5x6"
        ):
            check(device, "fprop", problem, torch.float32)
    finally:
        device.module.settings().max_grid_x = limit
    check(device, "fprop", problem, torch.float32)


def far_apart(tensor: torch.Tensor) -> torch.Tensor:
    """The same two images over 2^31 elements from each other."""
    strides = (2**31 + 64, *tensor.stride()[1:])
    storage = torch.empty(strides[0] + tensor[0].numel(), dtype=tensor.dtype)  # the gap is never touched
    return storage.as_strided(tensor.shape, strides).copy_(tensor)


def reads_far(device: Device, operator: str, far: str, p: Problem) -> bool:
    """Whether the operator gives the same bits for two images that lie far apart."""
    t = case_of(p, torch.bfloat16).tensors
    device.module.settings().seed = 0

    def result(tensors: Tensors) -> torch.Tensor:
        like = torch.empty_like(getattr(case_of(p, torch.bfloat16).oracle, operator), dtype=torch.bfloat16)
        return getattr(device, operator)(p, tensors, like)

    return torch.equal(result(dataclasses.replace(t, **{far: far_apart(getattr(t, far))})), result(t))


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.parametrize("kernel", ["tensor core", "plain"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("operator", "far"),
    [("fprop", "input"), ("dgrad", "grad_output"), ("wgrad", "input"), ("wgrad", "grad_output")],
)
def test_elements_past_2_to_the_31(
    device: Device, operator: str, far: str, transposed: bool, kernel: str, layout: str
) -> None:
    """Of what is read, by every kernel: those that pack it or make its slots too."""
    options = {"padding": 1, "batch": 2, "layout": layout}
    p = problem("far", 16, 8, (5, 6), 3, {"hv": 16}, **options)
    if kernel == "plain":  # too many taps, mirrored taps that reach different residues, too few points
        p = problem("far", 16, 8, (2, 6), (1, 130) if operator == "fprop" else (1, 4), {"h": 16}, **options)
        p = dataclasses.replace(p, padding=(0, 64 if operator == "fprop" else 1), stride=(1, 2))
    p = p.twin() if transposed else p
    assert device.kernel_for(operator, p, torch.bfloat16) == kernel
    assert reads_far(device, operator, far, p)


# Taps along v, stride, dtype, and the kernel that runs, by the side that is tied.
WAYS = {
    "strips": (3, 1, torch.bfloat16, "tied_{}_strips_kernel"),
    "boxes": (1, 1, torch.bfloat16, "tied_{}_kernel"),
    "tf32": (1, 1, torch.float32, "tied_{}_kernel"),
    "strided": (3, 2, torch.float16, "tied_{}_kernel"),
    "plain": (3, 1, torch.float64, "_plain_kernel"),
}


@pytest.mark.parametrize(
    ("along", "layout"), [("images", "channels_last"), ("rows", "channels_last"), ("rows", "contiguous")]
)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("operator", "side"), [("fprop", "result"), ("dgrad", "source")])
def test_results_of_more_than_2_to_the_31_elements(
    device: Device, operator: str, side: str, way: str, along: str, layout: str
) -> None:
    taps, stride, dtype, kernel = WAYS[way]
    channels = {"fprop": (512, 8), "dgrad": (32, 512)}[operator]
    options = {"padding": (taps // 2, 1), "stride": stride, "batch": 1, "layout": layout}
    p = problem("huge", *channels, (16, 16), (taps, 3), {"hv": channels[0]}, **options)
    reference = case_of(p, dtype)
    device.module.reset_counters()
    value = end_of_huge_result(device, operator, p, reference.tensors, along, allow_tf32=True)
    assert any(kernel.format(side) in launch["kernel"] for launch in device.module.launches())
    oracle, dense = (last_points(getattr(of, operator)) for of in (reference.oracle, reference.dense))
    if way == "tf32":
        dense = last_points(getattr(dense_in_tf32(p), operator))
    in_half = dtype in (torch.float16, torch.bfloat16)
    assert_close(operator, value, oracle, dense, folded_in_half=in_half, context=(way, along, layout))


SOURCES = sorted((Path(__file__).parents[1] / "csrc" / "cuda").iterdir())


def test_no_atomics() -> None:
    """Sums have one order, so that every run gives the same bits."""
    atomic = re.compile(
        r"\batomic\w*|\b__(?:atomic|nv_atomic|sync)_\w+|\b(?:red|atom)\.\w+|\bcuda::\w*atomic\w*"
    )
    for used in ("atomicAdd(&x, 1)", 'asm("red.global.add.f32 [%0], %1;")', "__atomic_fetch_add(p, 1, 0)"):
        assert atomic.search(used)
    assert not [(file.name, found[0]) for file in SOURCES if (found := atomic.search(file.read_text()))]


def test_nothing_that_a_graph_capture_forbids() -> None:
    """Of the CUDA runtime the host side calls only this: no waiting, no allocation, no copy."""
    calls = {
        call
        for file in SOURCES
        for call in re.findall(r"\b(cuda[A-Z]\w*|cu[A-Z]\w*)\s*(?:<[^>]*>)?\(", file.read_text())
    }
    assert calls == {
        "cudaDeviceGetAttribute",
        "cudaFuncSetAttribute",
        "cudaGetDevice",
        "cudaGetErrorString",
        "cudaGetLastError",
        "cudaLaunchKernelEx",
    }
