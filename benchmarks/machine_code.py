"""The CUDA kernels' machine code in tables: docs/cuda-kernels.md.

python benchmarks/machine_code.py                  # print the tables of the extension that was built in place
python benchmarks/machine_code.py --check          # compare them with docs/cuda-kernels.md
python benchmarks/machine_code.py LIBRARY --write  # write docs/cuda-kernels.md: what make cuda-kernels does

The exit code is 1 where a kernel spills registers to local memory, where there are too many kernels, and
where --check finds a difference. Registers and instructions are the same only for the same version of nvcc:
with another one than the page names, --check compares nothing and says so.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import disassembly
import tables
from disassembly import COPY, Kernel
from occupancy import WARP, resident_blocks, shared_budgets
from products import COMMON_FILTERS, COMMON_POINTS, cases, step_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "cuda-kernels.md"
LIBRARY = ROOT / "symconv_ext" / "_C.abi3.so"
KERNELS = 120  # that all instantiations together stay under

DTYPES = {"Float16": "float16", "BFloat16": "bfloat16", "TensorFloat32": "tf32"}
TYPES = {name: of_code for of_code, name in DTYPES.items()}
STEPS = "A step of the main loop"
STEP_HEADER = ("operator", "filters", "kernel", "dtype", "HMMA", "of dense", "LDSM", "LDS", "others", "for")
LAUNCHES = "What a launch asks for"
LAUNCH_HEADER = (
    "operator",
    "filters",
    "kernel",
    "dtype",
    "channels",
    "its code",
    "warps",
    "shared memory",
    "LDGSTS",
)
COUNTED = ("HMMA", "LDSM", "LDS", "STS", "LDGSTS", "BAR")
KERNEL_HEADER = (
    "kernel",
    "registers",
    "spills",
    "static",
    "SM runs",
    "at most",
    "a stage",
    "a copy",
    "a line",
    "instructions",
    *COUNTED,
)


def by_architecture(kernels: Iterable[Kernel]) -> dict[str, dict[str, Kernel]]:
    """The kernels by architecture and name; those that several objects hold are the same in all of them."""
    grouped: dict[str, dict[str, Kernel]] = {}
    for kernel in kernels:
        other = grouped.setdefault(kernel.architecture, {}).setdefault(kernel.name, kernel)
        if other.counts != kernel.counts:
            raise RuntimeError(f"{kernel.name} for {kernel.architecture}: two objects hold different code")
    return {name: grouped[name] for name in sorted(grouped, key=lambda name: float(name))}


def instances(kernels: Sequence[Kernel]) -> int:
    """How many kernels are instantiated, for each architecture."""
    return sum(kernel.architecture == kernels[0].architecture for kernel in kernels)


# The tables


def step_rows(kernels: dict[str, dict[str, Kernel]]) -> list[tuple[str, ...]]:
    """The table of steps; architectures with the same numbers share a row."""
    rows = []
    plain = {(case.operator, case.rank): case for case in cases() if case.orbit == 1}
    for case in cases():
        taps = "x".join("3" * case.rank)
        for dtype, name in DTYPES.items():
            merged: dict[tuple[str, ...], list[str]] = {}
            for architecture, of_it in kernels.items():
                step = step_of(case, dtype, of_it)
                share = step.tensor_core / step_of(plain[case.operator, case.rank], dtype, of_it).tensor_core
                loads = (step.load_matrices, step.shared_loads, step.others)
                cells = (_decimal(step.tensor_core), str(share), *map(_decimal, loads))
                merged.setdefault(cells, []).append(architecture)
            title = (case.operator, case.symmetry, f"{taps}, {case.note}" if case.note else taps, name)
            rows += [(*title, *cells, ", ".join(names)) for cells, names in merged.items()]
    return rows


def _decimal(number: Fraction) -> str:
    return str(number) if number.denominator == 1 else f"{float(number):.1f}"


def kernel_row(kernel: Kernel) -> tuple[object, ...]:
    """One kernel in the table of its architecture."""
    main, (good, most) = kernel.main_loop, shared_budgets()

    def occupancy(dynamic: int) -> str:
        blocks = resident_blocks(kernel, dynamic)
        return f"{blocks} x {-(-kernel.threads // WARP)}"

    fixed = (f"`{kernel.name}`", kernel.registers, kernel.spills, kernel.static_shared)
    if main is None:
        return (*fixed, occupancy(0), "", "", "", "", kernel.counts.total(), *[""] * len(COUNTED))
    pairs = [(main.counts.total(), kernel.counts.total())]
    pairs += [(main.counts[opcode], kernel.counts[opcode]) for opcode in COUNTED]
    line = sum((loop.counts - loop.passed).total() for loop in kernel.copies)
    bringing = (main.own.total(), _decimal(copy_of(kernel)), line)
    counted = (f"{inside} / {in_all}" for inside, in_all in pairs)
    return (*fixed, occupancy(good), occupancy(most), *bringing, *counted)


def copy_of(kernel: Kernel) -> Fraction:
    """Instructions for each cp.async of the main loop, in the loop that takes the most for one."""
    each = (Fraction(loop.passed.total(), loop.passed[COPY]) for loop in kernel.copies)
    return max(each, default=Fraction(0))


def launch_rows() -> Iterator[tuple[object, ...]]:
    """What the main loops of 3x3 kernels are launched with, as the emulated GPU of tests/emulator counts."""
    import main_loops  # needs torch and a C++ compiler

    dense = COMMON_FILTERS * COMMON_POINTS * 9 // (16 * 8)
    for operator, channels in main_loops.MAIN_LOOPS:
        for symmetry in ("h", "hv"):
            for dtype, name in (("bf16", "half types"), ("tf32", "tf32")):
                loop = main_loops.main_loop(operator, symmetry, dtype, channels)
                tensor_core = dense // (1 << len(symmetry))
                kernel = f"`{main_loops.short(loop.kernel, 'T')}`"
                memory = f"{loop.shared_bytes / 1024:.1f} KiB"
                copies = f"{loop.copies * tensor_core:.1f}"
                yield (operator, symmetry, "3x3", name, channels, kernel, loop.warps, memory, copies)


def page(all_kernels: Sequence[Kernel]) -> str:
    """The text of docs/cuda-kernels.md."""
    kernels = by_architecture(all_kernels)
    spilling = sum(kernel.spills > 0 for kernel in all_kernels)
    good, most = (budget // 1024 for budget in shared_budgets())
    text = _wrapped(f"""# The CUDA kernels' machine code

Written by `make cuda-kernels` (`benchmarks/machine_code.py`) from the code that
nvcc {_compilers(all_kernels)} makes. CI compiles the kernels for every architecture again and compares.
Nothing here was measured on a GPU.

- Kernels instantiated: {instances(all_kernels)} for each architecture, of which
  {len(next(iter(kernels.values())))} are different; the limit is {KERNELS}.
- Kernels that spill registers to local memory, on {", ".join(kernels)}: {spilling}.

## {STEPS}

Instructions of a warp in the loops over steps, down to those that feed the tensor cores, on the same work for
all:
{COMMON_FILTERS} filters (their mirror images counted) by {COMMON_POINTS} points of the result (in wgrad:
by {COMMON_POINTS} channels of the source), by one step of the sum, which is 16 channels (in wgrad: points)
of a half type and 8 of tf32. Each of those loops is in the machine code once or, unrolled, several times
over, and is counted as often as a step goes through it, with three taps along each axis. What brings a tile
to shared memory is not in it.

- HMMA: `mma.sync`. "of dense": their share of what as many plain filters take.
- LDSM: `ldmatrix`. LDS: other loads from shared memory, of up to 16 bytes a lane.
- others: everything else in those loops, which is folding and counting.
- "strips": the kernel for columns of eight points, which loads each row of the source once for all taps that
  read it; "of seven and one": where the eighth lies elsewhere (csrc/cuda/strips.h).
- "strided": the kernel for what is not three taps along two axes at stride 1, which loads all taps of every
  point; without, the one that keeps the taps of the points before.
- for: the compute capabilities.
""")
    text += f"\n{tables.markdown(STEP_HEADER, step_rows(kernels), left=4)}\n"
    text += _wrapped(f"""## {LAUNCHES}

Of the emulated GPU of `tests/emulator` with the multiprocessors of an A100, on the layers of the bars of
[performance-model.md](performance-model.md): maps of 16x16 that fill it, of so many channels of the source.

- shared memory: of a block, that its launch asks for.
- LDGSTS: `cp.async` of a warp, 16 bytes a lane, in the same step as above.
""")
    text += f"\n{tables.markdown(LAUNCH_HEADER, list(launch_rows()), left=4)}\n"
    text += _wrapped(f"""## Kernel by kernel

- spills: loads and stores of local memory, anywhere in the code.
- static: bytes of shared memory of a block, besides those that its launch asks for. Only the kernels with a
  main loop ask for any: up to {good} KiB where a tile fits that, and up to {most} KiB otherwise.
- SM runs: blocks x warps that a multiprocessor has room for at a time, as registers, threads and shared
  memory ({good} KiB a block where a launch asks for any) allow by `cuda_occupancy.h`.
  at most: the same with {most} KiB.
- a stage: instructions of the loop over stages itself, without the loops in it; every branch counts.
- a copy: instructions for each `cp.async` in the loops that bring tiles to shared memory, of the loop that
  takes the most: what every pass goes through, and what stands on every way to a `cp.async`.
- a line: the others of those loops; in wgrad, what the beginning of a line of points takes.
- instructions, and the columns after it: in the main loop / in all; each instruction of the code once,
  however often it runs. The main loop goes through the stages of the sum. STS: stores to shared memory;
  LDGSTS: `cp.async`.
""")
    for architecture, of_it in kernels.items():
        rows = [kernel_row(kernel) for _, kernel in sorted(of_it.items())]
        text += f"\n### {architecture}\n\n{tables.markdown(KERNEL_HEADER, rows)}"
    return text


def _wrapped(text: str) -> str:
    """The text with its paragraphs and list items filled to the width of the page."""
    filled = ""
    for part in re.split(r"\n\n|\n(?=- )", text.strip()):
        item = part.startswith("- ")
        gap = "\n" if item and filled.rsplit("\n", 2)[-2].startswith(("- ", "  ")) else "\n\n"
        lines = textwrap.fill(" ".join(part.split()), 118, subsequent_indent="  " if item else "")
        filled = f"{filled.rstrip()}{gap}{lines}\n" if filled else f"{lines}\n"
    return filled


def _compilers(kernels: Iterable[Kernel]) -> str:
    return ", ".join(sorted({kernel.compiler for kernel in kernels}))


# The page, read again


def compiler_of(text: str) -> str:
    """The version of nvcc that the page is about."""
    found = re.search(r"that nvcc ([\d., ]*\d)\s", text)
    return found[1] if found else "of no known version"


def read_page(text: str) -> dict[str, list[dict[str, str]]]:
    """The rows of the page's tables: by architecture, such as ``"8.0"``, and, under `STEPS`, the steps."""
    found: dict[str, list[dict[str, str]]] = {}
    title, header = "", None
    for line in text.splitlines():
        if line.startswith("#"):
            title, header = line.lstrip("# "), None
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if header is None:
                header = cells
            elif not set("".join(cells)) <= set("-: "):
                found.setdefault(title, []).append(dict(zip(header, cells, strict=True)))
    return found


def facts_of(text: str, architectures: Sequence[str]) -> dict[str, dict[str, str]]:
    """The cells of every row about some architectures, by what the row is about."""
    facts = {}
    for title, rows in read_page(text).items():
        for cells in rows:
            named = {STEPS: cells.pop("for", "").split(", "), LAUNCHES: architectures[:1]}.get(title, [title])
            keys = {STEPS: STEP_HEADER[:4], LAUNCHES: LAUNCH_HEADER[:5]}.get(title, KERNEL_HEADER[:1])
            subject = " ".join(cells.pop(key) for key in keys)
            facts.update({f"{name} {subject}": cells for name in named if name in architectures})
    return facts


def differences(committed: str, fresh: str, architectures: Sequence[str]) -> list[str]:
    """What was and what is, a line for every row that differs; empty if none does."""
    before, after = facts_of(committed, architectures), facts_of(fresh, architectures)
    lines = []
    for subject in [*before, *(new for new in after if new not in before)]:
        if subject not in after:
            lines.append(f"{subject}: is gone")
        elif subject not in before:
            lines.append(f"{subject}: is new")
        else:
            was, now = before[subject], after[subject]
            changed = [f"{key} {was.get(key)} -> {now[key]}" for key in now if was.get(key) != now[key]]
            lines += [f"{subject}: {', '.join(changed)}"] if changed else []
    return lines


def check(committed: str, fresh: str, architectures: Sequence[str]) -> bool:
    """Compares the pages, prints what comes out of it, and tells whether that is well."""
    name = PAGE.relative_to(ROOT)
    if compiler_of(committed) != compiler_of(fresh):
        print(
            f"*** NOT COMPARED: {name} is about nvcc {compiler_of(committed)}, and these kernels were "
            f"compiled by nvcc {compiler_of(fresh)} ***"
        )
        return True
    changes = differences(committed, fresh, architectures)
    if changes:
        print(f"{name} -> what was built; if that is meant, run make cuda-kernels and commit the page:")
        print("\n".join(changes))
        return False
    print(f"{name} says what was built for {', '.join(architectures)}")
    return True


def resources_are_good(kernels: Sequence[Kernel]) -> bool:
    """Prints how many kernels there are and which use local memory; tells whether both are as they should."""
    local = [kernel for kernel in kernels if kernel.spills or kernel.stack]
    for kernel in local:
        print(
            f"{kernel.architecture} {kernel.name}: expected no local memory, got {kernel.spills} spills and "
            f"{kernel.stack} bytes of stack"
        )
    count, architectures = instances(kernels), ", ".join(by_architecture(kernels))
    print(f"{count} kernels for each of {architectures}, {len(local)} with spills; the limit is {KERNELS}")
    return count < KERNELS and not local


def main(argv: Sequence[str] | None = None) -> int:
    name = PAGE.relative_to(ROOT)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("library", nargs="?", type=Path, default=LIBRARY, help="default: built in place")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help=f"compare with {name}")
    action.add_argument("--write", action="store_true", help=f"write {name}")
    arguments = parser.parse_args(argv)
    try:
        kernels = disassembly.read(arguments.library)
        good = resources_are_good(kernels)
        fresh = page(kernels)
    except (disassembly.MissingToolError, RuntimeError, ValueError) as error:
        sys.exit(f"benchmarks/machine_code.py: {error}")
    if arguments.write:
        PAGE.write_text(fresh, encoding="utf-8")
        print(f"wrote {name}")
    elif arguments.check:
        good = check(PAGE.read_text(encoding="utf-8"), fresh, list(by_architecture(kernels))) and good
    else:
        print(fresh)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
