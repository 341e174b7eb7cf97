"""Builds the emulator's Python module with the host compiler and loads it.

``load()`` gives the plain flavour as a module. The sanitizer flavours need the sanitizer's runtime in the
process from its start: ``sanitized_environment(flavour)`` gives the environment for a Python that may
``load(flavour)``.
"""

from __future__ import annotations

import concurrent.futures
import fcntl
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
BUILD = ROOT / "build" / "emulator"
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
        "-Wno-missing-field-initializers",
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


def _compile(jobs: list[tuple[Path, Path]], flavour: str) -> None:
    """Compiles (source, object) pairs, each with its list of dependencies beside the object."""
    flags, kernels = _flags(flavour), _sources()[0]

    def job(pair: tuple[Path, Path]) -> None:
        source, target = pair
        sanitize = []
        if flavour in SANITIZERS and source in kernels:
            sanitize = [f"-fsanitize={SANITIZERS[flavour]}"]
        scratch = target.with_suffix(f".{os.getpid()}.tmp")
        where = [
            "-MD",
            "-MF",
            str(target.with_suffix(".d")),
            "-x",
            "c++",
            "-c",
            str(source),
            "-o",
            str(scratch),
        ]
        _run([compiler() or "", *flags, *sanitize, *where])
        scratch.replace(target)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(job, jobs))


def _link(objects: list[Path], module: Path, flavour: str) -> None:
    sanitize = [f"-fsanitize={SANITIZERS[flavour]}"] if flavour in SANITIZERS else []
    scratch = module.with_suffix(f".{os.getpid()}.tmp")
    _run([compiler() or "", "-shared", *sanitize, *map(str, objects), "-o", str(scratch), "-ldl"])
    scratch.replace(module)


def _objects(flavour: str) -> dict[Path, Path]:
    """The object file of every source."""
    tag = hashlib.sha256(((compiler() or "") + shlex.join(_flags(flavour))).encode()).hexdigest()[:8]
    kernels, machinery = _sources()
    return {source: BUILD / flavour / f"{source.stem}.{tag}.o" for source in kernels + machinery}


def build(flavour: str = "plain") -> Path:
    """Compiles what is out of date and returns the module's path."""
    if compiler() is None:
        raise RuntimeError("emulator: no C++ compiler found; install g++ or set CXX")
    (BUILD / flavour).mkdir(parents=True, exist_ok=True)
    module = BUILD / flavour / f"symconv_emulator_{flavour}{sysconfig.get_config_var('EXT_SUFFIX')}"
    with (BUILD / flavour / "lock").open("w") as lock:  # processes that test side by side build once
        fcntl.flock(lock, fcntl.LOCK_EX)
        objects = _objects(flavour)
        stale = [(s, o) for s, o in objects.items() if _stale(o, o.with_suffix(".d"))]
        _compile(stale, flavour)
        if not module.exists() or any(o.stat().st_mtime > module.stat().st_mtime for o in objects.values()):
            _link(list(objects.values()), module, flavour)
    return module


def build_mutant(name: str, edits: list[tuple[str, str, str]], sources: list[str]) -> Path:
    """The plain flavour with some changes, seen by csrc/`sources` alone.

    Of each edit (file, old, new), `old` becomes `new` in csrc/`file`, where it must stand once. Everything
    else is linked as it is, so a mutant takes seconds.
    """
    build()
    root = BUILD / "mutants" / name
    for part in ("common", "cpu", "cuda"):
        shutil.copytree(ROOT / "csrc" / part, root / "csrc" / part, dirs_exist_ok=True)
    for file, old, new in edits:
        change(root / "csrc" / file, old, new)
    objects = _objects("plain")
    changed = {ROOT / "csrc" / source: root / f"{Path(source).stem}.o" for source in sources}
    _compile([(root / "csrc" / s.relative_to(ROOT / "csrc"), o) for s, o in changed.items()], "plain")
    module = root / f"symconv_emulator_plain{sysconfig.get_config_var('EXT_SUFFIX')}"
    # First, so that of inline functions the changed ones are taken.
    _link(
        [*changed.values(), *(o for source, o in objects.items() if source not in changed)], module, "plain"
    )
    return module


def change(path: Path, old: str, new: str) -> None:
    """Writes `new` for `old`, which must stand once in the file."""
    text = path.read_text()
    if text.count(old) != 1:
        raise ValueError(f"{path} holds {text.count(old)} times {old!r}, which should change once")
    path.write_text(text.replace(old, new))


def link_changed(root: Path) -> Path:
    """The plain flavour with what csrc/cuda compiles to in the copy of csrc in `root`."""
    objects = _objects("plain")
    changed = {s: root / f"{s.stem}.o" for s in objects if s.suffix == ".cu"}
    _compile([(root / s.relative_to(ROOT), o) for s, o in changed.items()], "plain")
    module = root / f"symconv_emulator_plain{sysconfig.get_config_var('EXT_SUFFIX')}"
    # First, so that of inline functions the changed ones are taken.
    _link(
        [*changed.values(), *(o for source, o in objects.items() if source not in changed)], module, "plain"
    )
    return module


def load(flavour: str = "plain", path: Path | None = None) -> ModuleType:
    """Builds the flavour if need be and imports it; or imports the module at `path` (one a process)."""
    name = f"symconv_emulator_{flavour}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path or build(flavour))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
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
