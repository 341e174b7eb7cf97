"""Derivatives of the layers: of any order, with torch.func, and for any choice of what needs one."""

from __future__ import annotations

import itertools

import oracle
import pytest
import torch
from layers import expected, forward, layer
from problems import FEW, PROBLEMS, Problem, make, problem, random_problems
from test_operators import name
from tolerances import assert_close
from torch.utils.checkpoint import checkpoint

import symconv_ext
from symconv_ext import reference

# Finite differences visit every element, so these are small.
TINY = [
    q
    for p in (
        problem("h", 5, 2, (6,), 3, {"h": 4}, padding=1),
        problem("h-stride-2", 4, 2, (7,), 2, {"h": 4}, stride=2, padding=1),
        problem("mixed", 9, 1, (3, 4), 3, {"h": 2, "v": 2, "hv": 4}, padding=1),
        problem("hv-stride-2", 4, 2, (5, 4), (2, 3), {"hv": 4}, stride=(2, 1), padding=1),
        problem("hv-dilation", 4, 1, (4, 5), 2, {"hv": 4}, dilation=2, padding=1),
        problem("hv-groups", 8, 2, (3, 3), 2, {"hv": 8}, groups=2),
        problem("hvz", 9, 1, (2, 3, 2), (2, 3, 2), {"hvz": 8}, padding=(0, 1, 1)),
        problem("vz-and-h", 6, 1, (3, 2, 3), 2, {"h": 2, "vz": 4}),
    )
    for q in (p, p.twin())
]
SECOND_ORDER = [p for p in FEW if p.batch and p.multiplications < 100_000]


def operands(p: Problem) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Input, weight and bias of the layer, in float64, each needing a gradient."""
    t = make(p)
    value, bias = (t.grad_output, t.bias_b) if p.transposed else (t.input, t.bias_a)
    return tuple(x.detach().requires_grad_() for x in (value, t.weight, bias))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("p", TINY, ids=name)
def test_gradcheck(p: Problem) -> None:
    operand = operands(p)
    assert torch.autograd.gradcheck(lambda *args: forward(p, *args), operand, fast_mode=False)
    assert torch.autograd.gradcheck(
        lambda *args: forward(p, *args), operand, check_forward_ad=True, check_backward_ad=False
    )


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("p", TINY, ids=name)
def test_gradgradcheck(p: Problem) -> None:
    assert torch.autograd.gradgradcheck(lambda *args: forward(p, *args), operands(p))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("p", FEW, ids=name)
def test_gradients_do_not_depend_on_what_else_is_asked_for(p: Problem) -> None:
    operand = operands(p)
    output = forward(p, *operand)
    together = torch.autograd.grad(output.sum(), operand, retain_graph=True)
    for tensor, gradient in zip(operand, together, strict=True):
        assert torch.equal(torch.autograd.grad(output.sum(), tensor, retain_graph=True)[0], gradient)
    recorded = torch.autograd.grad(output.sum(), operand, create_graph=True)
    for a, b in zip(recorded, together, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("p", [*FEW, *PROBLEMS[::11]], ids=name)
def test_backend_auto_matches_the_oracle_wherever_it_computes(p: Problem) -> None:
    operand = operands(p)
    with symconv_ext.backend("auto"):
        output = forward(p, *operand)
        found = torch.autograd.grad(output.sin().sum(), operand)
        with torch.no_grad():
            assert_close("fprop", forward(p, *operand), output, context=p)
    wanted = expected(p, *operand)
    assert_close("fprop", output, wanted, context=p)
    for a, b in zip(found, torch.autograd.grad(wanted.sin().sum(), operand), strict=True):
        assert_close("dgrad", a, b, context=p)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("p", [*FEW, *random_problems(30, seed=7, largest=3)], ids=name)
def test_gradients_match_the_oracle(p: Problem) -> None:
    operand = operands(p)
    for function in (forward, expected):
        output = function(p, *operand)
        direction = torch.arange(output.numel(), dtype=output.dtype).cos().view_as(output)
        found = torch.autograd.grad(output, operand, direction)
        if function is forward:
            ours, gradients = output, found
    assert_close("fprop", ours, output, context=p)
    for operator, a, b in zip(("dgrad", "wgrad", "wgrad"), gradients, found, strict=True):
        assert_close(operator, a, b, context=p)


@pytest.mark.parametrize("p", SECOND_ORDER, ids=name)
def test_second_and_third_derivatives_match_the_oracle(native: None, p: Problem) -> None:
    with symconv_ext.backend("native"):
        check_three_orders(p)


# torch's own transposed convolution has no second derivative with output_padding.
@pytest.mark.parametrize(
    "p", [p for p in SECOND_ORDER if not (p.transposed and any(p.output_padding))], ids=name
)
def test_second_and_third_derivatives_of_the_torch_backend(p: Problem) -> None:
    with symconv_ext.backend("torch"):
        check_three_orders(p)


def check_three_orders(p: Problem) -> None:
    def derivatives(function: object) -> list[torch.Tensor]:
        operand = operands(p)
        loss = function(p, *operand).sin().sum()
        found = []
        for _ in range(3):
            gradients = torch.autograd.grad(loss, operand, create_graph=True)
            found += gradients
            loss = sum(g.square().sum() for g in gradients)
        return found

    for a, b in zip(derivatives(forward), derivatives(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * b.abs().max().item())


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("transposed", [False, True], ids=["convolution", "transposed"])
def test_only_what_needs_a_gradient_gets_one(transposed: bool) -> None:
    p = problem("partial", 10, 3, (5, 6), 3, {"h": 2, "v": 2, "hv": 4}, padding=1)
    p = p.twin() if transposed else p
    full = operands(p)
    reference = torch.autograd.grad(forward(p, *full).square().sum(), full)
    for needs in itertools.product((False, True), repeat=3):
        some = [x.detach().requires_grad_(need) for x, need in zip(full, needs, strict=True)]
        output = forward(p, *some)
        assert output.requires_grad == any(needs)
        if any(needs):
            output.square().sum().backward()
        for x, need, gradient in zip(some, needs, reference, strict=True):
            assert (x.grad is not None) == need
            assert not need or torch.equal(x.grad, gradient)
    with torch.no_grad():
        assert not forward(p, *full).requires_grad
    assert not forward(p, full[0].detach(), full[1].detach(), None).requires_grad


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("transposed", [False, True], ids=["convolution", "transposed"])
def test_graph_semantics_of_torch(transposed: bool) -> None:
    """Accumulation, retained graphs, broadcast gradients, hooks, checkpoints and in-place changes."""
    p = problem("graph", 10, 3, (5, 6), 3, {"h": 2, "v": 2, "hv": 4}, padding=1)
    p = p.twin() if transposed else p
    value, weight, bias = operands(p)
    once = torch.autograd.grad(
        forward(p, value, weight, bias).sum(), (value, weight, bias)
    )  # a gradient of strides 0
    expected_once = torch.autograd.grad(expected(p, value, weight, bias).sum(), (value, weight, bias))
    for a, b in zip(once, expected_once, strict=True):
        assert_close("dgrad", a, b)

    output = forward(p, value, weight, bias)
    output.sum().backward(retain_graph=True)
    output.sum().backward()
    for x, gradient in zip((value, weight, bias), once, strict=True):
        torch.testing.assert_close(x.grad, 2 * gradient)
    with pytest.raises(RuntimeError, match="second time"):
        output.sum().backward()

    seen = []
    output = forward(p, value, weight, bias)
    output.register_hook(lambda g: seen.append(g.shape))
    output.sum().backward()
    assert seen == [output.shape]

    for a, b in zip(
        torch.autograd.grad(
            checkpoint(lambda *args: forward(p, *args), value, weight, bias, use_reentrant=False).sum(),
            (value, weight, bias),
        ),
        once,
        strict=True,
    ):
        assert torch.equal(a, b)

    if symconv_ext.backends.setting == "torch":
        return  # it keeps the mirrored copy of the weight
    changed = weight.detach().clone().requires_grad_()
    output = forward(p, value, changed, bias)
    with torch.no_grad():
        changed.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_output_padding_between_stride_and_dilation(rank: int) -> None:
    """A transposed layer may add its stride or more to its output; fprop then gives more than the input."""
    size, cases = (3, 4, 5)[-rank:], {1: {"h": 4}, 2: {"hv": 4}, 3: {"hvz": 8}}
    transposed = layer(
        problem("over", 3, 9, size, 3, cases[rank], dilation=3, stride=2, padding=1, transposed=True),
        dtype=torch.float64,
    )
    transposed.output_padding = (2, 1, 2)[:rank]
    dense = getattr(torch.nn, f"ConvTranspose{rank}d")(
        3, 9, 3, 2, 1, (2, 1, 2)[:rank], dilation=3, dtype=torch.float64
    )
    weight, bias = transposed.weight, transposed.bias
    value = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    tied = oracle.dense_weight(weight, transposed.symmetry.orbits, 1, True)
    output = torch.func.functional_call(dense, {"weight": tied, "bias": bias}, value)
    found = transposed(value)
    assert_close("dgrad", found, output.detach())
    direction = torch.randn_like(output)
    for a, b in zip(
        torch.autograd.grad(found, (value, weight, bias), direction, create_graph=True),
        torch.autograd.grad(output, (value, weight, bias), direction),
        strict=True,
    ):
        assert_close("fprop", a, b)
    if rank < 3:
        assert torch.autograd.gradcheck(lambda x: transposed(x[:1]), value)


def test_backward_stays_on_the_backend_of_its_forward(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem("switch", 4, 3, (5, 6), 3, {"hv": 4}, padding=1)
    operand = operands(p)
    with symconv_ext.backend("native"):
        inside = forward(p, *operand)
    with symconv_ext.backend("torch"):
        monkeypatch.setattr(reference, "fprop", None)
        monkeypatch.setattr(reference, "dgrad", None)
        monkeypatch.setattr(reference, "mirror", None)
        gradients = torch.autograd.grad(inside.sum(), operand)
    assert_close("wgrad", gradients[1], torch.autograd.grad(expected(p, *operand).sum(), operand)[1])


FUNC = [
    problem("func", 10, 3, (4, 5), 3, {"h": 2, "v": 2, "hv": 4}, padding=1),
    problem("func-groups", 12, 4, (4, 5), (2, 3), {"h": 4, "hv": 8}, stride=2, padding=1, groups=2),
]
FUNC = [q for p in FUNC for q in (p, p.twin())]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("p", FUNC, ids=name)
class TestFunc:
    """torch.func against the same transform of the oracle."""

    def both(self, p: Problem, transform: object) -> None:
        operand = tuple(x.detach() for x in operands(p))
        ours = transform(lambda *args: forward(p, *args))(*operand)
        theirs = transform(lambda *args: expected(p, *args))(*operand)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)

    def test_grad(self, p: Problem) -> None:
        self.both(p, lambda f: torch.func.grad(lambda *args: f(*args).sin().sum(), argnums=(0, 1, 2)))

    def test_grad_of_grad(self, p: Problem) -> None:
        def norm(f: object) -> object:
            inner = torch.func.grad(lambda *args: f(*args).sin().sum(), argnums=(0, 1))
            return lambda *args: sum(g.square().sum() for g in inner(*args))

        self.both(p, lambda f: torch.func.grad(norm(f), argnums=(0, 1, 2)))

    def test_jvp(self, p: Problem) -> None:
        self.both(p, lambda f: lambda *args: torch.func.jvp(f, args, tuple(x.cos() for x in args)))

    def test_jvp_of_some(self, p: Problem) -> None:
        self.both(p, lambda f: lambda x, w, b: torch.func.jvp(lambda w: f(x, w, b), (w,), (w.cos(),)))
        self.both(p, lambda f: lambda x, w, b: torch.func.jvp(lambda b: f(x, w, b), (b,), (b.cos(),)))

    def test_vjp(self, p: Problem) -> None:
        def pull(f: object) -> object:
            def back(*args: torch.Tensor) -> object:
                output, function = torch.func.vjp(f, *args)
                return function(output.cos())

            return back

        self.both(p, pull)

    def test_jacobians(self, p: Problem) -> None:
        self.both(p, lambda f: torch.func.jacrev(lambda x, w, b: f(x, w, b).sum((0, 2)), argnums=(1, 2)))
        self.both(p, lambda f: torch.func.jacfwd(lambda x, w, b: f(x, w, b).sum((0, 2)), argnums=(1, 2)))

    def test_hessian(self, p: Problem) -> None:
        self.both(p, lambda f: torch.func.hessian(lambda x, w, b: f(x, w, b).sin().sum(), argnums=1))

    @pytest.mark.parametrize(
        "mapped",
        [
            m
            for m in itertools.product((0, 1, None), (0, 1, None), (0, None))
            if any(d is not None for d in m)
        ],
        ids=str,
    )
    def test_vmap(self, p: Problem, mapped: tuple[int | None, ...]) -> None:
        def stack(x: torch.Tensor, dim: int | None) -> torch.Tensor:
            return x if dim is None else torch.stack([x, 2 * x, x.cos()], dim)

        def mapped_over(f: object) -> object:
            return lambda *args: torch.vmap(f, in_dims=mapped)(*map(stack, args, mapped))

        self.both(p, mapped_over)

    def test_gradients_of_each_sample(self, p: Problem) -> None:
        def each(f: object) -> object:
            one = torch.func.grad(lambda w, b, x: f(x[None], w, b).sin().sum(), argnums=(0, 1))
            return lambda x, w, b: torch.vmap(one, in_dims=(None, None, 0))(w, b, x)

        self.both(p, each)
