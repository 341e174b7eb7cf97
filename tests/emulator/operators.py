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
        if tensor.untyped_storage().nbytes() > 2**30:  # of which most is untouched and takes no room
            buffer, there = self.room(tensor)
            there.copy_(tensor)
            return buffer, *self.place(tensor)
        storage = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        return self.module.Buffer(storage.numpy()), *self.place(tensor)

    def room(self, like: torch.Tensor) -> tuple[object, torch.Tensor]:
        """Device memory for a tensor that lies in its storage as `like` does, and the tensor there."""
        buffer = self.module.Buffer.zeros(like.untyped_storage().nbytes())
        numbers = torch.from_numpy(buffer.view()).view(like.dtype)
        return buffer, numbers.as_strided(like.shape, like.stride(), like.storage_offset())

    @staticmethod
    def place(tensor: torch.Tensor) -> tuple[int, list[int]]:
        """Where a tensor starts in its storage, in bytes, and its five strides."""
        strides = list(tensor.stride())
        if tensor.dim() > 2:
            strides = strides[:2] + [0] * (5 - tensor.dim()) + strides[2:]
        strides += [0] * (5 - len(strides))
        return tensor.storage_offset() * tensor.element_size(), strides

    def run(
        self,
        operator: str,
        problem: Problem,
        first: torch.Tensor,
        second: torch.Tensor,
        bias: torch.Tensor | None,
        like: torch.Tensor,
        allow_tf32: bool = False,
    ) -> torch.Tensor:
        """The operator's result, laid out like `like`, which may be a meta tensor."""
        buffer, result = self.room(like)
        if self.module.settings().last_blocks == 0:  # else only a little of it is written
            result.fill_(torch.nan)
        loans = [None if t is None else self.loan(t) for t in (first, second, bias)]
        place = (buffer, *self.place(like))
        self.module.run(operator, numbers(problem), DTYPES[like.dtype], allow_tf32, *loans, place)
        return result

    def kernel_for(
        self, operator: str, problem: Problem, dtype: torch.dtype, allow_tf32: bool = False
    ) -> str:
        return self.module.kernel_for(operator, numbers(problem), DTYPES[dtype], allow_tf32)

    def fprop(self, problem: Problem, t: Tensors, like: torch.Tensor, **options: bool) -> torch.Tensor:
        return self.run("fprop", problem, t.input, t.weight, t.bias_a, like, **options)

    def dgrad(self, problem: Problem, t: Tensors, like: torch.Tensor, **options: bool) -> torch.Tensor:
        return self.run("dgrad", problem, t.grad_output, t.weight, t.bias_b, like, **options)

    def wgrad(self, problem: Problem, t: Tensors, like: torch.Tensor, **options: bool) -> torch.Tensor:
        return self.run("wgrad", problem, t.grad_output, t.input, None, like, **options)
