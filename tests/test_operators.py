"""torch.ops.symconv_ext.{fprop, dgrad, wgrad} against the float64 oracle, over the shared problems."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import oracle
import pytest
import torch
from problems import FEW, PROBLEMS, STRIPS, Problem, Tensors, lay_out, make, problem
from tolerances import assert_close
from torch._subclasses import FakeTensorMode

from symconv_ext import reference
from symconv_ext.problem import flat_geometry

OPERATORS = ("fprop", "dgrad", "wgrad")
HALF = (torch.float16, torch.bfloat16)
# torch's own half convolutions are slow on most CPUs, so the largest problems are left out for them.
CHEAP = [p for p in PROBLEMS if p.multiplications < 300_000]
FORMATS = [
    p
    for i, p in enumerate(PROBLEMS)
    if i % 8 == 0 or {p.layout, p.weight_layout} != {"contiguous"} or p.batch == 0 or 1 in p.output_size[1:]
]
LARGE = [p for p in PROBLEMS if p.multiplications >= 2_000_000]


def operands(operator: str, p: Problem, t: Tensors, bias: bool = True) -> tuple[object, ...]:
    """The arguments of torch.ops.symconv_ext.<operator>."""
    if operator == "fprop":
        return (t.input, t.weight, t.bias_a if bias else None, *p.arguments)
    if operator == "dgrad":
        return (t.grad_output, t.weight, t.bias_b if bias else None, p.input_size, *p.arguments)
    return (t.grad_output, t.input, p.weight_size, *p.arguments)


def compute(operator: str, p: Problem, t: Tensors, bias: bool = True) -> torch.Tensor:
    return getattr(torch.ops.symconv_ext, operator)(*operands(operator, p, t, bias))


def name(value: object) -> str | None:
    return str(value).removeprefix("torch.") if isinstance(value, (Problem, torch.dtype)) else None


def each(dtypes: tuple[torch.dtype, ...], problems: list[Problem]) -> list[object]:
    return [pytest.param(p, dtype, id=f"{p}-{name(dtype)}") for p in problems for dtype in dtypes]


EVERY_DTYPE = [
    *each((torch.float64, torch.float32), PROBLEMS),
    *each((torch.float16,), CHEAP[::2]),
    *each((torch.bfloat16,), CHEAP[1::2]),
]


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(("p", "dtype"), EVERY_DTYPE)
def test_native_matches_the_oracle(p: Problem, dtype: torch.dtype, operator: str) -> None:
    case = oracle.case(p, dtype)
    value = compute(operator, p, case.tensors)
    assert value.dtype == dtype
    assert_close(operator, value, getattr(case.oracle, operator), getattr(case.dense, operator), context=p)


@pytest.mark.usefixtures("native", "threads")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("operator", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("p", STRIPS, ids=name)
def test_taps_along_v_out_of_the_patch(p: Problem, operator: str, layout: str) -> None:
    p = dataclasses.replace(p, layout=layout)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        case = oracle.case(p, dtype)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            value = compute(operator, p, case.tensors)
            wanted = (getattr(case.oracle, operator), getattr(case.dense, operator))
            assert_close(operator, value, *wanted, context=(p, threads))
            assert torch.equal(value, compute(operator, p, case.tensors))


@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
@pytest.mark.parametrize("p", PROBLEMS, ids=name)
def test_torch_backend_matches_the_oracle(p: Problem, operator: str) -> None:
    case = oracle.case(p, torch.float64)
    value = getattr(reference, operator)(*operands(operator, p, case.tensors)[:-1])
    assert_close(operator, value, getattr(case.oracle, operator), context=p)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF], ids=name)
def test_mirror_is_the_dense_weight(dtype: torch.dtype) -> None:
    """Values are only moved, so they are the same to the bit."""
    for p in PROBLEMS:
        weight = make(p, dtype).weight
        dense = torch.ops.symconv_ext.mirror(weight, p.groups, p.orbits, p.transposed)
        expected = oracle.dense_weight(weight, p.orbits, p.groups, p.transposed)
        assert dense.dtype == dtype
        assert torch.equal(dense, expected), p
        with FakeTensorMode() as mode:
            fake = torch.ops.symconv_ext.mirror(mode.from_tensor(weight), p.groups, p.orbits, p.transposed)
        assert (fake.shape, fake.stride()) == (dense.shape, dense.stride()), p


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
@pytest.mark.parametrize("p", FEW, ids=name)
def test_bias_is_optional_and_of_any_stride(p: Problem, operator: str) -> None:
    t = oracle.case(p, torch.float64).tensors
    without = getattr(oracle.results(p, t), operator) - oracle.add_bias(
        torch.zeros(p.output_size if operator == "fprop" else p.input_size, dtype=torch.float64),
        t.bias_a if operator == "fprop" else t.bias_b,
    )
    assert_close("fprop", compute(operator, p, t, bias=False), without, context=p)
    spread = {
        k: torch.stack([getattr(t, k), torch.full_like(getattr(t, k), torch.nan)], 1)[:, 0]
        for k in ("bias_a", "bias_b")
    }
    assert torch.equal(compute(operator, p, dataclasses.replace(t, **spread)), compute(operator, p, t))


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("p", FORMATS, ids=name)
def test_format_of_the_output_is_torch_s_and_the_fake_one_s(p: Problem) -> None:
    t = make(p, torch.float32)
    real = {operator: compute(operator, p, t) for operator in OPERATORS}
    with FakeTensorMode() as mode:
        fakes = Tensors(*(mode.from_tensor(getattr(t, f.name)) for f in dataclasses.fields(t)))
        fake = {operator: compute(operator, p, fakes) for operator in OPERATORS}
    for operator in OPERATORS:
        assert fake[operator].shape == real[operator].shape, operator
        assert fake[operator].stride() == real[operator].stride(), operator
        assert fake[operator].dtype == real[operator].dtype, operator
        assert real[operator].storage_offset() == 0

    dense = lay_out(oracle.dense_weight(t.weight, p.orbits, p.groups, p.transposed), p.weight_layout)
    if p.transposed:
        forward = "dgrad"
        rest = (p.stride, p.padding, p.output_padding, p.groups, p.dilation)
        expected = oracle.TRANSPOSED[p.rank](t.grad_output, dense, None, *rest)
    else:
        forward = "fprop"
        expected = oracle.convolve(p, t.input, dense)
    if 1 in dense.shape[:2] and p.weight_layout != "contiguous":
        return  # the dense and the reduced weight need not suggest the same format
    if p.rank == 3 and p.batch == 1 and expected.is_contiguous():
        return  # torch computes small 3-D problems without oneDNN, and then always contiguous
    assert real[forward].stride() == expected.stride()


@pytest.mark.usefixtures("native", "threads")
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("p", "dtype"), [*each((torch.float32, torch.float64), FEW), *each((torch.float32,), LARGE)]
)
def test_repeats_bit_for_bit_with_any_number_of_threads(
    p: Problem, dtype: torch.dtype, operator: str
) -> None:
    case = oracle.case(p, dtype)
    t = case.tensors
    before = {f.name: getattr(t, f.name).clone() for f in dataclasses.fields(t)}
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        first = compute(operator, p, t)
        del_me = torch.full([first.numel() + 7], torch.nan, dtype=dtype)  # so that stale memory shows
        del del_me
        assert torch.equal(compute(operator, p, t), first), f"{threads} threads"
        assert_close(
            operator, first, getattr(case.oracle, operator), getattr(case.dense, operator), context=threads
        )
    for field, value in before.items():
        assert torch.equal(getattr(t, field), value), f"{field} was written to"


@pytest.mark.usefixtures("native", "threads")
@pytest.mark.parametrize("operator", OPERATORS)
def test_more_problems_than_a_thread_remembers(operator: str) -> None:
    """Plans are kept for 64 problems; whichever are at hand, a problem gets its own."""
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    orbits, mirrored = (0, 0, 0, 4, 0, 0, 0, 0), 16
    cases = []
    for size in range(3, 53):
        for stride in (1, 2):
            output = (size + 2 - 3) // stride + 1
            value = weight.new_empty(2, 3, size, 5).normal_()
            grad = weight.new_empty(2, mirrored, output, 4 // stride + 1).normal_()
            geometry = ((stride, stride), (1, 1), (1, 1), 1, orbits, False, False)
            first = {"fprop": (value, weight, None), "dgrad": (grad, weight, None, value.shape)}
            cases.append((*first.get(operator, (grad, value, weight.shape)), *geometry))
    call = getattr(torch.ops.symconv_ext, operator)
    dense = reference.mirror(weight, 1, orbits, False)
    for _ in range(2):
        for threads, arguments in enumerate(cases):
            torch.set_num_threads(1 + threads % 2)
            result = call(*arguments)
            stride = arguments[-7]
            if operator == "fprop":
                expected = torch.nn.functional.conv2d(arguments[0], dense, None, stride, 1)
            elif operator == "dgrad":
                expected = torch.nn.grad.conv2d_input(arguments[3], dense, arguments[0], stride, 1)
            else:
                full = torch.nn.grad.conv2d_weight(arguments[1], dense.shape, arguments[0], stride, 1)
                expected = reference.orbit_sums(full, 1, orbits, False)
            torch.testing.assert_close(result, expected)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("operator", [*OPERATORS, "mirror"])
def test_no_grad_operators_are_the_same_without_a_derivative(operator: str) -> None:
    p = FEW[0]
    t = make(p)
    arguments = (
        (t.weight, p.groups, p.orbits, p.transposed) if operator == "mirror" else operands(operator, p, t)
    )
    flat = arguments if operator == "mirror" else (*arguments[:-7], flat_geometry(*arguments[-7:]))
    tensors = [a.requires_grad_() for a in arguments if isinstance(a, torch.Tensor)]
    differentiable = getattr(torch.ops.symconv_ext, operator)(*arguments)
    with torch.no_grad():
        alone = getattr(torch.ops.symconv_ext, f"{operator}_no_grad")(*flat)
    assert tensors
    assert differentiable.requires_grad
    assert not alone.requires_grad
    assert torch.equal(differentiable, alone)
    with FakeTensorMode() as fake:
        inside = [fake.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in flat]
        traced = getattr(torch.ops.symconv_ext, f"{operator}_no_grad")(*inside)
    assert (traced.shape, traced.stride()) == (alone.shape, alone.stride())


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("p", FEW, ids=name)
def test_both_gradients_in_one_call_are_those_of_two(p: Problem) -> None:
    t = make(p, torch.float32)
    ops, geometry = torch.ops.symconv_ext, flat_geometry(*p.arguments)
    fprop, dgrad, wgrad = (compute(operator, p, t, bias=False) for operator in OPERATORS)
    for operator, operand, first in (
        (ops.fprop_backward, (t.grad_output, t.input, t.weight), dgrad),
        (ops.dgrad_backward, (t.input, t.grad_output, t.weight), fprop),
    ):
        both = operator(*operand, geometry)
        assert torch.equal(both[0], first)
        assert torch.equal(both[1], wgrad)
        with FakeTensorMode() as fake:
            traced = operator(*map(fake.from_tensor, operand), geometry)
        for a, b in zip(traced, both, strict=True):
            assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("count", [0, 11, 13, 16, 18, 23])
def test_a_geometry_of_another_length_is_refused(count: int) -> None:
    value, weight = torch.randn(1, 1, 5, 5), torch.randn(1, 1, 3, 3)
    with pytest.raises(RuntimeError, match="geometry: expected stride, padding and dilation in up to 3"):
        torch.ops.symconv_ext.fprop_no_grad(value, weight, None, [1] * count)


@pytest.mark.usefixtures("native")
def test_a_geometry_of_another_rank_is_refused() -> None:
    flat = flat_geometry((1,), (1,), (1,), 1, (0,) * 7 + (1,), False, False)
    with pytest.raises(RuntimeError, match=r"stride: expected 2 numbers, .*, got \[1\]"):
        torch.ops.symconv_ext.fprop_no_grad(torch.randn(1, 1, 5, 5), torch.randn(1, 1, 3, 3), None, flat)


@pytest.mark.usefixtures("native")
def test_calls_from_several_python_threads_do_not_disturb_each_other() -> None:
    chosen = [p for p in LARGE if p.multiplications < 20_000_000][:6]
    jobs = [(operator, p, make(p, torch.float32)) for p in chosen for operator in OPERATORS] * 2
    alone = [compute(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: compute(*job), jobs))
    for job, a, b in zip(jobs, alone, together, strict=True):
        assert torch.equal(a, b), job[:2]


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("change", ["double", "negative view", "inference"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_views_and_modes_of_torch(operator: str, change: str) -> None:
    """Linear in each tensor, also where a view says so, and usable in inference mode."""
    p = problem("views", 10, 3, (5, 6), 3, {"h": 2, "v": 2, "hv": 4}, padding=1)
    t = make(p)
    value = compute(operator, p, t, bias=False)
    if change == "inference":
        with torch.inference_mode():
            assert torch.equal(compute(operator, p, t, bias=False), value)
        return
    first = {"fprop": "input", "dgrad": "grad_output", "wgrad": "grad_output"}[operator]
    x = getattr(t, first)
    changed = 2 * x if change == "double" else torch._neg_view(x)
    factor = 2 if change == "double" else -1
    assert change == "double" or changed.is_neg()
    assert torch.equal(
        compute(operator, p, dataclasses.replace(t, **{first: changed}), bias=False), factor * value
    )


def _poisoned(
    p: Problem, operator: str, at: Callable[[torch.Tensor], None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the result and the oracle's are NaN once `at` put NaN into the first operand."""
    t = make(p)
    first = t.input if operator == "fprop" else t.grad_output
    at(first)
    expected = getattr(oracle, operator)(
        p, first, t.input if operator == "wgrad" else t.weight, *([] if operator == "wgrad" else [None])
    )
    return compute(operator, p, t, bias=False).isnan(), expected.isnan()


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("operator", ["fprop", "dgrad"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("transposed", [False, True], ids=["convolution", "transposed"])
def test_nan_reaches_exactly_the_outputs_that_see_it(
    operator: str, layout: str, stride: int, transposed: bool
) -> None:
    p = problem(
        "nan", 40, 34, (9, 25), 3, {"hv": 32, "h": 4}, stride=stride, padding=1, groups=2, layout=layout
    )
    p = p.twin() if transposed else p

    def at(x: torch.Tensor) -> None:
        x[1, 1, 2, 3] = torch.nan

    found, expected = _poisoned(p, operator, at)
    assert expected.any()
    assert not expected.all()
    assert torch.equal(found, expected)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", HALF, ids=name)
def test_halves_do_not_overflow_where_the_dense_layer_does_not(operator: str, dtype: torch.dtype) -> None:
    """Sums of mirrored taps, or of an orbit's gradients, exceed float16 here; the results do not."""
    p = problem("large values", 8, 4, (2, 6, 7), 3, {"hvz": 8}, padding=1)
    t = make(p, dtype)
    t = dataclasses.replace(
        t,
        input=torch.full_like(t.input, 60_000 if operator == "fprop" else 1e-3),
        grad_output=torch.full_like(t.grad_output, 60_000 if operator == "dgrad" else 3_000),
        weight=t.weight * 2.0**-6,
    )
    dense, exact = oracle.results(p, t), oracle.results(p, oracle.double(t))
    assert getattr(dense, operator).isfinite().all()
    value = compute(operator, p, t)
    assert_close(operator, value, getattr(exact, operator), getattr(dense, operator))
