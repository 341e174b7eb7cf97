"""Builds the stand-in for the CUDA runtime, and the extension that calls it instead of the real one.

The extension is linked anew from the object files that setup.py left in build/; only the runtime differs.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from conftest import BUILD, compiler
from test_cpu_kernels import ROOT, load_setup

from symconv_ext import ops

CUDA = 13  # the version whose runtime the stand-in replaces
SOURCE = Path(__file__).with_name("standin.cpp")
# By its other name it is the driver's library, which torch opens.
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libcuda.so.1"]


class Build(NamedTuple):
    standin: Path  # to be preloaded
    extension: Path


def build() -> Build | str:
    """Both files, or the reason why they cannot be built."""
    if not ops.CUDA_ARCHITECTURES:
        return "the extension was built without CUDA kernels"
    if torch.version.cuda is None:
        return "torch is a CPU-only build"
    if {int(torch.version.cuda.split(".")[0]), ops.CUDA_RUNTIME // 1000} != {CUDA}:
        return f"the stand-in is for CUDA {CUDA}; torch and the extension were built for another version"
    setup, cxx = load_setup(), compiler()
    toolkit = setup.toolchain.find_toolkit()[0]
    if cxx is None or toolkit is None:
        return "the stand-in needs a C++ compiler and CUDA's headers"
    plan = setup.Build([cxx], setup.toolchain.find_torch(), toolkit, [])
    objects = _objects(source for source, _ in plan.compile_commands())
    missing = [path for path in objects if not path.exists()]
    if missing:
        return f"the extension was not built in this folder: there is no {missing[0]}"
    command = [cxx, *FLAGS, "-isystem", str(toolkit.include), str(SOURCE), "-ldl"]
    before, after = plan.link_command()
    after.remove("-lcudart_static")
    return Build(
        _make(command, "cuda_standin", [SOURCE]),
        _make([*before, *map(str, objects), *after], "cuda_standin_extension", objects),
    )


def _objects(sources: Iterable[Path]) -> list[Path]:
    """Where setup.py puts the object files of the extension's sources."""
    pattern = f"build/temp.*{sys.implementation.cache_tag}/torch-{torch.__version__}-cuda"
    folder = next(ROOT.glob(pattern), ROOT / pattern)
    return [folder / source.relative_to(ROOT).with_suffix(source.suffix + ".o") for source in sources]


def _make(command: list[str], name: str, inputs: list[Path]) -> Path:
    """What the command writes to its -o, written again only when it or one of the inputs has changed."""
    state = hashlib.sha256(repr(command).encode())
    for path in inputs:
        state.update(path.read_bytes())
    target = BUILD / f"{name}-{state.hexdigest()[:16]}.so"
    if not target.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        built = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True, check=False)
        assert built.returncode == 0, f"{shlex.join(command)}\n{built.stderr}"
        partial.rename(target)
    return target
