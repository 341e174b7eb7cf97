"""What the extension is built with: the torch, the C++ compiler, the CUDA toolkit, the GPU architectures.

Used by setup.py, which names the environment variables.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import runpy
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from setuptools.errors import BaseError

OLDEST_TORCH = (2, 10)
PINNED_TORCH = "torch==2.13.0"  # what an isolated build fetches where no torch is installed
# GPU architectures of a build for other machines; the last one also as PTX, for the GPUs to come.
ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX")
OLDEST_ARCHITECTURE = (8, 0)
USUAL_TOOLKIT = Path("/usr/local/cuda")


class BuildError(BaseError):  # type: ignore[misc]
    """The build cannot go on; the message is one sentence, which the user gets without a traceback."""


class Torch(NamedTuple):
    root: Path
    version: str
    cuda: str | None  # the CUDA version that it was built with


def site_folders() -> list[Path]:
    """Where packages are installed: also from within an isolated build, whose sys.path leaves them out."""
    folders = [sysconfig.get_path("platlib"), sysconfig.get_path("purelib"), site.getusersitepackages()]
    return [Path(folder) for folder in dict.fromkeys(folders)]


def find_torch() -> Torch | None:
    """The torch of this environment, if it is recent enough. It is not imported."""
    spec = importlib.util.find_spec("torch")
    roots = [Path(spec.origin).parent] if spec is not None and spec.origin else []
    for root in [*roots, *(folder / "torch" for folder in site_folders())]:
        if (root / "version.py").is_file() and (root / "include").is_dir():
            facts = runpy.run_path(str(root / "version.py"))
            version = str(facts["__version__"])
            if tuple(map(int, version.split(".")[:2])) >= OLDEST_TORCH:
                return Torch(root, version, facts.get("cuda"))
    return None


_PROBE = "#include <Python.h>\n#include <concepts>\nint main() { return 0; }\n"


def find_compiler() -> tuple[list[str], str]:
    """The compiler's command and an empty string, or an empty command and the reason why there is none."""
    if sys.platform == "win32":
        return [], "the extension is built on Linux and macOS only"
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for command in map(shlex.split, wanted):
        if shutil.which(command[0]) is None:
            continue
        flags = ["-std=c++20", "-fsyntax-only", f"-I{sysconfig.get_path('include')}", "-x", "c++", "-"]
        probe = subprocess.run([*command, *flags], input=_PROBE, capture_output=True, text=True)
        if probe.returncode == 0:
            return command, ""
        error = next((line for line in probe.stderr.splitlines() if "error" in line), "no message")
        return [], f"{shlex.join(command)} does not compile C++20 with Python.h ({error.strip()})"
    return [], f"no C++ compiler is on the PATH (looked for {', '.join(wanted)})"


class Toolkit(NamedTuple):
    """A CUDA toolkit."""

    nvcc: Path
    include: Path  # has cuda_runtime.h
    library: Path  # has libcudart_static.a


def toolkit_home(nvcc: Path) -> Path:
    """The folder that nvcc takes its own files from; ``nvcc`` may be a script that calls the real one."""
    with contextlib.suppress(OSError):
        plan = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True)
        top = re.search(r"^#\$ TOP=(.+?)\s*$", plan.stderr + plan.stdout, re.MULTILINE)
        if top is not None:
            return Path(top[1]).resolve()
    return nvcc.resolve().parent.parent


def find_toolkit() -> tuple[Toolkit | None, str]:
    """The CUDA toolkit and an empty string, or None and what is missing.

    Looks in CUDA_HOME, CUDA_PATH, on the PATH, among the installed packages (nvidia/cu13 and the like, which
    may also hold the headers for an nvcc from elsewhere) and in /usr/local/cuda.
    """
    packages = [folder for base in site_folders() for folder in sorted((base / "nvidia").glob("cu[0-9]*"))]
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    on_path = [Path(found) for found in [shutil.which("nvcc")] if found]
    compilers = [home / "bin/nvcc" for home in homes] + on_path
    compilers += [home / "bin/nvcc" for home in [*packages, USUAL_TOOLKIT]]
    missing = "nvcc is neither in CUDA_HOME nor on the PATH"
    for nvcc in compilers:
        if not os.access(nvcc, os.X_OK):
            continue
        home = toolkit_home(nvcc)
        places = [home, *home.glob("targets/*-linux"), *packages]
        includes = [place / "include" for place in places]
        libraries = [place / name for place in places for name in ("lib64", "lib")]
        include = next((folder for folder in includes if (folder / "cuda_runtime.h").is_file()), None)
        library = next((folder for folder in libraries if (folder / "libcudart_static.a").is_file()), None)
        if include is not None and library is not None:
            return Toolkit(home / "bin/nvcc", include, library), ""
        missing = f"the toolkit of {nvcc} lacks {'libcudart_static.a' if include else 'cuda_runtime.h'}"
    return None, missing


def choose_toolkit(setting: str, torch_cuda: str | None, found: tuple[Toolkit | None, str]) -> Toolkit | None:
    """The toolkit to build CUDA kernels with, or None to build none.

    Args:
        setting: SYMCONV_CUDA, ``auto``, ``0`` or ``1``.
        torch_cuda: the CUDA version of the torch that is built against, None for a CPU build.
        found: what :func:`find_toolkit` gives.

    Raises:
        BuildError: the setting is unknown, or is 1 and there is no toolkit.
    """
    toolkit, missing = found
    if setting not in ("auto", "0", "1"):
        raise BuildError(f"SYMCONV_CUDA: expected auto, 0 or 1, got {setting!r}")
    if setting == "1" and toolkit is None:
        raise BuildError(
            f"SYMCONV_CUDA=1: there is no CUDA toolkit, since {missing}; "
            "install one, set CUDA_HOME, or set SYMCONV_CUDA=0"
        )
    return toolkit if setting == "1" or (setting == "auto" and torch_cuda is not None) else None


def capability(architecture: str) -> tuple[int, int]:
    """(9, 0) of "9.0", "9.0a" or "9.0+PTX"."""
    major, minor = re.sub(r"[af]?(\+PTX)?$", "", architecture).split(".")
    return int(major), int(minor)


def choose_architectures(setting: str, gpus: Iterable[str], known: Iterable[tuple[int, int]]) -> list[str]:
    """The GPU architectures to build for, such as ["8.0", "9.0+PTX"].

    Args:
        setting: TORCH_CUDA_ARCH_LIST; what is below 8.0, which the kernels do not support, is left out.
        gpus: the compute capabilities of the GPUs in this machine, used where there is no setting.
        known: the compute capabilities that nvcc knows; the default list is cut down to them.

    Raises:
        BuildError: the setting is no list of numbers, or nvcc does not know one of them, or none is left.
    """
    known = set(known)
    if setting:
        names = re.split(r"[;, ]+", setting.strip("; ,"))
        for name in names:
            if re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name) is None:
                raise BuildError(
                    f'TORCH_CUDA_ARCH_LIST: expected numbers such as "8.0;9.0+PTX", got {name!r}'
                )
        chosen = [name for name in names if capability(name) >= OLDEST_ARCHITECTURE]
        if not chosen:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST: expected at least one from 8.0 up, got {setting!r}")
        for name in chosen:
            if capability(name) not in known:
                raise BuildError(
                    f"TORCH_CUDA_ARCH_LIST: this nvcc does not know {name}; take a newer toolkit"
                )
        return chosen
    local = sorted({gpu for gpu in gpus if re.fullmatch(r"\d+\.\d", gpu)}, key=capability)
    local = [gpu for gpu in local if capability(gpu) >= OLDEST_ARCHITECTURE]
    if local and all(capability(gpu) in known for gpu in local):
        return local
    default = [name.removesuffix("+PTX") for name in ARCHITECTURES if capability(name) in known]
    if not default:
        raise BuildError("the CUDA toolkit's nvcc knows no architecture from 8.0 up; take a newer toolkit")
    default[-1] += "+PTX"
    return default


def architecture_flags(architectures: Iterable[str]) -> list[str]:
    """nvcc's flags for them."""
    flags = []
    for name in architectures:
        number = name.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if name.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def _words(*command: str | Path) -> list[str]:
    """What a command prints, or nothing where it does not run."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return []


def local_gpus() -> list[str]:
    """The compute capabilities of the GPUs in this machine."""
    return _words("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")


def known_architectures(toolkit: Toolkit) -> list[tuple[int, int]]:
    """The compute capabilities that the toolkit's nvcc knows."""
    names = [re.fullmatch(r"compute_(\d+)(\d)", name) for name in _words(toolkit.nvcc, "--list-gpu-arch")]
    return [(int(name[1]), int(name[2])) for name in names if name is not None]
