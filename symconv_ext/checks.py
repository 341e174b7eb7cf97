"""What is wrong with the tensors of a call, in words. All but the first is asked only when a call failed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .problem import Problem


def check_is_tensor(input: object) -> None:
    """Raises ``TypeError`` if the input is none."""
    if not isinstance(input, Tensor):
        raise TypeError(f"input: expected a tensor, got {type(input).__name__}")


def check_tensors(
    problem: Problem,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    output_padding: Sequence[int] | None = None,
) -> None:
    """Raises ``RuntimeError`` (as torch's own layers do) if the tensors do not fit the problem."""
    check_weight(problem, weight)
    if bias is not None and tuple(bias.shape) != (problem.out_channels,):
        raise RuntimeError(
            f"bias: expected one value per output channel, ({problem.out_channels},), got {tuple(bias.shape)}"
        )
    rank = problem.rank
    letters = ("length",) if rank == 1 else ("height", "width") if rank == 2 else ("depth", "height", "width")
    spatial = ", ".join(letters)
    if input.dim() not in (rank + 1, rank + 2):
        raise RuntimeError(
            f"input: expected (batch, channels, {spatial}) or (channels, {spatial}), got {input.dim()} "
            f"dimensions: {tuple(input.shape)}"
        )
    channels = input.size(-1 - rank)
    if channels != problem.in_channels:
        raise RuntimeError(
            f"input: expected {problem.in_channels} channels, got {channels} in shape {tuple(input.shape)}; "
            f"in_channels of the layer says how many"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.device != input.device:
            raise RuntimeError(
                f"input: expected a tensor on {tensor.device}, where the {name} is, got one on "
                f"{input.device}; move one with .to(device)"
            )
        if tensor.dtype != input.dtype:
            raise RuntimeError(
                f"input: expected {_name(tensor)}, the dtype of the {name}, got {_name(input)}; convert one "
                f"with .to(dtype), or use torch.autocast"
            )
    before = input.shape[-rank:]
    if min(before) < 1:
        raise RuntimeError(
            f"input: expected at least one point in every dimension, got ({spatial}) = {tuple(before)}"
        )
    if problem.pad is not None:
        pads = problem.pad[::-1]
        before = [n + pads[2 * i] + pads[2 * i + 1] for i, n in enumerate(before)]  # type: ignore[assignment]
    size = problem.output_size(before, output_padding)
    if min(size) < 1:
        raise RuntimeError(
            f"input: expected sizes that leave an output, got ({spatial}) = {tuple(input.shape[-rank:])}, "
            f"whose output would be {tuple(size)} with kernel_size={problem.kernel_size}, "
            f"stride={problem.stride}, padding={problem.padding}, dilation={problem.dilation}; enlarge "
            f"the input or the padding"
        )


def check_weight(problem: Problem, weight: Tensor) -> None:
    """Raises ``RuntimeError`` if this is not the reduced weight of the problem."""
    symmetry = problem.symmetry
    if tuple(weight.shape) != problem.weight_size:
        raise RuntimeError(
            f"weight: expected {symmetry.unique_out_channels} reduced filters for symmetry {symmetry.counts} "
            f"of {symmetry.out_channels} filters, as shape {problem.weight_size}, got {tuple(weight.shape)}; "
            f"see Symmetry.unique_out_channels"
        )


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
