"""The tables of the CUDA kernels' machine code: how code is read, and what docs/cuda-kernels.md says.

CI compares the page with the kernels that it has built: ``benchmarks/machine_code.py --check``.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from test_cpu_kernels import load_setup

from symconv_ext import ops

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))  # last: tests/ has a layers.py too

import machine_code  # noqa: E402
import occupancy  # noqa: E402
import products  # noqa: E402
from disassembly import Kernel, Loop, MissingToolError, find_loops, tool  # noqa: E402
from products import Product, Tile  # noqa: E402

COMMITTED = machine_code.PAGE.read_text(encoding="utf-8")
ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")


# Loops


def code(*lines: str) -> list[dict[str, str]]:
    """Instructions as nvdisasm gives them: "@P0 BRA 3" goes to the third line (from 0) where P0 holds."""
    instructions = []
    for line in lines:
        words = line.split()
        instruction = {"predicate": words.pop(0)} if words[0].startswith("@") else {}
        instruction["opcode"] = words[0]
        operands = [f"{int(word) * 16:#x}" if word.isdigit() else word for word in words[1:]]
        instructions.append({**instruction, "operands": ",".join(operands)})
    return instructions


def test_loops_nest() -> None:
    loops = list(
        find_loops(
            code(
                "S2R R0 SR_TID.X",
                "LDGSTS.E [R1] [R2]",  # 1: the outer loop
                "@P1 BRA 6",
                "HMMA.16816.F32 R0 R4 R8 R0",  # 3: the inner one
                "LDSM.16.M88.4 R4 [R0]",
                "@P0 BRA 3",
                "BAR.SYNC 0x0",
                "@P2 BRA 1",
                "EXIT",
                "NOP",
            )
        )
    )
    outer, inner = loops
    assert (outer.depth, inner.depth) == (0, 1)
    assert outer.counts == Counter(LDGSTS=1, BRA=3, HMMA=1, LDSM=1, BAR=1)
    assert outer.own == Counter(LDGSTS=1, BRA=2, BAR=1)
    assert inner.counts == inner.own == Counter(HMMA=1, LDSM=1, BRA=1)
    assert (outer.is_product, inner.is_product) == (False, True)


def test_a_call_under_a_predicate_leaves_a_loop_and_others_return() -> None:
    """The block after the call is in the loop of both."""
    (loop,) = find_loops(
        code(
            "LDS R0 [R1]",
            "CALL.REL.NOINC 6",  # returns
            "@P0 CALL.REL.NOINC 5",  # out of the loop
            "STS [R1] R0",
            "BRA 0",
            "EXIT",
            "MUFU.RCP R0 R0",  # 6: the function
            "RET.REL R2",
        )
    )
    assert loop.counts == Counter(LDS=1, CALL=2, STS=1, BRA=1)


def test_code_without_loops_and_with_blocks_that_nothing_reaches() -> None:
    assert list(find_loops(code("@!P0 BRA 2", "FADD R0 R0 R0", "EXIT", "BRA 3"))) == []


def test_what_every_pass_goes_through_and_every_way_to_a_copy() -> None:
    (loop,) = find_loops(
        code(
            "ISETP P0 R0",
            "@P0 BRA 3",
            "IMAD R1 R1",  # sometimes
            "@P1 BRA 5",
            "LDGSTS.E [R1] [R2]",  # sometimes, but a copy
            "@P2 BRA 0",
            "EXIT",
        )
    )
    assert loop.passed == Counter(ISETP=1, BRA=3, LDGSTS=1)


def test_the_loops_of_a_main_loop_by_what_they_are_for() -> None:
    def loop(depth: int, is_product: bool = False, **counts: int) -> Loop:
        return Loop(depth, Counter(counts), Counter(counts), is_product, Counter(counts))

    before, after = loop(0, LDGSTS=1), loop(0, STG=1)
    stages, copies, steps, product = (
        loop(0, HMMA=8, LDGSTS=2, IMAD=9),
        loop(1, LDGSTS=2, IMAD=5),
        loop(1, HMMA=8, IMAD=3),
        loop(2, is_product=True, HMMA=8),
    )
    loops = (before, stages, copies, steps, product, after)
    kernel = Kernel("k", "8.0", "13.0", 32, 128, 0, 0, Counter(), loops)
    assert kernel.main_loop is stages
    assert kernel.within_main_loop == [copies, steps, product]
    assert (kernel.copies, kernel.steps, kernel.products) == ([copies], [steps], [product])
    assert machine_code.copy_of(kernel) == Fraction(7, 2)
    assert Kernel("k", "8.0", "13.0", 32, 128, 0, 0, Counter(), (before,)).copies == []


# Occupancy: against NVIDIA's calculator


@pytest.mark.parametrize(
    ("architecture", "registers", "dynamic", "blocks"),
    [
        ("8.0", 32, 0, 16),  # warps
        ("8.6", 32, 0, 12),
        ("9.0", 128, 0, 4),  # registers
        ("8.0", 129, 0, 3),
        ("8.0", 216, 49 * 1024, 2),
        ("8.0", 128, 49 * 1024, 3),  # shared memory
        ("8.9", 128, 49 * 1024, 2),
        ("12.0", 128, 99 * 1024, 1),
        ("9.0", 128, 99 * 1024, 2),
        ("8.6", 16, 0, 12),
    ],
)
def test_occupancy(architecture: str, registers: int, dynamic: int, blocks: int) -> None:
    kernel = Kernel("k", architecture, "13.0", registers, 128, 0, 0, Counter(), ())
    assert occupancy.resident_blocks(kernel, dynamic) == blocks


def test_blocks_of_one_warp_are_limited_by_their_number() -> None:
    limits = {}
    for architecture in ARCHITECTURES:
        kernel = Kernel("k", architecture, "13.0", 16, 32, 0, 0, Counter(), ())
        limits[architecture] = occupancy.resident_blocks(kernel)
    assert limits == {"8.0": 32, "8.6": 16, "8.9": 24, "9.0": 32, "10.0": 32, "12.0": 24}


def test_an_architecture_without_limits_is_an_error_that_says_so() -> None:
    kernel = Kernel("k", "7.5", "13.0", 16, 32, 0, 0, Counter(), ())
    with pytest.raises(ValueError, match=r"expected one of 8.0, .*, got 7.5; add"):
        occupancy.resident_blocks(kernel)


# Products


def kernel_of(*sizes: int) -> Kernel:
    loops = tuple(Loop(2, Counter(HMMA=n, LDSM=n // 8), Counter(HMMA=n, LDSM=n // 8), True) for n in sizes)
    return Kernel("k", "8.0", "13.0", 32, 128, 0, 0, Counter(HMMA=sum(sizes)), loops)


TWO_PRODUCTS = Tile(32, 32, (Product(1, 3), Product(2, 3)))  # 8 HMMA a coefficient


@pytest.mark.parametrize(
    ("sizes", "found"),
    [((8, 16), (8, 16)), ((32, 8, 16), (8, 16)), ((32, 16), (32, 16)), ((8, 64, 16), (8, 16))],
    ids=["as they are", "a remainder", "unrolled", "the second unrolled"],
)
def test_products_find_their_loops(sizes: tuple[int, ...], found: tuple[int, ...]) -> None:
    loops = products.match(kernel_of(*sizes), TWO_PRODUCTS)
    assert tuple(loop.counts["HMMA"] for loop in loops) == found


@pytest.mark.parametrize("sizes", [(16,), (8, 12), (8, 16, 16), (9, 16), ()])
def test_other_loops_are_an_error_that_says_so(sizes: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match=r"its loops have .* HMMA.*change cases\(\)"):
        products.match(kernel_of(*sizes), TWO_PRODUCTS)


def test_unrolled_loops_count_as_often_as_they_are_gone_through() -> None:
    for size in (8, 16, 64):
        (loop,) = products.match(kernel_of(size), Tile(32, 32, (Product(1, 9),)))
        tile = Tile(32, 32, (Product(1, 9),))
        assert products.per_pass(tile.products[0], tile, loop) == {"HMMA": 8, "LDSM": 1}


@pytest.mark.parametrize(
    "case", list(products.cases()), ids=lambda c: f"{c.operator}-{c.symmetry}-{c.rank}-{c.note}"
)
def test_every_case_has_all_coefficients(case: products.Case) -> None:
    """As many as the kernel has taps: the fold is a change of basis."""
    total = sum(
        product.coefficients * product.passes for _, tile in case.kernels for product in tile.products
    )
    assert total == 3**case.rank


# PTX: what a wheel carries for the GPUs to come


def codes(library: Path, kind: str) -> list[str]:
    """The architectures, such as "12.0", that cuobjdump lists code of: of `kind` elf or ptx."""
    try:
        program = tool("cuobjdump")
    except MissingToolError as missing:
        pytest.skip(str(missing))
    listed = subprocess.run([program, f"-l{kind}", library], capture_output=True, text=True, check=False)
    assert listed.returncode == 0 or "No PTX file found" in listed.stdout + listed.stderr, listed
    found = {(int(major), int(minor)) for major, minor in re.findall(r"\.sm_(\d+)(\d)[af]?\.", listed.stdout)}
    return [f"{major}.{minor}" for major, minor in sorted(found)]


def machine_and_ptx(architectures: list[str]) -> tuple[list[str], list[str]]:
    def numbers(names: list[str]) -> list[str]:
        return [name.removesuffix("+PTX").rstrip("af") for name in names]

    return numbers(architectures), numbers([name for name in architectures if name.endswith("+PTX")])


@pytest.mark.parametrize("setting", ["", "8.0;9.0"])
def test_a_wheel_holds_machine_code_of_all_and_ptx_of_the_last(setting: str, tmp_path: Path) -> None:
    toolchain = load_setup().toolchain
    toolkit, missing = toolchain.find_toolkit()
    if toolkit is None:
        pytest.skip(missing)
    architectures = toolchain.choose_architectures(setting, [], toolchain.known_architectures(toolkit))
    assert architectures[-1].endswith("+PTX") == (setting == "")
    source, compiled = tmp_path / "one.cu", tmp_path / "one.o"
    source.write_text("__global__ void one(int* number) { *number = 1; }\n")
    flags = ["-isystem", toolkit.include, *toolchain.architecture_flags(architectures)]
    subprocess.run([toolkit.nvcc, *flags, "-c", source, "-o", compiled], check=True)
    assert (codes(compiled, "elf"), codes(compiled, "ptx")) == machine_and_ptx(architectures)


@pytest.mark.skipif(not ops.CUDA_ARCHITECTURES, reason="the extension was built without CUDA kernels")
def test_the_extension_holds_what_it_says() -> None:
    library = Path(ops._C.__file__)
    architectures = ops.CUDA_ARCHITECTURES.split(";")
    assert (codes(library, "elf"), codes(library, "ptx")) == machine_and_ptx(architectures)


# The page


def rows_of(architecture: str) -> list[dict[str, str]]:
    return machine_code.read_page(COMMITTED)[architecture]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_spills(architecture: str) -> None:
    rows = rows_of(architecture)
    assert len(rows) > 40
    assert {row["spills"] for row in rows} == {"0"}
    assert all(int(row["registers"]) <= 255 for row in rows)
    assert all(int(row["SM runs"].split(" x ")[0]) >= 1 for row in rows)


def test_every_architecture_has_the_same_kernels() -> None:
    names = [row["kernel"] for row in rows_of("8.0")]
    assert len(set(names)) == len(names) < machine_code.KERNELS
    for architecture in ARCHITECTURES:
        assert [row["kernel"] for row in rows_of(architecture)] == names


def test_tensor_core_instructions_shrink_by_the_orbit() -> None:
    shares = {"plain": "1", "h": "1/2", "hv": "1/4", "hvz": "1/8"}
    rows = machine_code.read_page(COMMITTED)[machine_code.STEPS]
    for row in rows:
        assert row["of dense"] == shares[row["filters"]], row
    seen = {
        (row["operator"], row["filters"], row["dtype"], architecture)
        for row in rows
        for architecture in row["for"].split(", ")
    }
    assert len(seen) == 3 * 4 * 3 * len(ARCHITECTURES)


def test_a_difference_shows_and_only_where_it_is_asked_for() -> None:
    row = next(line for line in COMMITTED.split("### 9.0")[1].splitlines() if "`pack_kernel<float>`" in line)
    registers = row.split("|")[2].strip()
    position = COMMITTED.index(row, COMMITTED.index("### 9.0"))
    changed = row.replace(f" {registers} ", f" {int(registers) + 1} ", 1)
    other = COMMITTED[:position] + changed + COMMITTED[position + len(row) :]
    assert machine_code.differences(COMMITTED, other, ("8.0", "8.6")) == []
    assert machine_code.differences(COMMITTED, COMMITTED, ARCHITECTURES) == []
    (line,) = machine_code.differences(COMMITTED, other, ("9.0",))
    assert line == f"9.0 `pack_kernel<float>`: registers {registers} -> {int(registers) + 1}"
    without = COMMITTED[:position] + COMMITTED[position + len(row) + 1 :]
    assert machine_code.differences(COMMITTED, without, ("9.0",)) == ["9.0 `pack_kernel<float>`: is gone"]
    assert machine_code.differences(without, COMMITTED, ("9.0",)) == ["9.0 `pack_kernel<float>`: is new"]


def test_architectures_that_share_a_row_are_compared_one_by_one() -> None:
    head = f"## {machine_code.STEPS}\n\n| operator | filters | kernel | dtype | HMMA | for |\n| --- |\n"
    together = f"{head}| fprop | hv | 3x3 | tf32 | 72 | 8.0, 9.0 |\n"
    apart = f"{head}| fprop | hv | 3x3 | tf32 | 72 | 8.0 |\n| fprop | hv | 3x3 | tf32 | 71 | 9.0 |\n"
    assert machine_code.differences(together, apart, ("8.0",)) == []
    assert machine_code.differences(together, apart, ("9.0",)) == ["9.0 fprop hv 3x3 tf32: HMMA 72 -> 71"]


def test_spills_and_too_many_kernels_are_failures(capsys: pytest.CaptureFixture[str]) -> None:
    good = kernel_of(8)
    assert machine_code.resources_are_good([good] * (machine_code.KERNELS - 1))
    assert not machine_code.resources_are_good([good] * machine_code.KERNELS)
    capsys.readouterr()
    for change in ({"counts": Counter(HMMA=8, STL=3, LDL=2)}, {"counts": Counter(HMMA=8), "stack": 16}):
        bad = dataclasses.replace(good, name="bad", architecture="9.0", **change)
        assert not machine_code.resources_are_good([good, bad])
        assert "9.0 bad: expected no local memory, got" in capsys.readouterr().out


def test_a_kernel_that_is_not_there_is_an_error_that_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"tied_result_kernel<Float16, 0>: there is no such kernel"):
        products.step_of(next(products.cases()), "Float16", {})


def test_another_compiler_is_not_compared_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    version = machine_code.compiler_of(COMMITTED)
    other = COMMITTED.replace(f"nvcc {version}", "nvcc 99.1.2")
    assert machine_code.check(COMMITTED, other.replace("|      0 |", "|      1 |"), ARCHITECTURES)
    assert "*** NOT COMPARED" in capsys.readouterr().out
    assert not machine_code.check(COMMITTED, COMMITTED.replace("|      0 |", "|      1 |"), ARCHITECTURES)
    assert "make cuda-kernels" in capsys.readouterr().out
    assert machine_code.check(COMMITTED, COMMITTED, ARCHITECTURES)


def test_page_is_of_the_pinned_compiler() -> None:
    pins = (ROOT / "requirements" / "cuda.txt").read_text()
    assert f"nvidia-cuda-nvcc=={machine_code.compiler_of(COMMITTED)}\n" in pins
