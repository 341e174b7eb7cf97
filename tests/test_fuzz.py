"""The operators on random problems, with one to three threads; SYMCONV_TEST_RANDOM multiplies them."""

from __future__ import annotations

import oracle
import pytest
import torch
from problems import TIMES, Problem, random_problems
from test_operators import HALF, OPERATORS, compute, name
from tolerances import assert_close

SMALL = [p for seed in range(TIMES) for p in random_problems(120, seed)]
LARGE = [p for seed in range(TIMES) for p in random_problems(25, 1000 + seed, largest=18)]


@pytest.mark.usefixtures("native", "threads")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=name)
@pytest.mark.parametrize("p", [*SMALL, *LARGE], ids=name)
def test_random_problem(p: Problem, dtype: torch.dtype) -> None:
    case = oracle.case(p, dtype)
    torch.set_num_threads(1 + p.multiplications % 3)
    for operator in OPERATORS:
        value = compute(operator, p, case.tensors)
        assert_close(
            operator, value, getattr(case.oracle, operator), getattr(case.dense, operator), context=p
        )


@pytest.mark.usefixtures("native", "threads")
@pytest.mark.parametrize("dtype", HALF, ids=name)
@pytest.mark.parametrize("p", [p for p in SMALL if p.multiplications < 200_000][::3], ids=name)
def test_random_problem_in_half_precision(p: Problem, dtype: torch.dtype) -> None:
    case = oracle.case(p, dtype)
    torch.set_num_threads(1 + p.multiplications % 3)
    for operator in OPERATORS:
        value = compute(operator, p, case.tensors)
        assert_close(
            operator, value, getattr(case.oracle, operator), getattr(case.dense, operator), context=p
        )
