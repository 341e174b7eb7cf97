"""The CUDA kernels on the emulated device, against the float64 oracle, over the shared list of problems."""

from __future__ import annotations

import pytest
import torch
from emulator import build
from emulator.operators import Device
from oracle import case
from problems import CONVOLUTIONS, FEW, PROBLEMS, Problem, lay_out, random_problems
from tolerances import assert_close

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")

OPERATORS = ("fprop", "dgrad", "wgrad")
# The emulator is slow where every number of the result is a thread: a bound on the multiplications of a problem.
AFFORDABLE = 600_000


@pytest.fixture(scope="module")
def device() -> Device:
    return Device(build.load())


def check(
    device: Device,
    operator: str,
    problem: Problem,
    dtype: torch.dtype,
    seed: int = 0,
    folded_in_half: bool = False,
    **options: bool,
) -> None:
    reference = case(problem, dtype)
    oracle, dense = getattr(reference.oracle, operator), getattr(reference.dense, operator)
    layout = problem.weight_layout if operator == "wgrad" else problem.layout
    layout = "contiguous" if layout in ("expanded", "broadcast") else layout
    device.module.settings().seed = seed
    result = lay_out(torch.empty(oracle.shape, dtype=dtype), layout)
    value = getattr(device, operator)(problem, reference.tensors, result, **options)
    assert_close(operator, value, oracle, dense, folded_in_half=folded_in_half, context=(problem, seed))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.multiplications <= AFFORDABLE], ids=str)
def test_float64_on_every_problem(device: Device, problem: Problem, operator: str) -> None:
    check(device, operator, problem, torch.float64)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("problem", FEW, ids=str)
def test_other_dtypes(device: Device, problem: Problem, dtype: torch.dtype, operator: str) -> None:
    check(device, operator, problem, dtype, seed=1)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("problem", random_problems(20, seed=4, largest=3), ids=str)
def test_random_problems(device: Device, problem: Problem, operator: str) -> None:
    check(device, operator, problem, torch.float32, seed=2)


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
