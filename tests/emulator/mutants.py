"""Deliberate bugs in csrc/cuda, all in one build of the emulator's module: a switch says which one is there.

Bugs are made by pattern: a barrier or a commit left out, a wait that lets one group more be under way, a sign
turned, a bound moved by one, an index that is added instead of subtracted or taken twice; so a new line has
its bugs without being listed. `WRITTEN` adds what no pattern makes. `find()` gives all, `build()` compiles
them, and emulator/sweep.py runs them, for tests/test_cuda_kernels_mutants.py.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from . import build as emulator

CUDA = emulator.ROOT / "csrc" / "cuda"
# What kernels are made of. Not arch.cuh: of it the emulator compiles types alone.
SWEPT = sorted(
    {
        path
        for pattern in ("*kernel*.cuh", "*_fetch.cuh", "*_iterator.cuh", "*elements.cuh", "*geometry.h")
        for path in CUDA.glob(pattern)
    }
    | {CUDA / name for name in ("epilogue.cuh", "folded_weights.cuh", "strips.h", "tap_orbits.h")}
)

SWITCH = """
extern "C" {
inline int symconv_mutant = -1;  // the bug that is there
inline unsigned char symconv_reached[8192];
}
inline int mutant(int number) {
  symconv_reached[number] = 1;
  return number == symconv_mutant;
}
"""


@dataclasses.dataclass(frozen=True)
class Mutant:
    file: str  # under csrc
    name: str  # of the line that it changes, with the operator or the call in brackets
    edits: tuple[tuple[int, int, str], ...]  # start, end and what comes in their place; {} is the switch
    races: bool = False  # whether it depends on the schedule

    def __str__(self) -> str:
        return f"{Path(self.file).name}: {self.name}"


# (pattern, what replaces it), and what comes behind an operator: `+ 1` on its right moves a bound by one.
CALLS = [
    (re.compile(r"\b((?:block|warp)_barrier\(\)|copy_commit\(\));"), r"({} ? void() : \1);"),
    (re.compile(r"\bcopy_wait<0>\(\);"), "({} ? copy_wait<1>() : copy_wait<0>());"),
    (re.compile(r"\bcopy_wait<1>\(\);"), "({} ? copy_wait<2>() : copy_wait<1>());"),
    (re.compile(r"\bsign\("), "(1 - 2 * {}) * sign("),
]
BEHIND = {
    **dict.fromkeys(("<", ">=", "==", "!="), "{} + "),
    **dict.fromkeys((">", "<="), "-{} + "),
    **dict.fromkeys(("+", "-"), "(1 - 2 * {}) * "),
    "*": "(1 + {}) * ",
    "/": "(1 + {}) / ",
}
CONSTANT = r"k[A-Z]|Kernel::k|\d"
OPERATOR = re.compile(r" ([<>]=?|[=!]=|[-+*/%]) ")

# What no pattern makes: (file, what stands there once, what is there instead).
WRITTEN = [
    # what only one dtype compiles
    ("cuda/tile_elements.cuh", "One | 0x80008000u", "One"),
    (
        "cuda/tile_elements.cuh",
        "fma2<T>(b.word, One, a.word)",
        "fma2<T>(b.word, std::is_same_v<T, BFloat16> ? 0x3f003f00u : One, a.word)",
    ),
    ("cuda/tile_elements.cuh", "kScale<Axes> | 0x80008000u", "kScale<Axes>"),
    (
        "cuda/tile_elements.cuh",
        "fms2<T>(first.word, kScale<Axes>, scaled)",
        "fma2<T>(first.word, kScale<Axes>, scaled)",
    ),
    ("cuda/tile_elements.cuh", "value<Axes>(first.word).word", "first.word"),
    ("cuda/tile_elements.cuh", "value<Axes>(second.word).word", "second.word"),
    ("cuda/tile_elements.cuh", "word_to_float(raw ^ factor)", "word_to_float(raw)"),
    ("cuda/tile_elements.cuh", "sign < 0 ? 0x80000000u : 0u", "0u"),
    ("cuda/tile_elements.cuh", "sign < 0 ? 0x80008000u : 0u", "0u"),
    ("cuda/wgrad_kernel.cuh", "Axes >= 2 && row == 2 ? 2 : 0", "Axes >= 2 && row == 1 ? 2 : 0"),
    # indices of 32 bits
    ("cuda/elements.cuh", "n * strides[0]", "static_cast<int32_t>(n * strides[0])"),
    # sizes and places that the host works out
    ("cuda/tile_geometry.cu", "(int64_t{1} << g.log2[1 + d]) + t / s", "(int64_t{1} << g.log2[1 + d])"),
    ("cuda/tile_geometry.cu", "one_phase ? 1 : s", "1"),
    ("cuda/tile_geometry.cu", "extents[d] + (int64_t{1} << logs[d]) - 1", "extents[d]"),
    ("cuda/strips.cu", "(g.height + run - 1) / run", "g.height / run"),
    ("cuda/strips.cu", "(g.lines + run) / (run + 1) * run", "g.lines / (run + 1) * run"),
    ("cuda/strips.cu", "g.width + skip", "g.width"),
    ("cuda/strips.cu", "(last_start + strips - 1) / g.width * skip + g.reach", "g.reach"),
    (
        "cuda/tied_result.cu",
        "plan.tile.padded_positions() * 4 + stages * plan.stage_bytes",
        "stages * plan.stage_bytes",
    ),
    ("cuda/tied_result.cu", "plan.patch_bytes + weights", "plan.patch_bytes"),
    (
        "cuda/tied_result.cu",
        "positions * 4 + plan.stages * plan.stage_bytes",
        "plan.stages * plan.stage_bytes",
    ),
    ("cuda/tied_result.cu", "block.first * c.weight.result", "0"),
    ("cuda/tied_result.cu", "subset_index(block.mask, reflection(block.mask, copy))", "copy"),
    ("cuda/tied_result.cu", "plan.tile.tap_offset(t.tap, t.parity)", "plan.tile.tap_offset(t.tap, 0)"),
    ("cuda/tied_result.cu", "divide_up(fold.words, kFoldThreads)", "fold.words / kFoldThreads"),
    ("cuda/tied_source.cu", "tables + q.tile.padded_positions() * 4", "q.tile.padded_positions() * 4"),
    (
        "cuda/tied_source.cu",
        "positions * 4 + static_cast<int64_t>(q.stages) * q.stage_bytes",
        "static_cast<int64_t>(q.stages) * q.stage_bytes",
    ),
    ("cuda/tied_source.cu", "planes.first[b] + s * planes.width[b]", "planes.first[b]"),
    ("cuda/tied_source.cu", "plan.weight_words + fold.first[fold.parts]", "plan.weight_words"),
    ("cuda/tied_source.cu", "channel_warps * q.weight_bytes", "q.weight_bytes"),
    ("cuda/tied_source.cu", "1.0f / slot_scale(dtype, axis_count(block.mask))", "1.0f"),
    ("cuda/tied_source.cu", "sign(p.parity, kH)", "sign(p.parity, kV)"),
    ("cuda/tied_source.cu", "kStripTaps * single + i", "single + i"),
    ("cuda/tied_source.cu", "(taps - 1 - i) * step", "(taps - i) * step"),
    ("cuda/wgrad.cu", "kWgradStages * stage", "stage"),
    ("cuda/wgrad.cu", "1 << a", "1"),
    ("cuda/wgrad.cu", "divide_up(steps, plan.splits)", "steps / plan.splits"),
    (
        "cuda/wgrad.cu",
        "divide_up(block.orbits * element_size(dtype), 16)",
        "block.orbits * element_size(dtype) / 16",
    ),
    ("cuda/wgrad.cu", "plan.splits * plan.arguments.split_size", "plan.arguments.split_size"),
    ("cuda/wgrad.cu", "block.first * c.weight.result", "0"),
    ("cuda/wgrad.cu", "1.0f / static_cast<float>(block.size())", "1.0f"),
    ("cuda/wgrad.cu", "divide_up(s.numbers, kReduceThreads)", "s.numbers / kReduceThreads"),
    ("cuda/pack.cu", "shape.groups * view.group", "view.group"),
    ("cuda/pack.cu", "divide_up(pack_shape.vectors, kPackThreads)", "pack_shape.vectors / kPackThreads"),
    ("cuda/slots.cu", "divide_up(s.runs, kSlotsThreads)", "s.runs / kSlotsThreads"),
    ("cuda/operators.cu", "c.first[d] * result.strides[2 + d]", "0"),
    ("cuda/operators.cu", "c.step[d]", "1"),
    ("cuda/convolution.cu", "r.tap_first * weight.strides[2 + d]", "0"),
    ("common/residues.h", "(r.taps - 1) * dilation - reach / s", "(r.taps - 1) * dilation"),
]


def _blank(text: str, spans: Iterator[tuple[int, int]]) -> str:
    for start, end in spans:
        text = text[:start] + re.sub(r"[^\n]", "~", text[start:end]) + text[end:]
    return text


def _matching(text: str, opening: int) -> int:
    depth = 0
    for i in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return i
    raise ValueError("a brace that is not closed")


def _code(text: str) -> str:
    """The text without what is no code at run time, position by position."""
    for pattern in (
        r"//[^\n]*|\"[^\"\n]*\"",
        r"^[ ]*#(?:.*\\\n)*.*",
        r"(?<=\w)<[^<>;{}]*>",  # template arguments
        r"\[k\w+ [-+] \d+\]",  # the size of an array
    ):
        text = _blank(text, (m.span() for m in re.finditer(pattern, text, re.MULTILINE)))
    constant = r"(?<!if )constexpr[^;{}()]*\([^;{}]*\)\s*(?:const )?\{"
    bodies = ((m.start(), _matching(text, m.end() - 1)) for m in re.finditer(constant, text))
    text = _blank(text, bodies)
    statements = re.finditer(r"[^;{}]+", text)
    fixed = r"\bconstexpr\b|\bstatic_assert\b|^\s*template\b|\busing\b|\balignas\b|\b__launch_bounds__\b"
    return _blank(text, (m.span() for m in statements if re.search(fixed, m[0], re.MULTILINE)))


def _in_file(path: Path) -> Iterator[Mutant]:
    text = path.read_text()
    code = _code(text)
    file = f"{path.parent.name}/{path.name}"
    conditions = [m.span(1) for m in re.finditer(r"\bfor \([^;{}]*;([^;{}]*);", code)]

    def line(start: int, end: int) -> tuple[str, str]:
        """What stands on the line before and behind, or the next of it."""
        before, behind = text[text.rfind("\n", 0, start) + 1 : start], text[end : text.find("\n", end)]
        return before.lstrip()[-34:], behind[:22]

    for pattern, replacement in CALLS:
        for m in pattern.finditer(text):
            if code[m.start()] != "~":
                before, behind = line(*m.span())
                edit = (*m.span(), m.expand(replacement))
                yield Mutant(file, f"{before}[{m[0]}]{behind}", (edit,), races="sign" not in m[0])
    for m in OPERATOR.finditer(code):
        before, behind = line(*m.span())
        edit = (m.end(), m.end(), BEHIND.get(m[1], ""))
        if m[1] == "%":
            edit = (m.start(), m.start(), " * (1 + {})")
        in_condition = any(start <= m.start() < end for start, end in conditions)
        if m[1] == "<" and in_condition and re.match(CONSTANT, behind):
            edit = (m.end(), m.end(), "-{} + ")  # a loop over registers: once less, not once more
        yield Mutant(file, f"{before} [{m[1]}] {behind}", (edit,))


def _written() -> Iterator[Mutant]:
    for file, old, new in WRITTEN:
        text = (emulator.ROOT / "csrc" / file).read_text()
        if text.count(old) != 1:
            raise ValueError(f"{file} holds {text.count(old)} times {old!r}, which a mutant changes once")
        start, end = text.index(old), text.index(old) + len(old)
        yield Mutant(file, f"{old} -> {new}", ((start, start, f"({{}} ? {new} : "), (end, end, ")")))


def find() -> list[Mutant]:
    """All of them; what a file has more than once is numbered."""
    seen: Counter[str] = Counter()
    found = []
    for mutant in [*(mutant for path in SWEPT for mutant in _in_file(path)), *_written()]:
        seen[str(mutant)] += 1
        more = f" #{seen[str(mutant)]}" if seen[str(mutant)] > 1 else ""
        found.append(dataclasses.replace(mutant, name=mutant.name + more))
    return found


def build(mutants: list[Mutant], edits: list[tuple[str, str, str]]) -> Path:
    """The module with all of the mutants, and with some changes (file, old, new) that are always there."""
    emulator.build()
    root = emulator.BUILD / "mutants" / "all"
    for part in ("common", "cpu", "cuda"):
        shutil.copytree(emulator.ROOT / "csrc" / part, root / "csrc" / part, dirs_exist_ok=True)
    in_files: dict[str, list[tuple[int, int, str]]] = {}
    for number, mutant in enumerate(mutants):
        for start, end, new in mutant.edits:
            in_files.setdefault(mutant.file, []).append(
                (start, end, new.replace("{}", f"::mutant({number})"))
            )
    for file, of_file in in_files.items():
        text = (root / "csrc" / file).read_text()
        for start, end, new in sorted(of_file, key=lambda edit: edit[:2], reverse=True):
            text = text[:start] + new + text[end:]
        (root / "csrc" / file).write_text(text)
    for file, old, new in edits:
        emulator.change(root / "csrc" / file, old, new)
    header = root / "csrc" / "common" / "host_device.h"  # which everything includes
    header.write_text(header.read_text() + SWITCH)
    return emulator.link_changed(root)
