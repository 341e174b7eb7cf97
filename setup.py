"""Builds the extension symconv_ext/_C.abi3.so with ninja; everything else about the package is in pyproject.toml.

One binary serves every torch from 2.10 up (LibTorch Stable ABI) and every CPython from 3.10 up (limited API). The build
reads the headers and links libtorch_cpu of a torch that is installed; it never imports it. Without a C++ compiler the
package is pure Python and computes with the `torch` backend.

Environment:
    SYMCONV_CUDA          auto (default): CUDA kernels if that torch is a CUDA build and a CUDA toolkit is found;
                          0: never; 1: always, and an error where no toolkit is found
    CUDA_HOME, CUDA_PATH  where the toolkit is; otherwise nvcc on the PATH says
    TORCH_CUDA_ARCH_LIST  GPU architectures, such as "8.0;9.0+PTX"; otherwise those of the GPUs in this machine, or,
                          where there are none, ARCHITECTURES
    CXX, CXXFLAGS, LDFLAGS, MAX_JOBS   as usual
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import runpy
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import BaseError

ROOT = Path(__file__).resolve().parent
OLDEST_TORCH = (2, 10)
PINNED_TORCH = "torch==2.13.0"  # what an isolated build fetches where no torch is installed
LIMITED_API = "cp310"
# GPU architectures of a build for other machines; the last one also as PTX, for the GPUs to come.
ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX")
OLDEST_ARCHITECTURE = (8, 0)


class BuildError(BaseError):
    """The build cannot go on; the message is one sentence, which the user gets without a traceback."""


# The torch to build against.


class Torch(NamedTuple):
    root: Path
    version: str
    cuda: str | None  # the CUDA version that it was built with


def site_folders() -> list[Path]:
    """Where packages are installed: also from within an isolated build, whose sys.path leaves them out."""
    folders = [sysconfig.get_path("platlib"), sysconfig.get_path("purelib"), site.getusersitepackages()]
    return [Path(folder) for folder in dict.fromkeys(folders)]


def find_torch() -> Torch | None:
    """The torch of this environment, if it is recent enough."""
    spec = importlib.util.find_spec("torch")
    roots = [Path(spec.origin).parent] if spec is not None and spec.origin else []
    for root in roots + [folder / "torch" for folder in site_folders()]:
        if (root / "version.py").is_file() and (root / "include").is_dir():
            facts = runpy.run_path(str(root / "version.py"))
            version = str(facts["__version__"])
            if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) >= OLDEST_TORCH:
                return Torch(root, version, facts.get("cuda"))
    return None


# The C++ compiler.

_PROBE = "#include <Python.h>\n#include <concepts>\nint main() { return 0; }\n"


def find_compiler() -> tuple[list[str], str]:
    """The compiler's command and an empty string, or an empty command and the reason why there is none."""
    if sys.platform == "win32":
        return [], "the extension is built on Linux and macOS only"
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for command in map(shlex.split, wanted):
        if shutil.which(command[0]) is None:
            continue
        include = sysconfig.get_path("include")
        probe = subprocess.run(
            [*command, "-std=c++20", "-fsyntax-only", f"-I{include}", "-x", "c++", "-"],
            input=_PROBE,
            capture_output=True,
            text=True,
        )
        if probe.returncode == 0:
            return command, ""
        error = next((line for line in probe.stderr.splitlines() if "error" in line), "no message")
        return [], f"{shlex.join(command)} does not compile C++20 with Python.h ({error.strip()})"
    return [], f"no C++ compiler is on the PATH (looked for {', '.join(wanted)})"


# The CUDA toolkit.


class Toolkit(NamedTuple):
    nvcc: Path
    include: Path  # has cuda_runtime.h
    library: Path  # has libcudart_static.a


def toolkit_home(nvcc: Path) -> Path:
    """The folder that nvcc takes its own files from, also where the nvcc on the PATH is a script that calls another."""
    with contextlib.suppress(OSError):
        plan = subprocess.run([nvcc, "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True)
        top = re.search(r"^#\$ TOP=(.+?)\s*$", plan.stderr + plan.stdout, re.MULTILINE)
        if top is not None:
            return Path(top[1]).resolve()
    return nvcc.resolve().parent.parent


def find_toolkit() -> tuple[Toolkit | None, str]:
    """The CUDA toolkit and an empty string, or None and what is missing."""
    wheels = [folder for base in site_folders() for folder in sorted((base / "nvidia").glob("cu[0-9]*"))]
    named = [Path(os.environ[name]) / "bin" for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    on_path = [Path(found).parent for found in [shutil.which("nvcc")] if found]
    usual = [folder / "bin" for folder in [*wheels, Path("/usr/local/cuda")]]
    missing = "nvcc is neither in CUDA_HOME nor on the PATH"
    for folder in named + on_path + usual:
        if not os.access(folder / "nvcc", os.X_OK):
            continue
        home = toolkit_home(folder / "nvcc")
        homes = [home, *home.glob("targets/*-linux"), *wheels]
        include = next((h / "include" for h in homes if (h / "include/cuda_runtime.h").is_file()), None)
        libraries = [h / name for h in homes for name in ("lib64", "lib")]
        library = next((folder for folder in libraries if (folder / "libcudart_static.a").is_file()), None)
        if include is not None and library is not None:
            return Toolkit(home / "bin/nvcc", include, library), ""
        lacks = "cuda_runtime.h" if include is None else "libcudart_static.a"
        missing = f"the toolkit of {folder / 'nvcc'} lacks {lacks}"
    return None, missing


def choose_toolkit(setting: str, torch_cuda: str | None, found: tuple[Toolkit | None, str]) -> Toolkit | None:
    """The toolkit to build CUDA kernels with, or None for none; ``setting`` is SYMCONV_CUDA.

    Raises BuildError where the setting is unknown, or is 1 and the toolkit is missing.
    """
    toolkit, missing = found
    if setting not in ("auto", "0", "1"):
        raise BuildError(f"SYMCONV_CUDA: expected auto, 0 or 1, got {setting!r}")
    if setting == "1" and toolkit is None:
        raise BuildError(
            f"SYMCONV_CUDA=1: no CUDA toolkit, since {missing}; install it, set CUDA_HOME, or set SYMCONV_CUDA=0"
        )
    return toolkit if setting == "1" or (setting == "auto" and torch_cuda) else None


def _lines(*command: str | Path) -> list[str]:
    """What a command prints, or nothing where it cannot run."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return []


def choose_architectures(setting: str, gpus: Iterable[str], known: Iterable[str]) -> list[str]:
    """The architectures to build, such as ["8.0", "9.0+PTX"].

    Args:
        setting: TORCH_CUDA_ARCH_LIST; those below 8.0, which the kernels do not support, are left out.
        gpus: compute capabilities of the GPUs in this machine, used where there is no setting.
        known: what nvcc lists, such as compute_80; the default list is cut down to it.

    Raises BuildError for a setting that is no list of numbers, that nvcc does not know, or that leaves none.
    """
    numbers = [re.fullmatch(r"compute_(\d+)(\d)", name) for name in known]
    virtual = {f"{n[1]}.{n[2]}" for n in numbers if n is not None}

    def capability(name: str) -> tuple[int, int]:
        major, minor = re.sub(r"[af]?(\+PTX)?$", "", name).split(".")
        return int(major), int(minor)

    def is_known(name: str) -> bool:
        return ".".join(map(str, capability(name))) in virtual

    if setting:
        names = setting.replace(";", " ").replace(",", " ").split()
        for name in names:
            if re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name) is None:
                raise BuildError(
                    f'TORCH_CUDA_ARCH_LIST: expected numbers such as "8.0;9.0+PTX", got {name!r} in {setting!r}'
                )
        chosen = [name for name in names if capability(name) >= OLDEST_ARCHITECTURE]
        if not chosen:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST: expected at least one from 8.0 up, got {setting!r}")
        unknown = [name for name in chosen if not is_known(name)]
        if unknown:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST: this nvcc does not know {', '.join(unknown)}; take a newer one"
            )
        return chosen
    local = sorted({gpu for gpu in gpus if re.fullmatch(r"\d+\.\d", gpu)}, key=capability)
    local = [gpu for gpu in local if capability(gpu) >= OLDEST_ARCHITECTURE]
    if local and all(map(is_known, local)):
        return local
    default = [name for name in ARCHITECTURES if is_known(name)]
    if not default:
        raise BuildError("the CUDA toolkit is too old: its nvcc knows no architecture from 8.0 up")
    return [*default[:-1], default[-1].removesuffix("+PTX") + "+PTX"]


def architecture_flags(architectures: Iterable[str]) -> list[str]:
    flags = []
    for name in architectures:
        number = name.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if name.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


# What to compile, and how.

# csrc/cpu/isa/NAME.cpp holds micro-kernels for one instruction set: the machines that it is for, and its flags. (Which
# of them runs is decided at run time.)
ISA_FLAGS = {
    "avx2": ("x86_64", ("-mavx2", "-mfma", "-mf16c")),
    # GCC's own avx512 headers set off the warning.
    "avx512": (
        "x86_64",
        (
            "-mavx512f",
            "-mavx512bw",
            "-mavx512dq",
            "-mavx512vl",
            "-mfma",
            "-mf16c",
            "-Wno-maybe-uninitialized",
        ),
    ),
    "neon": ("aarch64", ()),
    "portable": (None, ()),
}


def isa_flags(source: Path, machine: str) -> tuple[str, ...] | None:
    """Extra flags of a source of csrc/cpu; None for one that is not for this machine (platform.machine())."""
    if source.parent.name != "isa":
        return ()
    if source.stem not in ISA_FLAGS:
        raise BuildError(
            f"csrc/cpu/isa: expected one of {', '.join(ISA_FLAGS)}, got {source.name}; see ISA_FLAGS"
        )
    target, flags = ISA_FLAGS[source.stem]
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    return flags if target in (None, machine) else None


class Step(NamedTuple):
    """One source and the command that compiles it, up to the input and output files."""

    source: Path
    command: list[str]


def compile_steps(
    compiler: list[str], torch: Torch, toolkit: Toolkit | None, architectures: list[str]
) -> Iterator[Step]:
    csrc = ROOT / "csrc"
    extra = shlex.split(os.environ.get("CXXFLAGS", ""))
    base = [*compiler, "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden"]
    base += ["-Wall", "-Wextra"]
    for source in sorted((csrc / "cpu").rglob("*.cpp")):
        flags = isa_flags(source, platform.machine())
        if flags is not None:  # a * b + c may become one fused operation, on every compiler alike
            yield Step(source, [*base, "-std=c++17", "-ffp-contract=fast", *flags, *extra, "-c"])

    binding = [
        *base,
        "-std=c++20",
        "-DTORCH_TARGET_VERSION=0x020a000000000000",
        "-DPy_LIMITED_API=0x030a0000",
    ]
    binding += ["-isystem", str(torch.root / "include"), "-isystem", sysconfig.get_path("include")]
    if toolkit is not None:
        binding += [
            f'-DSYMCONV_CUDA_ARCHITECTURES="{";".join(architectures)}"',
            "-isystem",
            str(toolkit.include),
        ]
    for source in sorted((csrc / "torch").rglob("*.cpp")):
        if toolkit is not None or source.name != "cuda.cpp":
            yield Step(source, [*binding, *extra, "-c"])

    if toolkit is not None:
        nvcc = [str(toolkit.nvcc), "-O3", "-DNDEBUG", "-std=c++17", "-Xcompiler=-fPIC,-fvisibility=hidden"]
        nvcc += ["-isystem", str(toolkit.include), *architecture_flags(architectures)]
        nvcc += ["-ccbin", compiler[0]] if os.environ.get("CXX") else []
        for source in sorted((csrc / "cuda").rglob("*.cu")):
            yield Step(source, [*nvcc, "-c"])


def link_command(compiler: list[str], torch: Torch, toolkit: Toolkit | None) -> tuple[list[str], list[str]]:
    """What stands before and after the object files. Never -ltorch_cuda: the binary also loads in a CPU-only torch."""
    mac = sys.platform == "darwin"
    before = [*compiler, *(["-bundle", "-undefined", "dynamic_lookup"] if mac else ["-shared"])]
    after = [*shlex.split(os.environ.get("LDFLAGS", "")), f"-L{torch.root / 'lib'}", "-ltorch_cpu"]
    if toolkit is not None:
        after += [f"-L{toolkit.library}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
    # Symbols of the static libraries stay inside.
    return before, after if mac else [*after, "-Wl,--exclude-libs,ALL"]


def ninja_file(steps: Iterable[Step], link: tuple[list[str], list[str]], folder: Path, output: Path) -> str:
    """The text of build.ninja: every source to an object in ``folder``, and those to ``output``."""

    def path(name: Path) -> str:
        return re.sub(r"([$ :])", r"$\1", str(name))

    def words(command: Iterable[str]) -> str:
        return shlex.join(command).replace("$", "$$")

    lines = [
        "ninja_required_version = 1.5",
        "rule compile",
        "  command = $call $in -o $out -MMD -MF $out.d",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = $in",
        "rule link",
        f"  command = {words(link[0])} -o $out $in {words(link[1])}",
        "  description = $out",
    ]
    objects = []
    for source, command in steps:
        target = folder / source.relative_to(ROOT).with_suffix(source.suffix + ".o")
        objects.append(path(target))
        lines += [f"build {objects[-1]}: compile {path(source)}", f"  call = {words(command)}"]
    lines.append(f"build {path(output)}: link {' '.join(objects)}")
    return "\n".join(lines) + "\n"


# The commands of setuptools.

COMPILER, NO_COMPILER = find_compiler() if __name__ == "__main__" else ([], "")
_announced = False


def announce(message: str) -> None:
    """Says what is built, once."""
    global _announced
    if not _announced:
        print(f"symconv_ext: {message}", flush=True)
    _announced = True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Two builds never write to one folder at the same time."""
    import fcntl

    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class BuildExtension(build_ext):
    """Builds with ninja: in parallel, again only what has changed, and in place only when it is whole."""

    def build_extension(self, ext: Extension) -> None:
        torch = find_torch()
        if torch is None:
            raise BuildError(
                f"torch from {'.'.join(map(str, OLDEST_TORCH))} up is needed to build against; "
                f"pip install {PINNED_TORCH}, or build without --no-build-isolation"
            )
        if shutil.which("ninja") is None and importlib.util.find_spec("ninja") is None:
            raise BuildError(
                "ninja is needed to build; pip install ninja, or build without --no-build-isolation"
            )
        toolkit = choose_toolkit(os.environ.get("SYMCONV_CUDA", "auto"), torch.cuda, find_toolkit())
        architectures: list[str] = []
        if toolkit is not None:
            gpus = _lines("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
            known = _lines(toolkit.nvcc, "--list-gpu-arch")
            architectures = choose_architectures(os.environ.get("TORCH_CUDA_ARCH_LIST", ""), gpus, known)
        kernels = f"CPU and CUDA kernels ({', '.join(architectures)})" if toolkit else "CPU kernels"
        announce(f"building {kernels} against torch {torch.version}")

        folder = Path(self.build_temp).resolve() / f"torch-{torch.version}{'-cuda' if toolkit else ''}"
        folder.mkdir(parents=True, exist_ok=True)
        built = folder / "_C.so"
        with locked(folder):
            steps = compile_steps(COMPILER, torch, toolkit, architectures)
            text = ninja_file(steps, link_command(COMPILER, torch, toolkit), folder, built)
            (folder / "build.ninja").write_text(text)
            ninja = ["ninja"] if shutil.which("ninja") else [sys.executable, "-m", "ninja"]
            jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
            if subprocess.run([*ninja, "-C", str(folder), *jobs]).returncode != 0:
                raise BuildError("the extension does not compile; the compiler's messages stand above")
            install(built, Path(self.get_ext_fullpath(ext.name)))

    def copy_extensions_to_source(self) -> None:
        package = self.get_finalized_command("build_py")
        for ext in self.extensions:
            source, target = self._get_inplace_equivalent(package, ext)
            install(Path(target), Path(source))


def install(built: Path, target: Path) -> None:
    """Copies a file so that nobody ever sees a part of it, and a process that has the old one loaded keeps it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copy2(built, partial)
    os.replace(partial, target)


class BuildPython(build_py):
    """Says so where the extension is left out."""

    def run(self) -> None:
        if not COMPILER:
            if os.environ.get("SYMCONV_CUDA") == "1":
                raise BuildError(f"SYMCONV_CUDA=1: {NO_COMPILER}; install one, or set SYMCONV_CUDA=0")
            announce(
                f"{NO_COMPILER}, so this is a pure Python install, which computes with the torch backend"
            )
        super().run()


if __name__ == "__main__":
    extension = Extension("symconv_ext._C", sources=[], py_limited_api=True)
    # An isolated build asks for its requirements by way of egg_info.
    fetch_torch = bool(COMPILER) and "egg_info" in sys.argv and find_torch() is None
    setup(
        ext_modules=[extension] if COMPILER else [],
        cmdclass={"build_ext": BuildExtension, "build_py": BuildPython},
        options={"bdist_wheel": {"py_limited_api": LIMITED_API}} if COMPILER else {},
        setup_requires=[PINNED_TORCH] if fetch_torch else [],
    )
