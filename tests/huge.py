"""fprop and dgrad with results of more than 2^31 elements on the emulated device: the end of such a result.

Only the last blocks of every launch run, and memory that nothing touches takes no room: so it takes a second.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from emulator.operators import Device
from problems import Problem, Tensors, lay_out

LAST_BLOCKS = 160  # among them all that fold the weights of 512 channels


def ending_in(p: Problem, operator: str, along: str) -> Problem:
    """`p`, of one image, with so many images or rows that seven channels of eight have 2^31 elements."""
    size = p.output_size if operator == "fprop" else p.input_size
    times = 2**31 * 8 // (7 * math.prod(size)) + 2
    if along == "images":
        return dataclasses.replace(p, batch=times)
    return dataclasses.replace(p, size=(times * p.size[0], *p.size[1:]))


def last_points(result: torch.Tensor) -> torch.Tensor:
    """What the last blocks write in any case."""
    return result[-1:, :, -1:, -4:]


def end_of_huge_result(
    device: Device, operator: str, p: Problem, t: Tensors, along: str, allow_tf32: bool = False
) -> torch.Tensor:
    """The last points of the result of a huge problem whose last image, or last rows, are those of `p`."""
    huge = ending_in(p, operator, along)
    source = t.input if operator == "fprop" else t.grad_output
    sizes = [huge.input_size, huge.output_size]
    of_source, of_result = sizes if operator == "fprop" else reversed(sizes)
    many = lay_out(source.new_zeros(1).expand(of_source), p.layout)
    many[-1:, :, -source.shape[2] :] = source
    result = lay_out(source.new_empty(1).to("meta").expand(of_result), p.layout)
    tensors = dataclasses.replace(t, **{"input" if operator == "fprop" else "grad_output": many})
    settings = device.module.settings()
    settings.last_blocks = LAST_BLOCKS
    try:
        return last_points(getattr(device, operator)(huge, tensors, result, allow_tf32=allow_tf32))
    finally:
        settings.last_blocks = 0
