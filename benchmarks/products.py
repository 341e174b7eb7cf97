"""What the loops over steps of the main loop execute in a step, out of the machine code.

A case is an operator on filters of one symmetry. Its kernels go through the taps in loops; how often, and
what a pass multiplies, stands here, and what instructions a pass takes is read from the code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from disassembly import TENSOR_CORE, Kernel, Loop


@dataclasses.dataclass(frozen=True)
class Product:
    """A loop of the main loop that feeds the tensor cores.

    Attributes:
        coefficients: that one pass multiplies.
        passes: in a step of channels, with three taps along every axis.
        taps: that all passes load, where that is another loop.
        loads: ldmatrix instructions of one of those.
    """

    coefficients: int
    passes: int
    taps: int = 0
    loads: int = 0


@dataclasses.dataclass(frozen=True)
class Tile:
    """What a warp multiplies in one step, for each coefficient of its products.

    Rows are points, columns are filters or channels of the result; in wgrad, orbits and channels.
    """

    rows: int
    columns: int
    products: tuple[Product, ...]

    @property
    def tensor_core_instructions(self) -> int:
        """Of one coefficient: mma takes 16 by 8."""
        return self.rows // 16 * (self.columns // 8)


@dataclasses.dataclass(frozen=True)
class Case:
    """An operator on filters of one symmetry, and the kernels whose products make up its step.

    In the kernels' names, ``{}`` stands for the dtype.
    """

    operator: str
    symmetry: str
    rank: int
    note: str
    kernels: tuple[tuple[str, Tile], ...]

    @property
    def orbit(self) -> int:
        return 1 if self.symmetry == "plain" else 1 << len(self.symmetry)

    @property
    def parts(self) -> int:
        """Passes that a step makes through the loop over steps: in dgrad one for every parity."""
        return self.orbit if self.operator == "dgrad" else 1


# Filters, their mirror images counted, times points (in wgrad: channels) of the tile that all cases get.
COMMON_FILTERS, COMMON_POINTS = 128, 32
# Groups of 8 filters of a tile, by the axes of their orbits: filter_tiles() in tied_result_kernel.cuh.
FILTER_TILES = (8, 8, 4, 2)
SYMMETRIES = ("plain", "h", "hv", "hvz")  # by the axes
STRIPS = {8: "strips", 7: "strips of seven and one"}  # by run: csrc/cuda/strips.h
FOLDS = ((2, 0), (2, 1), (2, 2), (3, 0), (3, 3))  # rank and axes


def cases() -> Iterator[Case]:
    """Every case, for kernels of three taps along each axis: along a folded one, the middle and a pair."""
    for rank, axes in FOLDS:
        across = 3 ** (rank - axes)  # taps along the other axes
        # Tap orbits are paired along a subset of the folded axes, and stand in the order of the subsets.
        pairings = [bin(subset).count("1") for subset in range(1 << axes)]
        products = tuple(Product(1 << paired, across) for paired in pairings)
        tile = Tile(32, 8 * FILTER_TILES[axes], products)
        kernel = f"tied_result_kernel<{{}}, {axes}>"
        yield Case("fprop", SYMMETRIES[axes], rank, "", ((kernel, tile),))
        if axes == 2:
            tile = Tile(64, 16, (Product(3, 1), Product(6, 1)))
            for run, note in STRIPS.items():
                kernel = f"tied_result_strips_kernel<{{}}, {run}>"
                yield Case("fprop", SYMMETRIES[axes], rank, note, ((kernel, tile),))
    for rank, axes in FOLDS:
        across = 3 ** (rank - axes)
        # A parity that is odd along n axes has one coefficient of two taps along each of those, and two of
        # three taps in all along each of the others.
        odd = [bin(parity).count("1") for parity in range(1 << axes)]
        coefficients = across * sum(2 ** (axes - n) for n in odd)
        taps = across * sum(2**n * 3 ** (axes - n) for n in odd)
        tile = Tile(64, 64, (Product(1, coefficients, taps, 4),))
        yield Case("dgrad", SYMMETRIES[axes], rank, "", (("tied_source_kernel<{}>", tile),))
        if rank == 2:
            # Along h three columns, of three taps; folded, three of five. Along v, they are all that is even
            # there, and all that is odd, or else their three taps are multiplied one by one.
            columns, taps = 3, 3 if axes == 0 else 5
            folded, plain = ((columns, taps), (0, 0))[:: 1 if axes == 2 else -1]
            for run, note in STRIPS.items():
                loads = 5 if run == 8 else 6
                products = tuple(
                    Product(coefficients, *passes, loads)
                    for coefficients, passes in ((3, plain), (1, folded), (2, folded))
                )
                kernel = f"tied_source_strips_kernel<{{}}, {run}>"
                yield Case("dgrad", SYMMETRIES[axes], rank, note, ((kernel, Tile(64, 64, products)),))
    for rank, axes in FOLDS:
        # A thread block has nine coefficients, of one tap along a third axis.
        tile = Tile(32, 16, (Product(9, 3 ** (rank - 2)),))
        for note, rolling in (("", "true"), ("strided", "false")):
            kernel = f"wgrad_kernel<{{}}, {axes}, {rolling}>"
            yield Case("wgrad", SYMMETRIES[axes], rank, note, ((kernel, tile),))


class Step(NamedTuple):
    """Instructions of a case's products: COMMON_FILTERS by COMMON_POINTS by a step of the sum."""

    tensor_core: Fraction
    load_matrices: Fraction
    shared_loads: Fraction
    others: Fraction


def step_of(case: Case, dtype: str, kernels: dict[str, Kernel]) -> Step:
    """Adds up the loops of the machine code, each as often as the step goes through it.

    Raises:
        RuntimeError: the code has other kernels, or other loops, than the case says.
    """
    total: dict[str, Fraction] = {}
    for pattern, tile in case.kernels:
        kernel = kernels.get(pattern.format(dtype))
        if kernel is None:
            raise RuntimeError(
                f"{pattern.format(dtype)}: there is no such kernel; with the kernels, change cases() in "
                "benchmarks/products.py"
            )
        # Filters count with their mirror images.
        tiles = Fraction(COMMON_FILTERS * COMMON_POINTS, case.orbit * tile.rows * tile.columns)
        for product, loop in zip(tile.products, match(kernel, tile), strict=True):
            if product.passes == 0:
                continue
            for opcode, count in per_pass(product, tile, loop).items():
                total[opcode] = total.get(opcode, Fraction(0)) + count * product.passes * tiles
        for loop in kernel.steps:
            for opcode, count in loop.around.items():
                total[opcode] = total.get(opcode, Fraction(0)) + count * case.parts * tiles
    tensor_core, matrices, loads = (total.pop(o, Fraction(0)) for o in (TENSOR_CORE, "LDSM", "LDS"))
    return Step(tensor_core, matrices, loads, sum(total.values(), Fraction(0)))


def per_pass(product: Product, tile: Tile, loop: Loop) -> dict[str, Fraction]:
    """Instructions of one pass of a product, out of a loop that the compiler may have unrolled."""
    one = product.coefficients * tile.tensor_core_instructions
    if not product.taps:
        unrolled = loop.counts[TENSOR_CORE] // one
        return {opcode: Fraction(count, unrolled) for opcode, count in loop.counts.items()}
    # Taps are loaded in an inner loop, whose last few passes may stand beside it.
    inner = loop.counts - loop.own
    unrolled, beside = inner["LDSM"] // product.loads, loop.own["LDSM"] // product.loads
    tap = {opcode: Fraction(count, unrolled) for opcode, count in inner.items()}
    taps = Fraction(product.taps, product.passes)
    opcodes = loop.counts.keys()
    return {o: loop.own[o] + (taps - beside) * tap.get(o, Fraction(0)) for o in opcodes}


def match(kernel: Kernel, tile: Tile) -> list[Loop]:
    """For every product of the tile its loop in the code, the one that is unrolled least.

    Raises:
        RuntimeError: the code has other loops than the tile says.
    """
    loops = kernel.products
    sizes = [loop.counts[TENSOR_CORE] for loop in loops]
    units = [product.coefficients * tile.tensor_core_instructions for product in tile.products]
    if sorted(sizes) == sorted(set(units)) and len(units) == len(sizes):  # as they are, in any order
        return [loops[sizes.index(unit)] for unit in units]

    def assign(loop: int, product: int) -> list[int] | None:
        """Of each product from `product` on, the last of its loops, out of those from `loop` on."""
        if product == len(units):
            return [] if loop == len(sizes) else None
        end = loop
        best = None
        while end < len(sizes) and sizes[end] % units[product] == 0:
            if end > loop and sizes[end] >= sizes[end - 1]:
                break  # what follows an unrolled loop is unrolled less
            rest = assign(end + 1, product + 1)
            end += 1
            if rest is not None:
                best = [end - 1, *rest]
        return best

    found = assign(0, 0)
    if found is None:
        raise RuntimeError(
            f"{kernel.name} for {kernel.architecture}: its loops have {sizes} {TENSOR_CORE}, which are not "
            f"multiples of {units} in this order; with the kernel, change cases() in benchmarks/products.py"
        )
    return [loops[index] for index in found]
