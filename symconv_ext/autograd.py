"""Derivatives of the three operators. They are made of the three operators, so any order works.

One set-up and one backward per operator serve both the ``torch.autograd.Function`` that eager calls and
torch.func use, where one flat tuple ``geometry`` (``problem.flat_geometry``) stands for the arguments from
``stride`` on, and the formula registered for the operator itself, which torch.compile traces. For f, d, g =
fprop, dgrad, wgrad, with x on the B side, y on the A side, the reduced weight w, and a prime for a cotangent:

    f(x, w):   x' = d(f', w)    w' = g(f', x)
    d(y, w):   y' = f(d', w)    w' = g(y, d')
    g(y, x):   y' = f(x, g')    x' = d(y, g')

and a bias gets the sum over batch and pixels. Each is linear in each tensor, which gives the forward mode. So
is the operator ``mirror``, which makes a dense weight.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch._C import _are_functorch_transforms_active, _len_torch_dispatch_stack
from torch.autograd import Function, forward_ad
from torch.compiler import is_compiling

from . import batching, ops, reference
from .problem import flat_geometry, split_geometry

Gradients = tuple[Tensor | None, ...]

_ALL_BUT_CHANNELS = {3: (0, 2), 4: (0, 2, 3), 5: (0, 2, 3, 4)}


class _Fprop(Function):
    """``fprop(input, weight, bias, geometry)``."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, _, ctx.geometry = inputs
        ctx.save_for_backward(input, weight)
        if _in_forward_mode():
            ctx.save_for_forward(input, weight)
            ctx.output_size = output.shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        input, weight = ctx.saved_tensors
        for_input, for_weight, for_bias, *_ = ctx.needs_input_grad
        if for_input and for_weight and _is_alone():
            gradients = ops.fprop_backward(grad, input, weight, ctx.geometry)
            return *gradients, _sum(grad) if for_bias else None, None
        return (
            dgrad(grad, weight, None, input.shape, ctx.geometry) if for_input else None,
            wgrad(grad, input, weight.shape, ctx.geometry) if for_weight else None,
            _sum(grad) if for_bias else None,
            None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: batching.InDims, *inputs: Any) -> batching.Result:
        return batching.fprop(fprop, info, in_dims, *inputs)

    @staticmethod
    def jvp(
        ctx: Any, input_t: Tensor | None, weight_t: Tensor | None, bias_t: Tensor | None, *_: None
    ) -> Tensor:
        input, weight = ctx.saved_tensors
        return _total(
            None if input_t is None else fprop(input_t, weight, None, ctx.geometry),
            None if weight_t is None else fprop(input, weight_t, None, ctx.geometry),
            _spread(bias_t, ctx.output_size),
        )


class _Dgrad(Function):
    """``dgrad(grad_output, weight, bias, input_size, geometry)``."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad_output, weight, _, ctx.input_size, ctx.geometry = inputs
        ctx.save_for_backward(grad_output, weight)
        if _in_forward_mode():
            ctx.save_for_forward(grad_output, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        grad_output, weight = ctx.saved_tensors
        for_output, for_weight, for_bias, *_ = ctx.needs_input_grad
        if for_output and for_weight and _is_alone():
            gradient, weight_gradient = ops.dgrad_backward(grad, grad_output, weight, ctx.geometry)
            return _cut(gradient, grad_output), weight_gradient, _sum(grad) if for_bias else None, None, None
        return (
            _cut(fprop(grad, weight, None, ctx.geometry), grad_output) if for_output else None,
            wgrad(grad_output, grad, weight.shape, ctx.geometry) if for_weight else None,
            _sum(grad) if for_bias else None,
            None,
            None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: batching.InDims, *inputs: Any) -> batching.Result:
        return batching.dgrad(dgrad, info, in_dims, *inputs)

    @staticmethod
    def jvp(
        ctx: Any, grad_t: Tensor | None, weight_t: Tensor | None, bias_t: Tensor | None, *_: None
    ) -> Tensor:
        grad_output, weight = ctx.saved_tensors
        return _total(
            None if grad_t is None else dgrad(grad_t, weight, None, ctx.input_size, ctx.geometry),
            None if weight_t is None else dgrad(grad_output, weight_t, None, ctx.input_size, ctx.geometry),
            _spread(bias_t, ctx.input_size),
        )


class _Wgrad(Function):
    """``wgrad(grad_output, input, weight_size, geometry)``."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad_output, input, ctx.weight_size, ctx.geometry = inputs
        ctx.save_for_backward(grad_output, input)
        if _in_forward_mode():
            ctx.save_for_forward(grad_output, input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        grad_output, input = ctx.saved_tensors
        for_output, for_input, *_ = ctx.needs_input_grad
        return (
            _cut(fprop(input, grad, None, ctx.geometry), grad_output) if for_output else None,
            dgrad(grad_output, grad, None, input.shape, ctx.geometry) if for_input else None,
            None,
            None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: batching.InDims, *inputs: Any) -> batching.Result:
        return batching.wgrad(wgrad, info, in_dims, *inputs)

    @staticmethod
    def jvp(ctx: Any, grad_t: Tensor | None, input_t: Tensor | None, *_: None) -> Tensor:
        grad_output, input = ctx.saved_tensors
        return _total(
            None if grad_t is None else wgrad(grad_t, input, ctx.weight_size, ctx.geometry),
            None if input_t is None else wgrad(grad_output, input_t, ctx.weight_size, ctx.geometry),
        )


class _Mirror(Function):
    """``mirror(weight, groups, orbits, transposed)``, linear in the weight."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, *ctx.args = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        return reference.orbit_sums(grad, *ctx.args), *(None,) * len(ctx.args)

    @staticmethod
    def vmap(info: Any, in_dims: batching.InDims, *inputs: Any) -> batching.Result:
        return batching.mirror(mirror, info, in_dims, *inputs)

    @staticmethod
    def jvp(ctx: Any, weight_t: Tensor, *_: None) -> Tensor:
        return mirror(weight_t, *ctx.args)


def _in_forward_mode() -> bool:
    """Whether the tangents of a call may be asked for."""
    return forward_ad._current_level >= 0


def _is_alone() -> bool:
    """Whether no derivative of a call may be asked for, and nothing else, such as a mode, wants to see it.

    What :meth:`_Differentiable.__call__` asks one by one, since there each answer leads elsewhere.
    """
    return not (
        is_compiling()
        or _are_functorch_transforms_active()
        or is_grad_enabled()
        or _in_forward_mode()
        or _len_torch_dispatch_stack()
    )


def _cut(output: Tensor, like: Tensor) -> Tensor:
    """The first points of ``output`` in every dimension, as many as ``like`` has.

    A transposed layer whose output_padding is no less than its stride makes an output so large that fprop
    takes it to more points than the layer's input had.
    """
    if output.shape != like.shape:
        for dim in range(2, like.dim()):
            output = output.narrow(dim, 0, like.size(dim))
    return output


def _sum(tensor: Tensor) -> Tensor:
    """``(N, C, ...)`` to ``(C,)``."""
    return tensor.sum(_ALL_BUT_CHANNELS[tensor.dim()])


def _spread(bias: Tensor | None, size: tuple[int, ...]) -> Tensor | None:
    """``(C,)`` to ``(N, C, ...)``."""
    return None if bias is None else bias.view(-1, *(1,) * (len(size) - 2)).expand(size)


def _total(*terms: Tensor | None) -> Any:
    present = [term for term in terms if term is not None]
    return sum(present[1:], start=present[0]) if present else None


class _Differentiable:
    """An operator that records its derivative only where something may ask for it."""

    def __init__(self, operator: Any, no_grad: Any, function: type[Function]) -> None:
        self.operator = operator
        self.no_grad = no_grad
        self.function = function
        function.forward = self.value  # type: ignore[method-assign] # a frame less than a method that calls it
        # Function.apply binds the signature of `forward` anew at every call, which costs more than a small
        # convolution, and looks after torch.func; without a transform neither is needed.
        self.record: Callable[..., Tensor] = super(Function, function).apply  # type: ignore[misc]

    def __call__(self, *args: Any) -> Tensor:
        if is_compiling():
            return self.operator(*args)
        if _are_functorch_transforms_active():
            return self.function.apply(*args)
        if is_grad_enabled() or _in_forward_mode():
            return self.record(*args)
        if _len_torch_dispatch_stack():
            return self.value(*args)
        return self.no_grad(*args)  # as `value` does, a call less

    def value(self, *args: Any) -> Tensor:
        """The result alone, for a call whose derivative is seen to."""
        if _are_functorch_transforms_active():
            return self.operator(*args)  # an outer transform may still want the formula
        if _len_torch_dispatch_stack():
            with torch._C._AutoDispatchBelowAutograd():  # a program that is traced has one name for it
                return self.operator(*args)
        return self.no_grad(*args)


def _taking_geometry(operator: Any) -> Callable[..., Tensor]:
    """The operator as the Functions are called."""
    return lambda *args: operator(*args[:-1], *split_geometry(args[-1]))


fprop: _Differentiable = _Differentiable(_taking_geometry(ops.fprop), ops.fprop_no_grad, _Fprop)
dgrad: _Differentiable = _Differentiable(_taking_geometry(ops.dgrad), ops.dgrad_no_grad, _Dgrad)
wgrad: _Differentiable = _Differentiable(_taking_geometry(ops.wgrad), ops.wgrad_no_grad, _Wgrad)
mirror: _Differentiable = _Differentiable(ops.mirror, ops.mirror_no_grad, _Mirror)

_FLAT = 7  # arguments of an operator that a geometry stands for


def _with_flat_geometry(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return *inputs[:-_FLAT], flat_geometry(*inputs[-_FLAT:])


def _set_up(function: type[Function], ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    function.setup_context(ctx, _with_flat_geometry(inputs), output)


def _backward(function: type[Function], ctx: Any, grad: Tensor) -> Gradients:
    return *function.backward(ctx, grad)[:-1], *(None,) * _FLAT


def _map(rule: Any, operator: Any, info: Any, in_dims: batching.InDims, *inputs: Any) -> batching.Result:
    return rule(operator, info, in_dims, *_with_flat_geometry(inputs))


if ops.LOADED:
    for _operator, _differentiable, _rule in (
        (ops.fprop, fprop, batching.fprop),
        (ops.dgrad, dgrad, batching.dgrad),
        (ops.wgrad, wgrad, batching.wgrad),
    ):
        torch.library.register_autograd(
            _operator,
            partial(_backward, _differentiable.function),
            setup_context=partial(_set_up, _differentiable.function),
        )
        torch.library.register_vmap(_operator, partial(_map, _rule, _differentiable.operator))
    torch.library.register_autograd(ops.mirror, _Mirror.backward, setup_context=_Mirror.setup_context)
    torch.library.register_vmap(ops.mirror, partial(batching.mirror, ops.mirror))
