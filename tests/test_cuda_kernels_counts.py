"""What the emulated device counts in the CUDA kernels: tensor-core instructions, bank conflicts, bytes."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from emulator import build
from emulator.operators import Device
from problems import Problem, make, problem

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")


@pytest.fixture(scope="module")
def device() -> Device:
    return Device(build.load())


def layer(symmetry: dict[str, int], channels: int = 64, size: tuple[int, ...] = (16, 16)) -> Problem:
    """A layer of 3-wide kernels whose channels and map fill the tiles of every kernel."""
    return problem("counts", 256, channels, size, 3, symmetry, padding=1, batch=1, layout="channels_last")


def count(device: Device, operator: str, p: Problem, dtype: torch.dtype = torch.bfloat16) -> Counter[str]:
    """The counters of all tensor-core kernels of a run."""
    tensors = make(p, dtype)
    size = {"fprop": p.output_size, "dgrad": p.input_size, "wgrad": p.weight_size}[operator]
    result = torch.empty(size, dtype=dtype)
    if operator != "wgrad":
        result = result.to(memory_format=torch.channels_last if p.rank == 2 else torch.channels_last_3d)
    device.module.reset_counters()
    getattr(device, operator)(p, tensors, result, allow_tf32=True)
    total: Counter[str] = Counter()
    for counters in device.module.counters().values():
        if counters["mma_f16"] + counters["mma_bf16"] + counters["mma_tf32"]:
            total.update(counters)
    return total


@pytest.mark.parametrize(
    ("symmetry", "size", "ratio"),
    [
        ({"h": 256}, (16, 16), 2),
        ({"v": 256}, (16, 16), 2),
        ({"hv": 256}, (16, 16), 4),
        ({"hvz": 256}, (4, 8, 8), 8),
    ],
    ids=["h", "v", "hv", "hvz"],
)
def test_tensor_core_instructions_shrink_by_the_orbit(
    device: Device, symmetry: dict[str, int], size: tuple[int, ...], ratio: int
) -> None:
    p = layer(symmetry, size=size)
    dense = p.multiplications // (16 * 8 * 16)
    assert count(device, "fprop", p)["mma_bf16"] * ratio == dense


@pytest.mark.parametrize("operator", ["dgrad", "wgrad"])
def test_so_do_those_of_the_gradients(device: Device, operator: str) -> None:
    p = layer({"hv": 256})
    assert count(device, operator, p)["mma_bf16"] * 4 == p.multiplications // (16 * 8 * 16)


def test_tf32_takes_twice_as_many(device: Device) -> None:
    p = layer({"hv": 256})
    assert count(device, "fprop", p, torch.float32)["mma_tf32"] * 4 == p.multiplications // (16 * 8 * 8)


@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
@pytest.mark.parametrize("symmetry", [{}, {"h": 256}, {"hv": 256}], ids=["plain", "h", "hv"])
def test_no_bank_conflicts_in_the_main_loop(device: Device, operator: str, symmetry: dict[str, int]) -> None:
    """The conflicts of a block's start do not grow with what it sums over."""
    few, many = layer(symmetry), layer(symmetry, channels=128)
    if operator == "dgrad":  # which sums over the filters
        many = dataclasses.replace(few, a=512, symmetry=tuple((mask, 512) for mask in symmetry))
    a, b = count(device, operator, few), count(device, operator, many)
    assert b["mma_bf16"] == 2 * a["mma_bf16"]
    assert b["bank_conflicts"] == a["bank_conflicts"]


@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
@pytest.mark.parametrize("size", [(8, 28), (14, 14), (7, 7), (8, 12)], ids=str)
def test_nor_where_the_strips_of_a_warp_go_over_the_end_of_a_line(
    device: Device, operator: str, size: tuple[int, int]
) -> None:
    few = dataclasses.replace(layer({"hv": 256}, size=size), batch=8)
    many = dataclasses.replace(few, b=2 * few.b)
    if operator == "dgrad":
        many = dataclasses.replace(few, a=512, symmetry=(("hv", 512),))
    a, b = count(device, operator, few), count(device, operator, many)
    assert b["mma_bf16"] == 2 * a["mma_bf16"]
    assert b["bank_conflicts"] == a["bank_conflicts"]


def test_no_bank_conflicts_in_wgrad(device: Device) -> None:
    assert count(device, "wgrad", layer({"hv": 256}))["bank_conflicts"] == 0


def test_every_weight_and_patch_is_read_in_whole_sectors(device: Device) -> None:
    c = count(device, "fprop", layer({"hv": 256}))
    assert c["global_load_sectors"] * 32 == c["global_load_bytes"]
