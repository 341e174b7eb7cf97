"""The CPU micro-kernels of every instruction set against plain loops, and the choice between them.

tests/cpu_kernels holds a program that calls every kernel of one table on random problems, checks every
element that it writes, and puts each buffer next to a page that must not be touched. Here it is built, from
the same commands as the extension, and run for each table that this processor has. The NEON table is
cross-compiled and run by QEMU; on Debian: apt-get install g++-aarch64-linux-gnu qemu-user
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
from conftest import BUILD, compiler

ROOT = Path(__file__).parents[1]
CHECKS = Path(__file__).with_name("cpu_kernels")
PROBLEMS = 400  # random problems for each kernel and type
CROSS_COMPILER = "aarch64-linux-gnu-g++"
CROSS_ROOT = "/usr/aarch64-linux-gnu"
X86_TABLES = ("avx2", "avx512", "amx")
MATRIX_TABLES = ("matrix_twin", "amx")  # those with a matrix unit


def load_setup() -> ModuleType:
    """setup.py as a module: it knows how the kernels are compiled."""
    spec = importlib.util.spec_from_file_location("symconv_ext_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compile_object(source: Path, command: list[str], headers: bytes) -> Path:
    """The object file of ``source``, compiled again only when it, a header or the command has changed."""
    state = hashlib.sha256(repr(command).encode() + headers + source.read_bytes()).hexdigest()[:16]
    target = BUILD / "cpu_kernels" / f"{source.stem}-{state}.o"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        built = subprocess.run(
            [*command, str(source), "-o", str(partial)], capture_output=True, text=True, check=False
        )
        assert built.returncode == 0, f"{shlex.join(command)} {source}\n{built.stderr}"
        partial.rename(target)
    return target


def build(cxx: str, machine: str) -> tuple[Path, dict[str, Path]]:
    """The program for a machine, and the object files of the kernels by name of their source."""
    setup = load_setup()
    plan = setup.Build([cxx], setup.toolchain.find_torch(), None, [])
    with mock.patch("platform.machine", return_value=machine):
        commands = {
            source: command
            for source, command in plan.compile_commands()
            if source.parent.name == "isa" or source == ROOT / "csrc" / "cpu" / "capability.cpp"
        }
    for source in CHECKS.glob("*.cpp"):
        commands[source] = [cxx, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-c"]
    folders = (ROOT / "csrc" / "common", ROOT / "csrc" / "cpu", CHECKS)
    headers = b"".join(path.read_bytes() for folder in folders for path in sorted(folder.rglob("*.h")))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        objects = list(
            pool.map(lambda source: compile_object(source, commands[source], headers), sorted(commands))
        )
    state = hashlib.sha256(repr((cxx, objects)).encode()).hexdigest()[:16]
    program = BUILD / "cpu_kernels" / f"cpu_kernels-{machine}-{state}"
    if not program.exists():
        partial = program.with_suffix(f".{os.getpid()}")
        subprocess.run([cxx, *map(str, objects), "-o", str(partial)], check=True)
        partial.rename(program)
    isa = {
        source.stem: target
        for source, target in zip(sorted(commands), objects, strict=True)
        if source.parent.name == "isa"
    }
    return program, isa


@pytest.fixture(scope="module")
def built() -> tuple[Path, dict[str, Path]]:
    cxx = compiler()
    if cxx is None:
        pytest.skip("no C++ compiler here")
    return build(cxx, platform.machine())


def run(*command: str | Path, capability: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "SYMCONV_CPU_CAPABILITY"}
    if capability is not None:
        environment["SYMCONV_CPU_CAPABILITY"] = capability
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=environment
    )


def available(program: Path) -> list[str]:
    listed = run(program, "capabilities")
    assert listed.returncode == 0, listed.stderr
    return listed.stdout.split()


def check(*command: str | Path) -> None:
    """Runs ``check`` of the program; every kernel and type must have been tried, and passed."""
    done = run(*command)
    table = command[command.index("check") + 1]
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {}
    for line in done.stdout.splitlines():
        subject, _, numbers = line.partition(":")
        counts[subject] = int(numbers.split()[0])
    kernels = ("stage", "stage_rows", "epilogue", "slots", "fold_weight", "unfold_weight")
    types = ("float32", "float64", "float16", "bfloat16")
    expected = {f"{t} {kernel}" for t in types for kernel in kernels}
    expected |= {f"{t} {kernel}" for t in types[:2] for kernel in ("gemm", "fold", "fold_points", "add_rows")}
    expected |= {f"{t} {way}" for t in types[2:] for way in ("widening", "narrowing")}
    expected |= {"float32 matrix"} if table in MATRIX_TABLES else set()
    assert set(counts) == expected | {"memory ahead"}
    assert all(count > 0 for count in counts.values()), counts


@pytest.mark.parametrize("table", ["default", "matrix_twin", *X86_TABLES, "neon"])
def test_kernels_match_plain_loops(built: tuple[Path, dict[str, Path]], table: str) -> None:
    program, _ = built
    if table not in available(program):
        pytest.skip(f"this processor has no {table}: it has {', '.join(available(program))}")
    for seed in (1, 2):
        check(program, "check", table, str(seed), str(PROBLEMS))


def test_neon_kernels_match_plain_loops_under_qemu() -> None:
    cxx, qemu = shutil.which(CROSS_COMPILER), shutil.which("qemu-aarch64")
    if cxx is None or qemu is None:
        missing = " and ".join(
            name for name, path in ((CROSS_COMPILER, cxx), ("qemu-aarch64", qemu)) if path is None
        )
        pytest.skip(
            f"NEON IS NOT TESTED: no {missing}; on Debian: apt-get install g++-aarch64-linux-gnu qemu-user"
        )
    program, isa = build(cxx, "aarch64")
    assert set(isa) == {"matrix_twin", "neon", "portable"}
    check(qemu, "-L", CROSS_ROOT, program, "check", "neon", "3", str(PROBLEMS // 4))


def test_the_program_refuses_what_it_cannot_check(built: tuple[Path, dict[str, Path]]) -> None:
    program, _ = built
    assert run(program).returncode == 2
    refused = run(program, "check", "mmx", "1", "1")
    assert refused.returncode == 2
    assert "expected one of reference, matrix_twin, default" in refused.stderr
    with pytest.raises(AssertionError):
        check(program, "check", "default", "1", "0")


def test_instruction_sets_share_no_symbols(built: tuple[Path, dict[str, Path]]) -> None:
    """The linker merges weak symbols by name: one compiled for AVX-512 would then run on every processor."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm here")
    _, isa = built
    assert "portable" in isa
    for name, target in isa.items():
        symbols = {}
        for line in run(nm, "-C", "--defined-only", "--extern-only", target).stdout.splitlines():
            _, kind, symbol = line.split(maxsplit=2)
            symbols[symbol] = kind
        assert set(symbols) == {f"symconv::cpu::isa::{name}_{t}" for t in ("float", "double")}
        assert not {kind for kind in symbols.values() if kind in "WVuwv"}


def test_the_best_capability_is_in_use(built: tuple[Path, dict[str, Path]]) -> None:
    program, _ = built
    names = available(program)
    assert names[:3] == ["reference", "matrix_twin", "default"]
    best = names[-1]
    assert run(program, "capability").stdout.split() == [best, best, best]
    assert run(program, "capability", capability="").stdout.split() == [best, best, best]


def test_the_environment_forces_a_lower_capability(built: tuple[Path, dict[str, Path]]) -> None:
    program, _ = built
    for name in available(program):
        kernels = "default" if name == "reference" else name
        assert run(program, "capability", capability=name).stdout.split() == [name, kernels, kernels]


def test_an_unknown_capability_is_an_error(built: tuple[Path, dict[str, Path]]) -> None:
    program, _ = built
    refused = run(program, "capability", capability="AVX2")
    assert refused.returncode == 2
    names = ", ".join(available(program))
    expected = (
        f"SYMCONV_CPU_CAPABILITY: expected one of {names}, which are those of this processor, got 'AVX2'"
    )
    assert refused.stderr.strip() == expected


FORWARD = """
import torch, symconv_ext
torch.manual_seed(0)
layer = symconv_ext.SymmetricConv2d(5, 22, 3, padding=1, symmetry={'h': 4, 'hv': 12})
x = torch.randn(2, 5, 9, 20, requires_grad=True)
results = []
for backend in ('native', 'torch'):
    with symconv_ext.backend(backend):
        y = layer(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, layer.weight])))
for native, oracle in zip(*results):
    assert (native - oracle).norm() < 1e-5 * oracle.norm(), (native - oracle).norm()
print('agrees')
"""


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("name", ["reference", "matrix_twin", "default", *X86_TABLES, "neon"])
def test_layers_run_on_every_capability(built: tuple[Path, dict[str, Path]], name: str) -> None:
    program, _ = built
    done = run(sys.executable, "-c", FORWARD, capability=name)
    if name in available(program):
        assert done.stdout.strip() == "agrees", done.stderr
    else:
        assert f"got '{name}'" in done.stderr
