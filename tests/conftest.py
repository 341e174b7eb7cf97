"""Fixtures that every test file shares: the backends, and a build to test.

A missing extension is a failure on a machine that could have built it. Set SYMCONV_TEST_PURE=1 to test the
package as it is installed without a compiler: tests of the native backend are then skipped.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # problems, oracle, tolerances

import symconv_ext
from symconv_ext import backends, ops

PURE = os.environ.get("SYMCONV_TEST_PURE", "0") not in ("", "0")
torch.set_num_threads(1)  # most problems are tiny; tests of threads ask for more
BUILD = Path(__file__).parents[1] / "build" / "tests"  # what the tests compile for themselves


def compiler() -> str | None:
    """The C++ compiler that tests use, if there is one."""
    return next(
        (path for name in (os.environ.get("CXX"), "g++", "clang++") if name and (path := shutil.which(name))),
        None,
    )


def make_library(command: list[str], name: str, inputs: Iterable[Path]) -> Path:
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


@pytest.fixture(scope="session")
def native() -> None:
    """The compiled operators are there: else fail, or skip where nobody could have built them."""
    if PURE:
        pytest.skip("SYMCONV_TEST_PURE is set: the native backend is not tested")
    if not ops.LOADED:
        if compiler() is None:
            pytest.skip("no C++ compiler here, so the extension could not be built")
        pytest.fail(f"{ops.WHY_NOT}; build it: python setup.py build_ext --inplace", pytrace=False)


@pytest.fixture(params=["torch", "native"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once on each backend."""
    if request.param == "native":
        request.getfixturevalue("native")
    with symconv_ext.backend(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def unchanged_settings() -> Iterator[None]:
    """No test may leave the process otherwise than it found it."""
    torch.manual_seed(0)
    before = (backends.setting, torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
    yield
    after = (backends.setting, torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
    assert after == before


@pytest.fixture
def threads() -> Iterator[None]:
    """Lets a test call torch.set_num_threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
