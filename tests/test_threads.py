"""How the CPU kernels run on torch's threads: every piece once, and no exception ends the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import compiler, make_library

SOURCE = Path(__file__).with_name("thread_pieces.cpp")
CSRC = Path(__file__).parents[1] / "csrc"
TORCH = Path(torch.__file__).parent


@pytest.fixture(scope="session")
def count_pieces() -> Any:
    """The test operator, compiled again whenever it or a header of csrc/torch has changed."""
    cxx = compiler()
    if cxx is None:
        pytest.skip("no C++ compiler here")
    command = [cxx, "-std=c++20", "-O1", "-fPIC", "-shared", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    command += [
        "-isystem",
        str(TORCH / "include"),
        f"-I{CSRC}",
        str(SOURCE),
        f"-L{TORCH / 'lib'}",
        "-ltorch_cpu",
    ]
    library = make_library(command, "thread_pieces", sorted([SOURCE, *(CSRC / "torch").glob("*.h")]))
    torch.ops.load_library(str(library))
    return torch.ops.symconv_test_threads.count_pieces


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("size", [0, 1, 3, 1000])
def test_every_element_is_in_one_piece(count_pieces: Any, threads: None, count: int, size: int) -> None:
    torch.set_num_threads(count)
    counts = torch.zeros(size, dtype=torch.int64)
    count_pieces(counts, size)
    assert counts.eq(1).all()


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("first_bad", [0, 500, 999])
def test_an_exception_in_a_piece_reaches_the_caller(
    count_pieces: Any, threads: None, count: int, first_bad: int
) -> None:
    """In all threads, in some, or only in the last one, which is never the calling thread."""
    torch.set_num_threads(count)
    counts = torch.zeros(1000, dtype=torch.int64)
    with pytest.raises(RuntimeError, match=r"^a piece failed$"):
        count_pieces(counts, first_bad)
    assert counts.eq(1).all()
    count_pieces(counts, 1000)  # the pool still works
    assert counts.eq(2).all()
