"""The layers: ``torch.nn`` convolutions whose filters are tied by mirror reflections.

Constructors take every argument of the ``torch.nn`` class of the same name, in the same order, and then:

    symmetry    filters per mask, such as ``{'h': 2, 'v': 4, 'hv': 8}`` or ``{'hv': '50%'}``, or a Symmetry;
                what is left of ``out_channels`` is plain. ``None`` and ``{}`` make a plain layer.
    share_bias  keep one bias per reduced filter instead of one per output channel.

The only weight parameter is the reduced weight. Shapes of inputs and outputs, dtypes, devices and the
distribution of the initial values are those of the dense layer. Constructors raise ``ValueError`` or
``TypeError`` for arguments that cannot be; a call raises ``RuntimeError``, as torch does, for an input that
does not fit.

The method is that of CNN-Symmetry, whose checkpoints load by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.nn.modules.conv import _ConvNd

from . import packs, reference
from .convolve import convolve, convolve_transposed
from .problem import Problem, Size, per_dimension
from .symmetry import Symmetry

if TYPE_CHECKING:
    from typing_extensions import Self

SymmetrySpec = Symmetry | Mapping[str, int | str] | None

# The attributes that a Problem is made of. Code that adapts networks assigns to them.
_GEOMETRY = frozenset(
    (
        "in_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "output_padding",
        "padding_mode",
        "symmetry",
    )
)


class SymmetricLayer(_ConvNd):
    """What convolution and transposed layers share: symmetry, reduced parameters, checkpoints.

    Attributes:
        weight: ``(unique_out_channels, in_channels/groups, *kernel_size)``, or in a transposed layer
            ``(in_channels, unique_out_channels/groups, *kernel_size)``.
        bias: ``(out_channels,)``, with ``share_bias`` ``(unique_out_channels,)``, or None.
        symmetry: the :class:`~symconv_ext.Symmetry`.
        share_bias: whether the channels of an orbit have one bias.
    """

    symmetry: Symmetry
    share_bias: bool
    _problem: Problem | None = None
    _pack: packs.Pack | None = None

    def _reduce(self, problem: Problem, share_bias: bool, device: Any, dtype: Any) -> None:
        """Replaces the dense parameters that torch.nn has made on the meta device."""
        self.symmetry = problem.symmetry
        self.share_bias = share_bias
        self._problem = problem
        self.weight = nn.Parameter(torch.empty(problem.weight_size, device=device, dtype=dtype))
        if self.bias is not None:
            values = self.symmetry.unique_out_channels if share_bias else self.out_channels
            self.bias = nn.Parameter(torch.empty(values, device=device, dtype=dtype))
        self.reset_parameters()

    @property
    def problem(self) -> Problem:
        """The geometry of this layer, as the operators take it."""
        if self._problem is None:
            self._problem = Problem(
                len(self.kernel_size),
                self.symmetry,
                self.transposed,
                self.in_channels,
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
                self.output_padding,
                self.padding_mode,
            )
        return self._problem

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _GEOMETRY:
            self.__dict__["_problem"] = self.__dict__["_pack"] = None
        elif name == "weight":
            self.__dict__["_pack"] = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_problem", "_pack")}

    def prepack(self) -> None:
        """Keeps the weight in the form that the kernels read; see :func:`symconv_ext.prepack`."""
        weight = self._parameters.get("weight")
        self._pack = None if weight is None or weight.is_meta else packs.Pack(self.problem, weight)

    def _usable_pack(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> packs.Pack | None:
        """The pack, where this call may use it; dropped if the weight has changed or may be trained."""
        pack = self._pack
        if pack is None:
            return None
        if not pack.stands_for(weight) or (torch.is_grad_enabled() and weight.requires_grad):
            self._pack = None
            return None
        return None if packs.records_gradient(input, weight, bias) else pack

    def train(self, mode: bool = True) -> Self:
        if mode:
            self._pack = None
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._pack = None
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def channel_bias(self) -> Tensor | None:
        """One bias per output channel, ``(out_channels,)``, or None."""
        if self.share_bias and self.bias is not None:
            return reference.gather_bias(self.bias, self.groups, self.symmetry.orbits)
        return self.bias

    def reset_parameters(self) -> None:
        """Draws weight and bias from the distribution of the dense layer: uniform, bounded by its fan-in."""
        if self.weight.is_meta:
            return
        fan_in = self.problem.fan_in
        # kaiming_uniform_(weight, a=sqrt(5)) with the fan-in of the dense weight, operation by operation, so
        # that a plain layer gets the very numbers of its torch.nn twin.
        bound = math.sqrt(3.0) * (init.calculate_gain("leaky_relu", math.sqrt(5)) / math.sqrt(fan_in))
        with torch.no_grad():
            if self.weight.is_contiguous():
                self.weight.uniform_(-bound, bound)
            else:
                self.weight.copy_(
                    torch.empty(
                        self.weight.shape, dtype=self.weight.dtype, device=self.weight.device
                    ).uniform_(-bound, bound)
                )
            if self.bias is not None:
                self.bias.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def extra_repr(self) -> str:
        dense = super().extra_repr()  # type: ignore[no-untyped-call]
        text = f"{dense}, symmetry={self.symmetry.counts}"
        return text + ", share_bias=True" if self.share_bias else text

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        self._pack = None
        name = prefix + "bias"
        loaded, own = state_dict.get(name), self.bias
        if (
            self.share_bias
            and own is not None
            and loaded is not None
            and loaded.shape == (self.out_channels,)
        ):
            per_orbit, disagreeing = _per_orbit(loaded, self.symmetry)
            if disagreeing:
                error_msgs.append(
                    f"{name}: share_bias=True expects one value per orbit, but the checkpoint has one per "
                    f"filter, and they differ within {_listed(disagreeing)}; load it into a layer with "
                    f"share_bias=False, or make the values equal"
                )
            state_dict = {**state_dict, name: own.detach() if disagreeing else per_orbit}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def _per_orbit(bias: Tensor, symmetry: Symmetry) -> tuple[Tensor, dict[int, list[float]]]:
    """One value per orbit, ``(unique_out_channels,)``, and all values of the orbits that disagree."""
    orbits: list[list[int]] = [[] for _ in range(symmetry.unique_out_channels)]
    for channel, (unique, _) in enumerate(symmetry.channel_map):
        orbits[unique].append(channel)
    values = bias.tolist()
    disagreeing = {
        unique: [values[channel] for channel in channels]
        for unique, channels in enumerate(orbits)
        if any(values[channel] != values[channels[0]] for channel in channels)
    }
    return bias[[channels[0] for channels in orbits]], disagreeing


def _listed(disagreeing: dict[int, list[float]], most: int = 4) -> str:
    shown = [
        f"reduced filter {unique} ({', '.join(f'{value:g}' for value in values)})"
        for unique, values in list(disagreeing.items())[:most]
    ]
    rest = len(disagreeing) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def _no_symmetry_in(**arguments: Any) -> None:
    """CNN-Symmetry has ``symmetry`` where torch.nn has ``device``."""
    for name, value in arguments.items():
        if isinstance(value, Mapping | Symmetry):
            raise TypeError(
                f"{name}: got {value!r}, which is no {name}; name the argument: symmetry={value!r}"
            )


class _SymmetricConv(SymmetricLayer):
    _rank: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        symmetry: SymmetrySpec = None,
        share_bias: bool = False,
    ) -> None:
        _no_symmetry_in(device=device, dtype=dtype)
        rank = self._rank
        tied = Symmetry(symmetry, out_channels, groups, rank)
        problem = Problem(
            rank,
            tied,
            False,
            in_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            padding_mode=padding_mode,
        )
        dense_init: Any = super().__init__  # of the torch.nn class, not of _ConvNd
        dense_init(
            in_channels,
            out_channels,
            problem.kernel_size,
            problem.stride,
            padding if isinstance(padding, str) else per_dimension("padding", padding, rank, 0),
            problem.dilation,
            groups,
            bias,
            padding_mode,
            device="meta",
        )
        self._reduce(problem, share_bias, device, dtype)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.share_bias:
            bias = self.channel_bias()
        pack = self._pack and self._usable_pack(input, weight, bias)
        return convolve(self._problem or self.problem, input, weight, bias, pack)


class _SymmetricConvTranspose(SymmetricLayer):
    _rank: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        symmetry: SymmetrySpec = None,
        share_bias: bool = False,
    ) -> None:
        _no_symmetry_in(padding_mode=padding_mode, device=device, dtype=dtype)
        tied = Symmetry(symmetry, out_channels, groups, self._rank)
        problem = Problem(
            self._rank,
            tied,
            True,
            in_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            output_padding,
            padding_mode,
        )
        dense_init: Any = super().__init__  # of the torch.nn class, not of _ConvNd
        dense_init(
            in_channels,
            out_channels,
            problem.kernel_size,
            problem.stride,
            problem.padding,
            problem.output_padding,
            groups,
            bias,
            problem.dilation,
            padding_mode,
            device="meta",
        )
        self._reduce(problem, share_bias, device, dtype)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """``output_size``, with or without batch and channels, picks a size that the stride leaves open.

        Raises ``ValueError`` for a size that is none of them.
        """
        output_padding = None
        if output_size is not None:
            output_padding = self.problem.output_padding_for(input.shape, output_size)
        weight, bias = self.weight, self.channel_bias()
        pack = self._pack and self._usable_pack(input, weight, bias)
        return convolve_transposed(self._problem or self.problem, input, weight, bias, output_padding, pack)


class SymmetricConv1d(_SymmetricConv, nn.Conv1d):
    """``nn.Conv1d`` with filters tied by mirroring: ``(N, C, L)`` or ``(C, L)``. Axis h.

    See :mod:`symconv_ext.conv` for the arguments and :class:`SymmetricLayer` for the attributes.
    """

    _rank = 1


class SymmetricConv2d(_SymmetricConv, nn.Conv2d):
    """``nn.Conv2d`` with filters tied by mirroring: ``(N, C, H, W)`` or unbatched. Axes h and v.

    See :mod:`symconv_ext.conv` for the arguments and :class:`SymmetricLayer` for the attributes.

    >>> SymmetricConv2d(1, 16, 3, symmetry={'h': 2, 'v': 4, 'hv': 8}).weight.shape
    torch.Size([7, 1, 3, 3])
    """

    _rank = 2


class SymmetricConv3d(_SymmetricConv, nn.Conv3d):
    """``nn.Conv3d`` with filters tied by mirroring: ``(N, C, D, H, W)`` or unbatched. Axes h, v and z.

    See :mod:`symconv_ext.conv` for the arguments and :class:`SymmetricLayer` for the attributes.
    """

    _rank = 3


class SymmetricConvTranspose1d(_SymmetricConvTranspose, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with the filters of its outputs tied by mirroring. Axis h.

    See :mod:`symconv_ext.conv` for the arguments and :class:`SymmetricLayer` for the attributes.
    """

    _rank = 1


class SymmetricConvTranspose2d(_SymmetricConvTranspose, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with the filters of its outputs tied by mirroring. Axes h and v.

    See :mod:`symconv_ext.conv` for the arguments and :class:`SymmetricLayer` for the attributes.
    """

    _rank = 2


class SymmetricConvTranspose3d(_SymmetricConvTranspose, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with the filters of its outputs tied by mirroring. Axes h, v and z.

    See :mod:`symconv_ext.conv` for the arguments and :class:`SymmetricLayer` for the attributes.
    """

    _rank = 3
