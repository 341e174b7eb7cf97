"""Builds the extension symconv_ext/_C.abi3.so with ninja; all else about the package is in pyproject.toml.

One binary serves every torch from 2.10 up (LibTorch Stable ABI) and every CPython from 3.10 up (limited API).
The build reads the headers and links libtorch_cpu of a torch that is installed; it never imports it. Without
a C++ compiler the package is pure Python and computes with the `torch` backend.

Environment:
    SYMCONV_CUDA          auto (default): CUDA kernels if that torch is a CUDA build and a toolkit is found;
                          0: never; 1: always, and an error where no toolkit is found
    CUDA_HOME, CUDA_PATH  where the toolkit is; otherwise nvcc on the PATH says
    TORCH_CUDA_ARCH_LIST  GPU architectures, such as "8.0;9.0+PTX"; otherwise those of this machine's GPUs,
                          or, where there are none, a list for all (csrc/toolchain.py)
    CXX, CXXFLAGS, LDFLAGS, MAX_JOBS   as usual
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

if int(setuptools.__version__.split(".")[0]) < 77:
    sys.exit(
        f"symconv_ext: setuptools 77 or newer is needed to build, and this is {setuptools.__version__}; "
        "pip install --upgrade setuptools, or build without --no-build-isolation"
    )

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))

import toolchain  # noqa: E402
from toolchain import BuildError, Toolkit, Torch  # noqa: E402

# csrc/cpu/isa/NAME.cpp holds micro-kernels for one instruction set: the machines that it is for, and its
# flags, the lowest set first. (Which of them runs is decided at run time.) The warning that is left out comes
# from GCC's own avx512 headers.
_AVX512 = "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -Wno-maybe-uninitialized"
ISA_FLAGS = {
    "portable": ("", ""),
    "matrix_twin": ("", ""),
    "avx2": ("x86_64", "-mavx2 -mfma -mf16c"),
    "avx512": ("x86_64", _AVX512),
    "amx": ("x86_64", f"{_AVX512} -mavx512bf16 -mamx-tile -mamx-bf16"),
    "neon": ("aarch64", ""),
}


def isa_sources(folder: Path, machine: str) -> list[tuple[Path, list[str]]]:
    """The sources in csrc/cpu/isa that are for this machine (platform.machine()), with their flags."""
    unknown = {source.stem for source in folder.glob("*.cpp")} - set(ISA_FLAGS)
    if unknown:
        raise BuildError(f"csrc/cpu/isa: expected {', '.join(ISA_FLAGS)}, got {', '.join(sorted(unknown))}")
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    return [
        (folder / f"{name}.cpp", shlex.split(flags))
        for name, (target, flags) in ISA_FLAGS.items()
        if target in ("", machine)
    ]


class Build(NamedTuple):
    """All that decides about the commands."""

    compiler: list[str]
    torch: Torch
    toolkit: Toolkit | None
    architectures: list[str]

    def compile_commands(self) -> Iterator[tuple[Path, list[str]]]:
        """Every source, and the command that compiles it up to the input and output files."""
        csrc = ROOT / "csrc"
        extra = [*shlex.split(os.environ.get("CXXFLAGS", "")), "-c"]
        hidden = ["-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden"]
        base = [*self.compiler, "-O3", "-DNDEBUG", *hidden, "-Wall", "-Wextra"]
        # a * b + c may become one fused operation, whichever the compiler. And a loop that writes a zero or
        # two of padding is not worth a call of memset.
        kernels = [*base, "-std=c++17", "-ffp-contract=fast", "-fno-tree-loop-distribute-patterns"]
        # Vectors are written by hand. What the compiler would make of neighbouring scalars loads 16 or 32
        # bytes that were stored 8 at a time, and waits for every store before them; in the loops around the
        # kernels, whatever it does with vectors is of that kind.
        for source in sorted((csrc / "cpu").glob("*.cpp")):
            yield source, [*kernels, "-fno-tree-vectorize", *extra]
        kernels += ["-fno-tree-slp-vectorize"]

        binding = [*base, "-std=c++20", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
        binding += ["-DPy_LIMITED_API=0x030a0000", "-isystem", sysconfig.get_path("include")]
        binding += ["-isystem", str(self.torch.root / "include")]
        if self.toolkit is not None:
            binding += [f'-DSYMCONV_CUDA_ARCHITECTURES="{";".join(self.architectures)}"']
            binding += ["-isystem", str(self.toolkit.include)]
        for source in sorted((csrc / "torch").rglob("*.cpp")):
            if self.toolkit is not None or source.name != "cuda.cpp":
                yield source, [*binding, *extra]

        if self.toolkit is not None:
            nvcc = [str(self.toolkit.nvcc), "-O3", "-DNDEBUG", "-std=c++17"]
            nvcc += [f"-Xcompiler={','.join(hidden)}", "-isystem", str(self.toolkit.include)]
            nvcc += toolchain.architecture_flags(self.architectures)
            nvcc += ["-ccbin", self.compiler[0]] if os.environ.get("CXX") else []
            for source in sorted((csrc / "cuda").rglob("*.cu")):
                yield source, [*nvcc, "-c"]

        # Last, and from the lowest instruction set to the highest: of an inline function that several objects
        # hold, the linker keeps the first, which every machine that calls it can run.
        for source, flags in isa_sources(csrc / "cpu/isa", platform.machine()):
            yield source, [*kernels, *flags, *extra]

    def link_command(self) -> tuple[list[str], list[str]]:
        """What stands before and after the object files.

        Never -ltorch_cuda: the binary also loads in a CPU-only torch.
        """
        mac = sys.platform == "darwin"
        before = [*self.compiler, *(["-bundle", "-undefined", "dynamic_lookup"] if mac else ["-shared"])]
        after = [*shlex.split(os.environ.get("LDFLAGS", "")), f"-L{self.torch.root / 'lib'}", "-ltorch_cpu"]
        if self.toolkit is not None:
            after += [f"-L{self.toolkit.library}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
        return before, after if mac else [*after, f"-Wl,--version-script={ROOT / 'csrc/torch/exports.map'}"]

    def ninja_file(self, folder: Path, output: Path) -> str:
        """The text of build.ninja: every source to an object in ``folder``, and those to ``output``."""
        before, after = self.link_command()
        lines = [
            "rule compile",
            "  command = $call $in -o $out -MMD -MF $out.d",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = $in",
            "rule link",
            f"  command = {ninja_command(before)} -o $out $in {ninja_command(after)}",
            "  description = $out",
        ]
        objects = []
        for source, command in self.compile_commands():
            objects.append(ninja_path(folder / source.relative_to(ROOT).with_suffix(source.suffix + ".o")))
            lines += [
                f"build {objects[-1]}: compile {ninja_path(source)}",
                f"  call = {ninja_command(command)}",
            ]
        lines.append(f"build {ninja_path(output)}: link {' '.join(objects)}")
        return "\n".join(lines) + "\n"


def ninja_path(path: Path) -> str:
    return re.sub(r"([$ :])", r"$\1", str(path))


def ninja_command(words: Iterable[str]) -> str:
    return shlex.join(words).replace("$", "$$")


def plan_build() -> Build:
    """Decides what is built. Raises BuildError where something is missing."""
    torch = toolchain.find_torch()
    hint = "or build without --no-build-isolation"
    if torch is None:
        oldest = ".".join(map(str, toolchain.OLDEST_TORCH))
        raise BuildError(
            f"torch {oldest} or newer is needed to build; pip install {toolchain.PINNED_TORCH}, {hint}"
        )
    toolkit = toolchain.choose_toolkit(
        os.environ.get("SYMCONV_CUDA", "auto"), torch.cuda, toolchain.find_toolkit()
    )
    architectures = []
    if toolkit is not None:
        architectures = toolchain.choose_architectures(
            os.environ.get("TORCH_CUDA_ARCH_LIST", ""),
            toolchain.local_gpus(),
            toolchain.known_architectures(toolkit),
        )
    if shutil.which("ninja") is None and importlib.util.find_spec("ninja") is None:
        raise BuildError(f"ninja is needed to build; pip install ninja, {hint}")
    return Build(COMPILER, torch, toolkit, architectures)


COMPILER, NO_COMPILER = toolchain.find_compiler()
_announced = False


def announce(message: str) -> None:
    """Says what is built, once."""
    global _announced
    if not _announced:
        print(f"symconv_ext: {message}", flush=True)
    _announced = True


def announce_pure_python() -> None:
    """Says so where there is no compiler; raises BuildError where CUDA kernels are demanded."""
    if COMPILER:
        return
    if os.environ.get("SYMCONV_CUDA") == "1":
        raise BuildError(f"SYMCONV_CUDA=1: {NO_COMPILER}; install a C++ compiler, or set SYMCONV_CUDA=0")
    announce(f"{NO_COMPILER}, so the package is pure Python and computes with the torch backend")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Two builds never write to one folder at the same time."""
    import fcntl  # not on Windows, which has no extension

    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def put(built: Path, target: Path) -> None:
    """Copies a file; nobody ever sees a part of it, and a process that has loaded the old one keeps that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copy2(built, partial)
    os.replace(partial, target)


class BuildExtension(build_ext):  # type: ignore[misc]
    """Builds with ninja: in parallel, again only what has changed, and in place only when it is whole."""

    def run(self) -> None:
        announce_pure_python()
        super().run()

    def build_extension(self, ext: Extension) -> None:
        build = plan_build()
        kernels = "CPU kernels"
        if build.toolkit is not None:
            kernels = f"CPU and CUDA kernels ({', '.join(build.architectures)})"
        announce(f"building {kernels} against torch {build.torch.version}")
        folder = Path(self.build_temp).resolve() / f"torch-{build.torch.version}"
        folder = folder.with_name(folder.name + ("-cuda" if build.toolkit else "-cpu"))
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            (folder / "build.ninja").write_text(build.ninja_file(folder, folder / "_C.so"))
            ninja = ["ninja"] if shutil.which("ninja") else [sys.executable, "-m", "ninja"]
            jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
            if subprocess.run([*ninja, "-C", str(folder), *jobs]).returncode != 0:
                raise BuildError("the extension does not compile; the compiler's messages stand above")
            put(folder / "_C.so", Path(self.get_ext_fullpath(ext.name)))

    def copy_extensions_to_source(self) -> None:
        package = self.get_finalized_command("build_py")
        for ext in self.extensions:
            source, built = self._get_inplace_equivalent(package, ext)
            put(Path(built), Path(source))


class BuildPython(build_py):  # type: ignore[misc]
    def run(self) -> None:
        announce_pure_python()
        super().run()


def build_requirements(arguments: list[str]) -> list[str]:
    """What an isolated build fetches besides pyproject.toml's requirements; it asks by way of egg_info.

    Only where there is no torch to build against: the one that is installed is not to be fetched again.
    """
    wanted = COMPILER and "egg_info" in arguments and toolchain.find_torch() is None
    return [toolchain.PINNED_TORCH] if wanted else []


if __name__ == "__main__":
    setup(
        ext_modules=[Extension("symconv_ext._C", sources=[], py_limited_api=True)] if COMPILER else [],
        cmdclass={"build_ext": BuildExtension, "build_py": BuildPython},
        options={"bdist_wheel": {"py_limited_api": "cp310"}} if COMPILER else {},
        setup_requires=build_requirements(sys.argv[1:]),
    )
