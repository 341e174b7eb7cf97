"""expand_weight, symmetrize and densify."""

from __future__ import annotations

from collections.abc import Callable

import oracle
import pytest
import torch
from layers import CONVOLUTIONS, DENSE, LAYERS, TRANSPOSED
from test_layers import OUT, SYMMETRY, every_layer, make_input, make_layer, rank_of
from torch import nn

from symconv_ext import SymmetricConv2d, Symmetry, densify, expand_weight, symmetrize


def dense_layer(kind: type[nn.Module], **rest: object) -> nn.Module:
    """A torch.nn layer with every argument away from its default."""
    arguments = {"stride": 2, "padding": 1, "dilation": 2, "groups": 2, "dtype": torch.float64}
    return DENSE[kind](4, OUT[rank_of(kind)], 3, **{**arguments, **rest})


def geometry(layer: nn.Module) -> tuple[object, ...]:
    names = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
        "output_padding",
        "transposed",
    )
    return tuple(getattr(layer, name) for name in names)


@every_layer
@pytest.mark.parametrize("groups", [1, 2])
def test_expand_weight_is_the_mirrored_dense_weight(kind: type[nn.Module], groups: int) -> None:
    layer = make_layer(kind, groups=groups)
    dense = expand_weight(layer)
    assert torch.equal(
        dense, oracle.dense_weight(layer.weight, layer.symmetry.orbits, groups, layer.transposed)
    )
    assert dense.shape == DENSE[kind](4, OUT[rank_of(kind)], 3, groups=groups).weight.shape
    assert dense.dtype == layer.weight.dtype
    dense.square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_expand_weight_wants_a_symmetric_layer() -> None:
    with pytest.raises(TypeError, match="layer: expected a symmetric convolution, got Conv2d"):
        expand_weight(nn.Conv2d(1, 4, 3))


@pytest.mark.usefixtures("backend")
@every_layer
@pytest.mark.parametrize("share_bias", [False, True])
def test_densify_keeps_the_outputs_and_symmetrize_undoes_it(kind: type[nn.Module], share_bias: bool) -> None:
    for arguments in ({}, {"groups": 2, "stride": 2, "dilation": 2, "padding": 1}, {"bias": False}):
        layer = make_layer(kind, share_bias=share_bias, **arguments)
        value = make_input(kind)
        dense = densify(layer)
        assert type(dense) is DENSE[kind]
        assert geometry(dense) == geometry(layer)
        torch.testing.assert_close(dense(value), layer(value), rtol=1e-12, atol=1e-12)
        back = symmetrize(dense, layer.symmetry, share_bias=share_bias)
        assert type(back) is kind
        assert back.symmetry == layer.symmetry
        assert geometry(back) == geometry(layer)
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(getattr(back, name), parameter, rtol=1e-14, atol=1e-14)


@every_layer
def test_symmetrize_gives_the_nearest_tied_weight(kind: type[nn.Module]) -> None:
    """The residual is orthogonal to every tied weight: the mean over the orbit is the projection."""
    dense = dense_layer(kind)
    symmetric = symmetrize(dense, SYMMETRY[rank_of(kind)])
    residual = dense.weight.detach() - expand_weight(symmetric).detach()
    assert residual.abs().max() > 0.01
    probe = torch.randn_like(symmetric.weight)
    tied = oracle.dense_weight(probe, symmetric.symmetry.orbits, 2, symmetric.transposed)
    assert abs((residual * tied).sum().item()) < 1e-12 * tied.numel()
    assert torch.equal(symmetric.bias, dense.bias)
    shared = symmetrize(dense, SYMMETRY[rank_of(kind)], share_bias=True)
    for filter_ in range(shared.symmetry.unique_out_channels):
        members = [c for c, (f, _) in enumerate(shared.symmetry.channel_map) if f == filter_]
        assert shared.bias[filter_].item() == pytest.approx(dense.bias[members].mean().item(), abs=1e-14)


def network() -> nn.Module:
    shared = nn.Conv2d(8, 8, 3, padding=1)
    inner = nn.Sequential(shared, nn.ReLU(), nn.Conv1d(1, 4, 3))
    return nn.ModuleDict(
        {
            "stem": nn.Conv2d(3, 8, 3, padding="same", padding_mode="circular", bias=False),
            "again": shared,
            "inner": inner,
            "up": nn.ConvTranspose2d(8, 4, 2, stride=2, output_padding=1),
            "head": nn.Linear(4, 2),
        }
    )


def test_symmetrize_a_network_replaces_exactly_torch_s_classes() -> None:
    class Own(nn.Conv2d):
        pass

    net = network()
    net["own"] = Own(3, 8, 3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    result = symmetrize(net, {"h": "100%"})
    assert result is not net
    assert [type(m).__name__ for m in net["inner"]] == ["Conv2d", "ReLU", "Conv1d"], (
        "the original was changed"
    )
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert type(result["stem"]) is SymmetricConv2d
    assert result["stem"].padding == "same"
    assert result["stem"].padding_mode == "circular"
    assert result["stem"].bias is None
    assert result["again"] is result["inner"][0], "a layer used twice must stay one layer"
    assert type(result["inner"][2]) is CONVOLUTIONS[1]
    assert type(result["up"]) is TRANSPOSED[2]
    assert result["up"].output_padding == (1, 1)
    assert type(result["own"]) is Own
    assert type(result["head"]) is nn.Linear
    assert sum(p.numel() for p in result.parameters()) < sum(p.numel() for p in net.parameters())
    dense = densify(result)
    assert [type(m) for m in dense.modules()] == [type(m) for m in net.modules()]
    assert list(dense.state_dict()) == list(net.state_dict())


def test_in_place() -> None:
    net = network()
    assert symmetrize(net, {"h": "100%"}, inplace=True) is net
    assert type(net["stem"]) is SymmetricConv2d
    assert net["again"] is net["inner"][0]
    assert densify(net, inplace=True) is net
    assert type(net["stem"]) is nn.Conv2d


def test_a_function_chooses_per_layer() -> None:
    names = []

    def choose(name: str, layer: nn.Module) -> dict[str, str] | Symmetry | None:
        names.append(name)
        if name == "stem":
            return {"hv": "50%"}
        return Symmetry({"h": 4}, 8, rank=2) if name == "again" else None

    result = symmetrize(network(), choose)
    assert sorted(names) == ["again", "inner.2", "stem", "up"]
    assert result["stem"].symmetry.counts == {"hv": 4}
    assert result["again"].symmetry.counts == {"h": 4}
    assert type(result["up"]) is nn.ConvTranspose2d
    assert type(result["inner"][2]) is nn.Conv1d


@pytest.mark.parametrize(
    "convert", [lambda m: symmetrize(m, {"h": "50%"}), densify], ids=["symmetrize", "densify"]
)
def test_what_a_layer_carries_is_kept(convert: Callable[[nn.Module], nn.Module]) -> None:
    kind = nn.Conv2d if convert is not densify else SymmetricConv2d
    layer = kind(4, 8, 3, dtype=torch.float64).to(memory_format=torch.channels_last).eval()
    layer.weight.requires_grad_(False)
    result = convert(nn.Sequential(layer))[0]
    assert result.weight.dtype == torch.float64
    assert result.weight.is_contiguous(memory_format=torch.channels_last)
    assert not result.training
    assert not result.weight.requires_grad
    assert result.bias.requires_grad
    assert isinstance(result.weight, nn.Parameter)
    assert convert(kind(4, 8, 3, device="meta")).weight.is_meta


def test_errors_name_the_layer_and_change_nothing() -> None:
    net = network()
    with pytest.raises(
        ValueError, match=r"layer 'inner\.2': symmetry: key 'hv': a 1-D layer has no axis 'v'"
    ):
        symmetrize(net, {"hv": "100%"}, inplace=True)
    assert [type(m) for m in net.modules()] == [type(m) for m in network().modules()]
    with pytest.raises(ValueError, match=r"layer 'stem': symmetry: 'h'"):
        symmetrize(net, {"h": 3})
    with pytest.raises(TypeError, match=r"layer 'stem': symmetry: expected a dict"):
        symmetrize(net, 3)  # type: ignore[arg-type]


def test_nothing_to_convert() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    assert type(symmetrize(net, {"h": "100%"})[0]) is nn.Linear
    assert type(densify(net)[0]) is nn.Linear
    assert len(LAYERS) == 6
