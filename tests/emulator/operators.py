"""The CUDA operators on the emulated device, for torch tensors on the CPU."""

from __future__ import annotations

from types import ModuleType

import torch
from problems import Problem, Tensors

DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}


def numbers(problem: Problem) -> list[int]:
    """The problem as the emulator's module takes it: three spatial dimensions, the missing ones of size 1."""

    def three(values: tuple[int, ...] | list[int], missing: int) -> list[int]:
        return [missing] * (3 - len(values)) + list(values)

    p = problem
    spatial = [
        (p.size, 1),
        (p.output_size[2:], 1),
        (p.kernel, 1),
        (p.stride, 1),
        (p.padding, 0),
        (p.dilation, 1),
    ]
    flat = [n for values, missing in spatial for n in three(values, missing)]
    return [p.batch, p.a, p.b, p.groups, int(p.transposed), *flat, *p.orbits]


class Device:
    """One emulated device, as ``tests/emulator/build.py`` loads it."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def loan(self, tensor: torch.Tensor) -> tuple[object, int, list[int]]:
        """The tensor's whole storage in device memory, with its offset and five strides."""
        storage = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        strides = list(tensor.stride())
        if tensor.dim() > 2:
            strides = strides[:2] + [0] * (5 - tensor.dim()) + strides[2:]
        strides += [0] * (5 - len(strides))
        return self.module.Buffer(storage.numpy()), tensor.storage_offset() * tensor.element_size(), strides

    def run(
        self,
        operator: str,
        problem: Problem,
        first: torch.Tensor,
        second: torch.Tensor,
        bias: torch.Tensor | None,
        result: torch.Tensor,
        allow_tf32: bool = False,
    ) -> torch.Tensor:
        """Runs the operator into `result`, whose values before do not matter, and returns it."""
        storage = torch.empty(0, dtype=torch.uint8).set_(result.untyped_storage())
        storage.fill_(0xFF)  # not a number, in every dtype
        loans = [None if t is None else self.loan(t) for t in (first, second, bias, result)]
        self.module.run(operator, numbers(problem), DTYPES[result.dtype], allow_tf32, *loans)
        storage.copy_(torch.from_numpy(loans[3][0].numpy()))
        return result

    def kernel_for(
        self, operator: str, problem: Problem, dtype: torch.dtype, allow_tf32: bool = False
    ) -> str:
        return self.module.kernel_for(operator, numbers(problem), DTYPES[dtype], allow_tf32)

    def fprop(self, problem: Problem, t: Tensors, result: torch.Tensor, **options: bool) -> torch.Tensor:
        return self.run("fprop", problem, t.input, t.weight, t.bias_a, result, **options)

    def dgrad(self, problem: Problem, t: Tensors, result: torch.Tensor, **options: bool) -> torch.Tensor:
        return self.run("dgrad", problem, t.grad_output, t.weight, t.bias_b, result, **options)

    def wgrad(self, problem: Problem, t: Tensors, result: torch.Tensor, **options: bool) -> torch.Tensor:
        return self.run("wgrad", problem, t.grad_output, t.input, None, result, **options)
