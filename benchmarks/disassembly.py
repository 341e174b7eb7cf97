"""The machine code of the CUDA kernels in a built extension: its instructions, loops and resources.

``read(library)`` gives a :class:`Kernel` for every kernel and architecture, by way of cuobjdump and nvdisasm
(of a CUDA toolkit, or of the packages in requirements/cuda.txt). The counts are those of the code as it
stands, every instruction once, however often it runs.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

INSTRUCTION_BYTES = 16
TENSOR_CORE, COPY = "HMMA", "LDGSTS"


class MissingToolError(RuntimeError):
    """cuobjdump, nvdisasm or c++filt is not there."""


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop of a kernel.

    Attributes:
        depth: 0 for a loop that is in no other.
        counts: its instructions by opcode (up to the first dot), those of inner loops included.
        own: those of no inner loop.
        is_product: it has tensor-core instructions, and no loop within it has.
        passed: those that every pass goes through, and those on every way to a cp.async.
        around: its own, without what has tensor-core instructions: the last passes of an unrolled loop.
    """

    depth: int
    counts: Counter[str]
    own: Counter[str]
    is_product: bool
    passed: Counter[str] = dataclasses.field(default_factory=Counter)
    around: Counter[str] = dataclasses.field(default_factory=Counter)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """The machine code of one kernel for one architecture.

    Attributes:
        name: as in the source, such as ``tied_result_strips_kernel<BFloat16, 8>``.
        architecture: such as ``"8.0"``.
        compiler: the version of the assembler that made it, such as ``"13.0.88"``.
        registers: of a thread.
        threads: the most that a block may have.
        static_shared: bytes of shared memory of a block, without those that a launch asks for.
        stack: bytes of local memory of a thread.
        counts: all instructions by opcode.
        loops: in the order of their first instruction.
    """

    name: str
    architecture: str
    compiler: str
    registers: int
    threads: int
    static_shared: int
    stack: int
    counts: Counter[str]
    loops: tuple[Loop, ...]

    @property
    def spills(self) -> int:
        """Accesses to local memory, which is where registers go that do not fit."""
        return self.counts["LDL"] + self.counts["STL"]

    @property
    def main_loop(self) -> Loop | None:
        """The outermost loop with tensor-core instructions: the stages. None where there are none."""
        return next((loop for loop in self.loops if loop.counts[TENSOR_CORE]), None)

    @property
    def within_main_loop(self) -> list[Loop]:
        """The loops in it, at any depth."""
        if self.main_loop is None:
            return []
        after = self.loops[self.loops.index(self.main_loop) + 1 :]
        return list(itertools.takewhile(lambda loop: loop.depth > 0, after))

    @property
    def copies(self) -> list[Loop]:
        """The loops of the main loop that bring tiles to shared memory."""
        return [
            x for x in self.within_main_loop if x.depth == 1 and x.counts[COPY] and not x.counts[TENSOR_CORE]
        ]

    @property
    def steps(self) -> list[Loop]:
        """The loops between the main loop and the products."""
        return [loop for loop in self.within_main_loop if loop.counts[TENSOR_CORE] and not loop.is_product]

    @property
    def products(self) -> list[Loop]:
        """The loops that feed the tensor cores."""
        return [loop for loop in self.loops if loop.is_product]


def read(library: Path, architectures: Sequence[str] | None = None) -> list[Kernel]:
    """Every kernel in an extension or object file, for all its architectures or some.

    Raises:
        MissingToolError: a tool that this needs is not there; the message says where it comes from.
        ValueError: the file holds no CUDA kernels.
    """
    cuobjdump, nvdisasm = tool("cuobjdump"), tool("nvdisasm")
    kernels: list[Kernel] = []
    with tempfile.TemporaryDirectory() as folder:
        _output([cuobjdump, "-xelf", "all", str(Path(library).resolve())], folder)
        for cubin in sorted(Path(folder).glob("*.cubin"), key=_number):
            architecture = _architecture(cubin)
            if architectures is None or architecture in architectures:
                kernels += _read_cubin(cubin, architecture, cuobjdump, nvdisasm)
    if not kernels:
        raise ValueError(
            f"{library}: holds no CUDA kernels{' for those architectures' if architectures else ''}"
        )
    names = _demangled([kernel.name for kernel in kernels])
    return [dataclasses.replace(k, name=name) for k, name in zip(kernels, names, strict=True)]


def tool(name: str) -> str:
    """The command: on the PATH, in CUDA_HOME, or in the packages of this Python."""
    places = [Path(os.environ[home]) / "bin" for home in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(home)]
    places += sorted(Path(sysconfig.get_path("platlib"), "nvidia").glob("cu[0-9]*/bin"))
    for place in places:
        if (place / name).is_file():
            if not os.access(place / name, os.X_OK):  # as some packages come
                (place / name).chmod(0o755)
            return str(place / name)
    found = shutil.which(name)
    if found is None:
        raise MissingToolError(
            f"{name} is not there; pip install -r requirements/cuda.txt, or a CUDA toolkit"
        )
    return found


def _output(command: Sequence[str], folder: str | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _number(cubin: Path) -> int:
    return int(re.findall(r"\.(\d+)\.sm_", cubin.name)[-1])


def _architecture(cubin: Path) -> str:
    number = re.findall(r"sm_(\d+)", cubin.name)[-1]
    return f"{number[:-1]}.{number[-1]}"


class _Resources(NamedTuple):
    registers: int
    stack: int
    shared: int


def _read_cubin(cubin: Path, architecture: str, cuobjdump: str, nvdisasm: str) -> Iterator[Kernel]:
    usage = _output([cuobjdump, "-res-usage", str(cubin)])
    resources = {
        name: _Resources(*map(int, numbers))
        for name, *numbers in re.findall(
            r"Function (\S+):\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:\d+", usage
        )
    }
    if not resources:  # code of the host only
        return
    elf = _output([cuobjdump, "-elf", str(cubin)])
    threads = {
        name: int(most, 16)
        for name, most in re.findall(
            r"^\.nv\.info\.(\S+)\n(?:(?!^\.nv\.info).*\n)*?.*EIATTR_MAX_THREADS\n.*\n\s*Value:\s*0x([0-9a-f]+)",
            elf,
            re.MULTILINE,
        )
    }
    about, functions = json.loads(_output([nvdisasm, "-json", "-c", str(cubin)]))
    version = re.search(r"V([\d.]+)", about[".note.nv.tkinfo"]["tki_toolVersion"])
    for function in functions:
        name = function["function-name"]
        if name not in resources:
            continue
        instructions = function["sass-instructions"]
        yield Kernel(
            name=name,
            architecture=architecture,
            compiler=version[1] if version else "unknown",
            registers=resources[name].registers,
            threads=threads[name],
            # From 9.0 up, a kernel that uses shared memory has the system's own 1024 bytes counted in.
            static_shared=max(0, resources[name].shared - (1024 if float(architecture) >= 9 else 0)),
            stack=resources[name].stack,
            counts=_count(instructions),
            loops=tuple(find_loops(instructions)),
        )


def _demangled(names: Sequence[str]) -> list[str]:
    """``_ZN7symconv4cuda...`` as the source has it, without namespaces, result and parameters."""
    filter_ = shutil.which("c++filt")
    if filter_ is None:
        raise MissingToolError("c++filt is not there; install binutils, which a C++ compiler brings")
    done = subprocess.run([filter_, *names], capture_output=True, text=True, check=True)
    return [_short(line) for line in done.stdout.splitlines()]


def _short(name: str) -> str:
    name = re.sub(r"\w+::", "", name.removeprefix("void "))
    return name[: _end_of_name(name)]


def _end_of_name(name: str) -> int:
    depth = 0
    for index, letter in enumerate(name):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            return index
    return len(name)


Instruction = dict[str, Any]


def _opcode(instruction: Instruction) -> str:
    return str(instruction["opcode"]).split(".")[0]


def _count(instructions: Iterable[Instruction]) -> Counter[str]:
    """By opcode; what only fills up the code's last bytes is left out."""
    return Counter(opcode for opcode in map(_opcode, instructions) if opcode != "NOP")


def find_loops(instructions: Sequence[Instruction]) -> Iterator[Loop]:
    """The natural loops of the control-flow graph, in the order of their first instruction."""
    blocks, successors = _graph(instructions)
    dominator = _dominator_tree(successors)
    bodies = _natural_loops(successors, dominator)

    def count(chosen: Iterable[int]) -> Counter[str]:
        total: Counter[str] = Counter()
        for block in chosen:
            total.update(_count(instructions[block : blocks[block]]))
        return total

    for header in sorted(bodies, key=lambda header: (min(bodies[header]), -len(bodies[header]))):
        body = bodies[header]
        own = body.difference(*(other for other in bodies.values() if other < body))
        ends = [block for block in body if header in successors[block]]
        holds_copies = [block for block in body if count([block])[COPY]]
        counts, inner = count(body), [other for other in bodies.values() if other < body]
        yield Loop(
            depth=sum(body < other for other in bodies.values()),
            counts=counts,
            own=count(own),
            around=count(block for block in own if not count([block])[TENSOR_CORE]),
            is_product=counts[TENSOR_CORE] > 0 and not any(count(other)[TENSOR_CORE] for other in inner),
            passed=count(
                block
                for block in body
                if all(_dominates(dominator, block, end) for end in ends)
                or any(_dominates(dominator, block, other) for other in holds_copies)
            ),
        )


def _graph(instructions: Sequence[Instruction]) -> tuple[dict[int, int], dict[int, list[int]]]:
    """Basic blocks: the first instruction of each, with its end, and with the blocks that may follow it."""
    starts, after = {0}, {}
    for index, instruction in enumerate(instructions):
        opcode, always = _opcode(instruction), "predicate" not in instruction
        operands = str(instruction.get("operands", ""))
        if opcode in ("BRA", "JMP") or (opcode == "CALL" and not always):
            # A call under a predicate is how the compiler leaves a loop; one that returns has none.
            target = int(re.findall(r"0x([0-9a-f]+)", operands)[-1], 16) // INSTRUCTION_BYTES
            always = always and operands.startswith("0x")
            after[index] = [target] if always else [target, index + 1]
        elif opcode in ("EXIT", "RET", "BRX", "KILL"):
            after[index] = [] if always else [index + 1]
        else:
            continue
        starts.update([*after[index], index + 1])
    ordered = sorted(start for start in starts if start < len(instructions))
    blocks = dict(zip(ordered, [*ordered[1:], len(instructions)], strict=True))
    successors = {
        start: [block for block in after.get(end - 1, [end]) if block in blocks]
        for start, end in blocks.items()
    }
    return blocks, successors


def _predecessors(successors: dict[int, list[int]], order: Iterable[int]) -> dict[int, list[int]]:
    predecessors: dict[int, list[int]] = {block: [] for block in order}
    for block in predecessors:
        for successor in successors[block]:
            predecessors[successor].append(block)
    return predecessors


def _dominator_tree(successors: dict[int, list[int]]) -> dict[int, int]:
    """The immediate dominator of every block that can be reached."""
    order = _reverse_postorder(successors)
    position = {block: index for index, block in enumerate(order)}
    return _immediate_dominators(order, position, _predecessors(successors, order))


def _natural_loops(successors: dict[int, list[int]], dominator: dict[int, int]) -> dict[int, set[int]]:
    """The blocks of every natural loop, by its header: all that reach a back edge without passing it."""
    order = list(dominator)
    predecessors = _predecessors(successors, order)
    bodies: dict[int, set[int]] = {}
    for block in order:
        for header in successors[block]:
            if not _dominates(dominator, header, block):
                continue
            body = bodies.setdefault(header, {header})
            waiting = [block]
            while waiting:
                member = waiting.pop()
                if member not in body:
                    body.add(member)
                    waiting += predecessors[member]
    return bodies


def _reverse_postorder(successors: dict[int, list[int]]) -> list[int]:
    finished, seen, stack = [], {0}, [(0, iter(successors[0]))]
    while stack:
        block, rest = stack[-1]
        following = next((b for b in rest if b not in seen), None)
        if following is None:
            finished.append(block)
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(successors[following])))
    return finished[::-1]


def _immediate_dominators(
    order: list[int], position: dict[int, int], predecessors: dict[int, list[int]]
) -> dict[int, int]:
    """Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm" (2001)."""
    dominator = {order[0]: order[0]}

    def common(a: int, b: int) -> int:
        while a != b:
            while position[a] > position[b]:
                a = dominator[a]
            while position[b] > position[a]:
                b = dominator[b]
        return a

    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            known = [p for p in predecessors[block] if p in dominator]
            found = known[0]
            for other in known[1:]:
                found = common(found, other)
            if dominator.get(block) != found:
                dominator[block], changed = found, True
    return dominator


def _dominates(dominator: dict[int, int], above: int, below: int) -> bool:
    while below != above:
        if dominator[below] == below:
            return False
        below = dominator[below]
    return True
