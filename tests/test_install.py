"""Installing: what the build decides, what it says, and what the built extension is."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from setuptools.compat.py310 import tomllib

import symconv_ext

ROOT = Path(__file__).parents[1]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


toolchain = load(ROOT / "csrc" / "toolchain.py")
setup = load(ROOT / "setup.py")


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# SYMCONV_CUDA

TOOLKIT = toolchain.Toolkit(Path("nvcc"), Path("include"), Path("lib"))
FOUND, MISSING = (TOOLKIT, ""), (None, "nvcc is nowhere")


@pytest.mark.parametrize(
    ("setting", "torch_cuda", "found", "expected"),
    [
        ("auto", "13.0", FOUND, TOOLKIT),
        ("auto", "13.0", MISSING, None),
        ("auto", None, FOUND, None),
        ("0", "13.0", FOUND, None),
        ("1", "13.0", FOUND, TOOLKIT),
        ("1", None, FOUND, TOOLKIT),
    ],
)
def test_cuda_setting(setting: str, torch_cuda: str | None, found: tuple, expected: object) -> None:
    assert toolchain.choose_toolkit(setting, torch_cuda, found) is expected


def test_cuda_demanded_without_toolkit_says_what_is_missing() -> None:
    with pytest.raises(toolchain.BuildError, match=r"^SYMCONV_CUDA=1: .*nvcc is nowhere.*; install"):
        toolchain.choose_toolkit("1", "13.0", MISSING)


@pytest.mark.parametrize("setting", ["yes", "", "2", "AUTO"])
def test_unknown_cuda_setting(setting: str) -> None:
    with pytest.raises(toolchain.BuildError, match=r"SYMCONV_CUDA: expected auto, 0 or 1, got"):
        toolchain.choose_toolkit(setting, "13.0", FOUND)


# The toolkit


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no CUDA at all; its PATH is bin/ and its packages are in site/."""
    (tmp_path / "bin").mkdir()
    # dirname is all that the scripts below need.
    (tmp_path / "bin" / "dirname").symlink_to(shutil.which("dirname") or "/usr/bin/dirname")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(toolchain, "site_folders", lambda: [tmp_path / "site"])
    monkeypatch.setattr(toolchain, "USUAL_TOOLKIT", tmp_path / "usual")
    return tmp_path


def put_nvcc(home: Path) -> Path:
    """An nvcc that tells where it lives as the real one does."""
    return script(home / "bin" / "nvcc", 'echo "#$ _SPACE_= " >&2\necho "#$ TOP=$(dirname "$0")/.." >&2')


def put_headers(home: Path) -> None:
    for name in ("include/cuda_runtime.h", "lib64/libcudart_static.a"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()


def test_no_nvcc(machine: Path) -> None:
    toolkit, missing = toolchain.find_toolkit()
    assert toolkit is None
    assert "nvcc is neither in CUDA_HOME nor on the PATH" in missing


def test_nvcc_behind_a_wrapper_script(machine: Path) -> None:
    real = machine / "opt" / "cuda 13"
    nvcc = put_nvcc(real)
    put_headers(real)
    script(machine / "bin" / "nvcc", f'exec "{nvcc}" "$@"')
    toolkit, missing = toolchain.find_toolkit()
    assert missing == ""
    assert toolkit == toolchain.Toolkit(nvcc, real / "include", real / "lib64")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here")
def test_the_real_nvcc_has_its_headers() -> None:
    toolkit, missing = toolchain.find_toolkit()
    assert toolkit is not None, missing
    assert (toolkit.include / "cuda_runtime.h").is_file()
    assert (9, 0) in toolchain.known_architectures(toolkit)


def test_a_wrong_cuda_home_does_not_hide_the_nvcc_on_the_path(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_nvcc(machine / "wrong")  # no headers beside it
    monkeypatch.setenv("CUDA_HOME", str(machine / "wrong"))
    real = machine / "usr"
    put_headers(real)
    script(machine / "bin" / "nvcc", f'exec "{put_nvcc(real)}" "$@"')
    toolkit, _ = toolchain.find_toolkit()
    assert toolkit is not None
    assert toolkit.include == real / "include"


@pytest.mark.parametrize("lacks", ["cuda_runtime.h", "libcudart_static.a"])
def test_half_a_toolkit_says_which_half_is_missing(machine: Path, lacks: str) -> None:
    home = machine / "usual"
    put_nvcc(home)
    put_headers(home)
    next(home.rglob(lacks)).unlink()
    toolkit, missing = toolchain.find_toolkit()
    assert toolkit is None
    assert f"{home / 'bin' / 'nvcc'} lacks {lacks}" in missing


def test_headers_from_the_installed_packages(machine: Path) -> None:
    put_nvcc(machine / "usual")
    package = machine / "site" / "nvidia" / "cu13"
    put_headers(package)
    toolkit, missing = toolchain.find_toolkit()
    assert toolkit is not None, missing
    assert toolkit.nvcc == machine / "usual" / "bin" / "nvcc"
    assert toolkit.include == package / "include"


# GPU architectures

KNOWN = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]
ALL = ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX"]


@pytest.mark.parametrize(
    ("setting", "gpus", "known", "expected"),
    [
        ("8.0;9.0", [], KNOWN, ["8.0", "9.0"]),
        ("7.0 7.5 8.6 9.0a+PTX", ["8.0"], KNOWN, ["8.6", "9.0a+PTX"]),
        ("", ["9.0", "8.0", "9.0"], KNOWN, ["8.0", "9.0"]),
        ("", [], KNOWN, ALL),
        ("", [], KNOWN[:5], ["8.0", "8.6", "8.9", "9.0+PTX"]),
        ("", ["12.1"], KNOWN, ALL),  # a GPU that nvcc does not know yet runs the PTX
        ("", ["7.5"], KNOWN, ALL),  # a GPU without kernels does not stop the build
        ("", ["N/A"], KNOWN, ALL),
    ],
)
def test_architectures(setting: str, gpus: list[str], known: list, expected: list[str]) -> None:
    assert toolchain.choose_architectures(setting, gpus, known) == expected


@pytest.mark.parametrize(
    ("setting", "known", "message"),
    [
        ("Hopper", KNOWN, "expected numbers such as .*got 'Hopper'"),
        ("8.0;nine", KNOWN, "got 'nine'"),
        ("7.0;7.5", KNOWN, "at least one from 8.0 up, got '7.0;7.5'"),
        ("8.0;12.0", KNOWN[:5], "does not know 12.0"),
        ("", [(7, 0), (7, 5)], "knows no architecture from 8.0 up"),
    ],
)
def test_impossible_architectures(setting: str, known: list, message: str) -> None:
    with pytest.raises(toolchain.BuildError, match=message):
        toolchain.choose_architectures(setting, [], known)


def test_architecture_flags() -> None:
    assert toolchain.architecture_flags(["8.0", "10.0+PTX"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=compute_100",
    ]


# torch and the compiler


def put_torch(site: Path, version: str, cuda: str | None = None) -> Path:
    (site / "torch" / "include").mkdir(parents=True)
    (site / "torch" / "version.py").write_text(f"__version__ = {version!r}\ncuda = {cuda!r}\n")
    return site / "torch"


def test_torch_is_the_one_that_is_installed() -> None:
    found = toolchain.find_torch()
    assert found is not None
    assert found.root == Path(torch.__file__).parent
    assert (found.version, found.cuda) == (torch.__version__, torch.version.cuda)


@pytest.mark.parametrize(
    ("version", "fits"), [("2.9.1", False), ("2.10.0+cu130", True), ("3.0.0a0+git", True)]
)
def test_an_isolated_build_sees_the_installed_torch(
    machine: Path, monkeypatch: pytest.MonkeyPatch, version: str, fits: bool
) -> None:
    """Such a build cannot import torch; it fetches one only where none that fits is installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    root = put_torch(machine / "site", version, "13.0")
    monkeypatch.setattr(setup, "COMPILER", ["c++"])
    monkeypatch.setattr(setup.toolchain, "find_torch", toolchain.find_torch)
    assert toolchain.find_torch() == (toolchain.Torch(root, version, "13.0") if fits else None)
    assert setup.build_requirements(["egg_info"]) == ([] if fits else [toolchain.PINNED_TORCH])
    assert setup.build_requirements(["build_ext", "--inplace"]) == []
    monkeypatch.setattr(setup, "COMPILER", [])
    assert setup.build_requirements(["egg_info"]) == []


def test_no_compiler_has_a_reason(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    command, reason = toolchain.find_compiler()
    assert command == []
    assert "no C++ compiler is on the PATH" in reason
    monkeypatch.setenv("CXX", "my-compiler -m64")
    assert "my-compiler" in toolchain.find_compiler()[1]
    script(machine / "bin" / "my-compiler", 'echo "x.cpp: error: concepts: no such file" >&2; exit 1')
    command, reason = toolchain.find_compiler()
    assert command == []
    assert "my-compiler -m64 does not compile C++20" in reason
    assert "concepts: no such file" in reason


@pytest.mark.parametrize(
    ("processor", "names"),
    [
        ("x86_64", ["portable", "matrix_twin", "avx2", "avx512", "amx"]),
        ("AMD64", ["portable", "matrix_twin", "avx2", "avx512", "amx"]),
        ("aarch64", ["portable", "matrix_twin", "neon"]),
        ("arm64", ["portable", "matrix_twin", "neon"]),
        ("ppc64le", ["portable", "matrix_twin"]),
    ],
)
def test_instruction_sets_of_a_processor(processor: str, names: list[str]) -> None:
    sources = setup.isa_sources(ROOT / "csrc" / "cpu" / "isa", processor)
    assert [source.stem for source, _ in sources] == names
    assert all(source.is_file() for source, _ in sources)
    for source, flags in sources:
        assert ("-mavx512f" in flags) == (source.stem in ("avx512", "amx"))
        assert ("-mamx-bf16" in flags) == (source.stem == "amx")
        assert ("-mfma" in flags) == (source.stem in ("avx2", "avx512", "amx"))


def test_unknown_instruction_set(tmp_path: Path) -> None:
    (tmp_path / "sse9.cpp").touch()
    with pytest.raises(toolchain.BuildError, match=r"expected portable, .* got sse9"):
        setup.isa_sources(tmp_path, "x86_64")


# Whole builds


def run_setup(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs setup.py on a machine whose PATH is empty."""
    (root / "empty").mkdir(exist_ok=True)
    env = {k: v for k, v in os.environ.items() if k not in ("CXX", "SYMCONV_CUDA")}
    env |= {"PATH": str(root / "empty"), **environment}
    command = [sys.executable, "-W", "ignore", "setup.py", *arguments]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What a pure Python install needs of the source tree."""
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "README.md").touch()
    (tmp_path / "csrc").mkdir()
    shutil.copy(ROOT / "csrc" / "toolchain.py", tmp_path / "csrc")
    package = tmp_path / "symconv_ext"
    package.mkdir()
    for file in ("__init__.py", "version.py"):
        shutil.copy(ROOT / "symconv_ext" / file, package)
    return tmp_path


def test_without_a_compiler_the_wheel_is_pure_python_and_says_so_once(source: Path) -> None:
    done = run_setup(source, "bdist_wheel", "--dist-dir", "wheels")
    assert done.returncode == 0, done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if "pure Python" in line]
    assert len(said) == 1, said
    assert said[0].startswith("symconv_ext: no C++ compiler is on the PATH")
    wheels = [wheel.name for wheel in (source / "wheels").iterdir()]
    assert wheels == [f"symconv_ext-{symconv_ext.__version__}-py3-none-any.whl"]


def test_a_package_without_the_extension_says_that_it_was_not_built(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("_C*", "__pycache__")
    shutil.copytree(ROOT / "symconv_ext", tmp_path / "symconv_ext", ignore=ignored)
    code = "from symconv_ext import ops; print(ops.__file__, ops.WHY_NOT)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
    assert "the compiled extension was not built" in done.stdout


def test_without_a_compiler_cuda_cannot_be_demanded(source: Path) -> None:
    done = run_setup(source, "build", SYMCONV_CUDA="1")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert re.search(r"^error: SYMCONV_CUDA=1: no C\+\+ compiler .*install", done.stderr, re.MULTILINE)


@pytest.mark.skipif(not setup.COMPILER, reason="no C++ compiler here")
def test_ninja_builds_again_only_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The build file itself, on a small tree, in a folder with a space and a dollar sign in its name."""
    root = tmp_path / "a $folder"
    files = {
        "csrc/common/number.h": "#define NUMBER 1",
        "csrc/cpu/one.cpp": '#include "../common/number.h"\nint one() { return NUMBER; }',
        "csrc/cpu/isa/portable.cpp": "int portable() { return 2; }",
        "csrc/cpu/isa/matrix_twin.cpp": "int matrix_twin() { return 3; }",
        "csrc/torch/module.cpp": 'int one(); extern "C" __attribute__((visibility("default"))) '
        "int PyInit__C() { return one(); }",
        "csrc/torch/exports.map": "{ global: PyInit__C; local: *; };",
        "torch/include/torch.h": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    library = root / "torch" / "lib" / "libtorch_cpu.so"
    library.parent.mkdir()
    subprocess.run(
        [*setup.COMPILER, "-shared", "-x", "c++", os.devnull, "-o", library], check=True, capture_output=True
    )
    monkeypatch.setattr(setup, "ROOT", root)
    monkeypatch.setattr(setup.platform, "machine", lambda: "any")
    build = setup.Build(setup.COMPILER, setup.Torch(root / "torch", "2.13.0", None), None, [])
    folder = root / "build"
    folder.mkdir()
    (folder / "build.ninja").write_text(build.ninja_file(folder, folder / "_C.so"))

    def ninja() -> str:
        command = [sys.executable, "-m", "ninja", "-C", str(folder)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "[5/5]" in ninja()
    assert (folder / "_C.so").is_file()
    assert "no work to do" in ninja()
    header = root / "csrc" / "common" / "number.h"
    os.utime(header, (header.stat().st_mtime + 10,) * 2)
    again = ninja()
    assert "one.cpp" in again
    assert "[2/2]" in again, again


# What was built


@pytest.fixture
def extension(native: None) -> Path:
    from symconv_ext import _C

    return Path(_C.__file__)


def test_extension_is_for_every_python(extension: Path) -> None:
    assert extension.name == "_C.abi3.so"


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("readelf") is None, reason="reads ELF files with readelf"
)
def test_extension_loads_without_cuda_and_exports_one_symbol(extension: Path) -> None:
    def readelf(*arguments: str) -> str:
        command = ["readelf", "--wide", *arguments, str(extension)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", readelf("--dynamic"))
    assert "libtorch_cpu.so" in needed
    assert not [name for name in needed if re.search("cuda|cudart|python|libtorch_python", name)]
    symbols = [line.split() for line in readelf("--dyn-syms").splitlines()]
    exported = [
        s[7] for s in symbols if len(s) > 7 and s[4] in ("GLOBAL", "WEAK", "UNIQUE") and s[6] != "UND"
    ]
    assert exported == ["PyInit__C"]


# Metadata


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_version_stands_in_one_place() -> None:
    assert "version" in pyproject()["project"]["dynamic"]
    module, _, name = pyproject()["tool"]["setuptools"]["dynamic"]["version"]["attr"].rpartition(".")
    assert getattr(sys.modules[module], name) == symconv_ext.__version__


def test_extras_have_the_pins_of_the_requirements() -> None:
    lines = (ROOT / "requirements" / "constraints.txt").read_text().replace('"', "'").splitlines()
    pins = {line for line in lines if "==" in line}
    for extra, requirements in pyproject()["project"]["optional-dependencies"].items():
        for requirement in requirements:
            if not requirement.startswith("symconv_ext["):
                assert requirement in pins, (
                    f"extra {extra}: {requirement} is not in requirements/constraints.txt"
                )


def test_pinned_torch_is_the_tested_one() -> None:
    assert toolchain.PINNED_TORCH in (ROOT / "requirements" / "run.txt").read_text()
