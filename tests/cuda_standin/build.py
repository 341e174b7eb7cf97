"""Builds the stand-in for the CUDA runtime, and the extension that calls it instead of the real one.

The extension is linked anew from the object files that setup.py left in build/; only the runtime differs.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from conftest import BUILD, compiler

from symconv_ext import ops

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("standin.cpp")
# By its other name it is the driver's library, which torch opens.
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libcuda.so.1"]


@functools.cache
def _setup() -> Any:
    """setup.py as a module: it knows how the extension is built."""
    spec = importlib.util.spec_from_file_location("symconv_ext_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _plan() -> Any:
    toolchain = _setup().toolchain
    return _setup().Build([compiler()], toolchain.find_torch(), toolchain.find_toolkit()[0], [])


def _objects() -> list[Path]:
    """The extension's object files, in the order in which they are linked."""
    folder = Path("build", f"temp.*{sys.implementation.cache_tag}", f"torch-{torch.__version__}-cuda")
    found = next(ROOT.glob(str(folder)), ROOT / folder)
    sources = [source for source, _ in _plan().compile_commands()]
    return [found / source.relative_to(ROOT).with_suffix(source.suffix + ".o") for source in sources]


def why_not() -> str | None:
    """None where both can be built, else the reason."""
    if not ops.CUDA_ARCHITECTURES:
        return "the extension was built without CUDA kernels"
    if not (torch.version.cuda or "").startswith("13."):
        return "torch is no build for CUDA 13, whose runtime the stand-in replaces"
    if compiler() is None or _setup().toolchain.find_toolkit()[0] is None:
        return "the stand-in needs a C++ compiler and CUDA's headers"
    missing = [path for path in _objects() if not path.exists()]
    return f"the extension was not built in this folder: no {missing[0]}" if missing else None


def _make(command: list[str], name: str, inputs: list[Path]) -> Path:
    """What the command writes to its -o, made again only when it or one of the inputs has changed."""
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


def standin() -> Path:
    """The stand-in, to be preloaded."""
    command = [compiler() or "", *FLAGS, "-isystem", str(_plan().toolkit.include), str(SOURCE), "-ldl"]
    return _make(command, "cuda_standin", [SOURCE])


def extension() -> Path:
    """The extension without a CUDA runtime of its own."""
    before, after = _plan().link_command()
    after.remove("-lcudart_static")
    objects = _objects()
    return _make([*before, *map(str, objects), *after], "cuda_standin_extension", objects)
