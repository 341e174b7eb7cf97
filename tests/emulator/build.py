"""Builds the emulator's Python module with the host compiler and loads it.

``load()`` gives the plain flavour as a module. The sanitizer flavours need the sanitizer's runtime in the
process from its start: ``sanitized_environment(flavour)`` gives the environment for a Python that may
``load(flavour)``.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FLAVOURS = {
    "plain": ["-O2", "-g1"],
    "asan": ["-O1", "-g", "-fno-omit-frame-pointer", "-DSYMCONV_EMULATOR_ASAN"],
    "tsan": ["-O1", "-g", "-fno-omit-frame-pointer", "-DSYMCONV_EMULATOR_TSAN"],
}
SANITIZERS = {"asan": "address", "tsan": "thread"}


def compiler() -> str | None:
    """The C++ compiler, or None if there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def _sources() -> tuple[list[Path], list[Path]]:
    """Kernel code, which the sanitizers instrument, and the emulator itself, which they must not see."""
    kernels = [HERE / "probes.cpp", *sorted((ROOT / "csrc" / "cuda").glob("*.cu"))]
    kernels += sorted((ROOT / "csrc" / "cuda").glob("*.cpp"))
    machinery = [p for p in sorted(HERE.glob("*.cpp")) if p.name != "probes.cpp"]
    return kernels, machinery


def _flags(flavour: str) -> list[str]:
    import pybind11

    return [
        "-std=c++17",
        "-fPIC",
        "-Wall",
        "-Wextra",
        "-Wno-unknown-pragmas",
        "-Wno-unused-parameter",
        "-DSYMCONV_EMULATOR",
        f"-DSYMCONV_EMULATOR_MODULE=symconv_emulator_{flavour}",
        f"-I{HERE}",
        f"-isystem{pybind11.get_include()}",
        f"-isystem{sysconfig.get_paths()['include']}",
        *FLAVOURS[flavour],
    ]


def _stale(target: Path, depfile: Path) -> bool:
    if not target.exists() or not depfile.exists():
        return True
    names = depfile.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    built = target.stat().st_mtime
    return any(not Path(n).exists() or Path(n).stat().st_mtime > built for n in names)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"emulator build failed: {shlex.join(command)}\n{done.stderr[-6000:]}")


def build(flavour: str = "plain", overlay: Path | None = None) -> Path:
    """Compiles what is out of date and returns the module's path.

    ``overlay`` is a copy of ``csrc/cuda`` to compile instead of the real one (for tests that put bugs into
    it); it gets its own build folder.
    """
    cxx = compiler()
    if cxx is None:
        raise RuntimeError("emulator: no C++ compiler found; install g++ or set CXX")
    flags = _flags(flavour)
    kernels, machinery = _sources()
    if overlay is not None:
        kernels = [overlay / p.name if p.parent.name == "cuda" else p for p in kernels]
    folder = ROOT / "build" / "emulator" / flavour
    folder.mkdir(parents=True, exist_ok=True)
    tag = hashlib.sha256((cxx + shlex.join(flags)).encode()).hexdigest()[:8]
    jobs: list[tuple[list[str], Path, Path]] = []
    objects: list[Path] = []
    for source in kernels + machinery:
        own = overlay if overlay is not None and source.parent == overlay else folder
        target = own / f"{source.stem}.{tag}.o"
        depfile = target.with_suffix(".d")
        objects.append(target)
        if _stale(target, depfile):
            sanitize = (
                [f"-fsanitize={SANITIZERS[flavour]}"] if source in kernels and flavour in SANITIZERS else []
            )
            scratch = target.with_suffix(f".{os.getpid()}.tmp")
            language = ["-x", "c++"]
            command = [
                cxx,
                *flags,
                *sanitize,
                "-MD",
                "-MF",
                str(depfile),
                *language,
                "-c",
                str(source),
                "-o",
                str(scratch),
            ]
            jobs.append((command, scratch, target))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(lambda job: (_run(job[0]), job[1].replace(job[2])), jobs))
    module = (overlay or folder) / f"symconv_emulator_{flavour}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if jobs or not module.exists() or any(o.stat().st_mtime > module.stat().st_mtime for o in objects):
        link = [f"-fsanitize={SANITIZERS[flavour]}", "-shared-libasan"][:1] if flavour in SANITIZERS else []
        scratch = module.with_suffix(f".{os.getpid()}.tmp")
        _run([cxx, "-shared", *link, *map(str, objects), "-o", str(scratch), "-ldl"])
        scratch.replace(module)
    return module


def load(flavour: str = "plain", overlay: Path | None = None) -> ModuleType:
    """Builds the flavour if need be and imports it."""
    name = f"symconv_emulator_{flavour}"
    if overlay is None and name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, build(flavour, overlay))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if overlay is None:
        sys.modules[name] = module
    return module


def sanitized_environment(flavour: str) -> dict[str, str]:
    """Environment for a Python process that loads a sanitizer flavour; a report ends it with status 66."""
    cxx = compiler()
    assert cxx is not None
    runtime = subprocess.run(
        [cxx, f"-print-file-name=lib{flavour}.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0:exitcode=66:detect_stack_use_after_return=0",
        "TSAN_OPTIONS": "exitcode=66:halt_on_error=1:report_signal_unsafe=0:ignore_noninstrumented_modules=0",
    }


if __name__ == "__main__":
    for chosen in sys.argv[1:] or ["plain"]:
        build(chosen)
