"""How many blocks of a CUDA kernel a multiprocessor runs at a time, by the rules of cuda_occupancy.h."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from disassembly import Kernel

ROOT = Path(__file__).resolve().parents[1]
WARP = 32


class Multiprocessor(NamedTuple):
    """What the blocks on one share: warps, blocks, and bytes of shared memory (cuda_occupancy.h)."""

    warps: int
    blocks: int
    shared: int


KIB = 1024
MULTIPROCESSORS = {
    "8.0": Multiprocessor(64, 32, 164 * KIB),
    "8.6": Multiprocessor(48, 16, 100 * KIB),
    "8.9": Multiprocessor(48, 24, 100 * KIB),
    "9.0": Multiprocessor(64, 32, 228 * KIB),
    "10.0": Multiprocessor(64, 32, 228 * KIB),
    "12.0": Multiprocessor(48, 24, 100 * KIB),
}
# Registers of a multiprocessor, which a warp gets in units, and of its partitions each has a share.
REGISTERS, REGISTER_UNIT, PARTITIONS = 65536, 256, 4
# Bytes of shared memory that every block takes besides its own, and what the sum is rounded up to.
SYSTEM_SHARED, SHARED_UNIT = 1024, 128


def resident_blocks(kernel: Kernel, dynamic_shared: int = 0) -> int:
    """Blocks that a multiprocessor of the kernel's architecture runs at a time.

    Raises:
        ValueError: the limits of that architecture are not in `MULTIPROCESSORS`.
    """
    if kernel.architecture not in MULTIPROCESSORS:
        raise ValueError(
            f"architecture: expected one of {', '.join(MULTIPROCESSORS)}, got {kernel.architecture}; add its "
            "limits to benchmarks/occupancy.py"
        )
    limits = MULTIPROCESSORS[kernel.architecture]
    warps = -(-kernel.threads // WARP)
    of_warp = -(-kernel.registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
    resident_warps = REGISTERS // PARTITIONS // of_warp * PARTITIONS
    shared = kernel.static_shared + dynamic_shared + SYSTEM_SHARED
    shared = -(-shared // SHARED_UNIT) * SHARED_UNIT
    return min(limits.blocks, limits.warps // warps, resident_warps // warps, limits.shared // shared)


def shared_budgets() -> tuple[int, int]:
    """Bytes of shared memory that a tile takes where it can, and at most."""
    text = (ROOT / "csrc" / "cuda" / "tied_result.cu").read_text()
    found = re.search(r"kGoodShared = (\d+) \* 1024, kMostShared = (\d+) \* 1024", text)
    if found is None:
        raise RuntimeError("csrc/cuda/tied_result.cu: kGoodShared and kMostShared are not where they were")
    return int(found[1]) * KIB, int(found[2]) * KIB
