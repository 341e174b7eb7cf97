"""Where to fold the patch, in registers or into shared memory: the count in docs/design.md.

python benchmarks/fold_place.py    # print the table

For fprop of hv orbits with 3x3 kernels in bfloat16, in the tiles of csrc/cuda/tied_result_strips_kernel.cuh
whose strips are eight points long: a warp's share of a step of the main loop. Counted are the sums, and the
accesses to shared memory but for the copies from global memory, which are the same. Taken for granted, where
it matters in favour of shared memory:

- A wavefront is 128 bytes. Every load and store is of 16 bytes a lane, without bank conflicts: 4 wavefronts.
- A sum takes one instruction, of two numbers a lane.
- A thread block folds into shared memory once, all its warps equally busy, and loads no row of taps twice.
- The middle tap of both axes is not folded: its operand is the patch itself.
- Addresses, loops and the barrier between the fold and the products cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tables
from gpu_model import A100, QUARTERS

POINTS, FILTERS = 64, 16  # of a warp: eight strips, reduced filters
SHARING, BLOCK = 2, 8  # warps that read the same strips; of a thread block
COLUMNS = 3  # of taps along h: the middle and a pair
ROWS = 10  # of a strip's column
COEFFICIENTS = 9
HALVES = 2  # of the 32 bytes of a step, a word of each to a lane

HMMA = COEFFICIENTS * (POINTS // 16) * (FILTERS // 8)
WEIGHTS = COEFFICIENTS * FILTERS // 16  # loads
TILE = POINTS // 16  # ldmatrix of one coefficient of the points, or stores
COLUMN = ROWS // 2  # ldmatrix of a column of rows, or stores
SUMS_H = 2 * ROWS * HALVES  # the sum and the difference of a pair of columns
SUMS_V = COLUMNS * 2 * POINTS // 8 * HALVES  # the same of the outer taps of each point, in each column
WAVEFRONTS, BYTES = 4, 512  # of a load or a store
CYCLES = HMMA * A100.mma_cycles / QUARTERS  # of a multiprocessor's tensor cores
HEADER = ("a warp and a step", "in registers", "h in shared memory", "all in shared memory")


class Fold(NamedTuple):
    """Instructions of one way to fold the patch of a warp's points.

    Attributes:
        operands: ldmatrix, before the fold in registers, or for the tensor cores.
        sums: in registers, in every warp.
        loads, shared_sums, stores: of the fold into shared memory, once for the warps that share the points.
    """

    operands: int
    sums: int
    loads: int = 0
    shared_sums: int = 0
    stores: int = 0

    @property
    def fold_accesses(self) -> float:
        """A warp's share."""
        return (self.loads + self.stores) / SHARING

    @property
    def all_sums(self) -> float:
        return self.sums + self.shared_sums / SHARING

    @property
    def accesses(self) -> float:
        return self.operands + WEIGHTS + self.fold_accesses

    @property
    def planes(self) -> int:
        """Bytes of shared memory of a thread block."""
        return self.stores * BYTES * BLOCK // SHARING


IN_REGISTERS = Fold(operands=COLUMNS * COLUMN, sums=SUMS_H + SUMS_V)
H_IN_SHARED_MEMORY = Fold(
    operands=COLUMNS * COLUMN, sums=SUMS_V, loads=2 * COLUMN, shared_sums=SUMS_H, stores=2 * COLUMN
)
ALL_IN_SHARED_MEMORY = Fold(
    operands=COEFFICIENTS * TILE,
    sums=0,
    loads=COLUMNS * COLUMN,
    shared_sums=SUMS_H + SUMS_V,
    stores=(COEFFICIENTS - 1) * TILE,
)
FOLDS = (IN_REGISTERS, H_IN_SHARED_MEMORY, ALL_IN_SHARED_MEMORY)


def rows() -> list[tuple[str, ...]]:
    """The table."""

    def row(name: str, count: Callable[[Fold], float], form: str = "g") -> tuple[str, ...]:
        return (name, *(format(count(fold), form) for fold in FOLDS))

    return [
        row("HMMA", lambda _: HMMA),
        row("sums", lambda fold: fold.all_sums),
        row("loads and stores of the fold", lambda fold: fold.fold_accesses),
        row("LDSM of operands", lambda fold: fold.operands),
        row("LDS of weights", lambda _: WEIGHTS),
        row("all but HMMA", lambda fold: fold.all_sums + fold.accesses),
        row("KiB through shared memory", lambda fold: fold.accesses * BYTES / 1024),
        row("wavefronts over tensor-core cycles", lambda fold: WAVEFRONTS * fold.accesses / CYCLES, ".2f"),
        row("(of these, LDSM of operands)", lambda fold: WAVEFRONTS * fold.operands / CYCLES, ".2f"),
        row("KiB of planes in a thread block", lambda fold: fold.planes / 1024),
    ]


if __name__ == "__main__":
    print(tables.markdown(HEADER, rows()), end="")
