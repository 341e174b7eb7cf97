"""Checkpoints: of CNN-Symmetry, of layers with another kind of bias, and whole ones with mistakes in them."""

from __future__ import annotations

import io

import pytest
import torch
from layers import CONVOLUTIONS, LAYERS
from test_golden import CASES, load
from test_layers import OUT, SYMMETRY, kind_id, make_input, make_layer, rank_of
from torch import nn


def parameters(layer: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in layer.state_dict().items()}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["kwargs"].get("bias", True)])
def test_reference_checkpoint_with_different_biases_is_refused_by_a_shared_one(name: str) -> None:
    if load(name)[0].symmetry.is_plain:
        pytest.skip("nothing is tied")
    with pytest.raises(
        RuntimeError, match=r"bias: share_bias=True expects one value per orbit.*reduced filter \d+"
    ):
        load(name, share_bias=True)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", LAYERS, ids=kind_id)
def test_bias_per_filter_loads_into_a_shared_bias_where_the_orbits_agree(
    kind: type[nn.Module], groups: int
) -> None:
    shared, source = (make_layer(kind, groups=groups, share_bias=share) for share in (True, False))
    unique = shared.symmetry.unique_out_channels
    with torch.no_grad():
        source.bias.copy_(torch.tensor([float(f) for f, _ in source.symmetry.channel_map]))
    state = source.state_dict()
    kept = {name: value.clone() for name, value in state.items()}
    assert shared.load_state_dict(state).missing_keys == []
    assert shared.bias.tolist() == list(range(unique))
    value = make_input(kind)
    assert torch.equal(shared(value), source(value))
    assert list(state) == list(kept)
    assert all(torch.equal(state[n], kept[n]) for n in kept), "the checkpoint changed"


def test_the_message_says_which_filters_disagree() -> None:
    shared = CONVOLUTIONS[2](1, 10, 3, symmetry={"h": 2, "hv": 8}, share_bias=True)  # reduced: h, hv, hv
    bias = torch.tensor([f for f, _ in shared.symmetry.channel_map], dtype=torch.float32)
    bias[6] += 0.5  # a copy of reduced filter 2
    before = parameters(shared)
    state = {"weight": torch.zeros_like(shared.weight), "bias": bias}
    with pytest.raises(RuntimeError) as error:
        shared.load_state_dict(state)
    message = str(error.value)
    copies = [filter_ for filter_, _ in shared.symmetry.channel_map]
    assert f"reduced filter {copies[6]}" in message
    assert all(f"reduced filter {other}" not in message for other in {0, 1, 2} - {copies[6]})
    assert "2.5" in message or "1.5" in message
    assert torch.equal(shared.bias, before["bias"]), "a refused bias must not be half loaded"


def test_many_disagreeing_filters_make_a_short_message() -> None:
    shared = CONVOLUTIONS[1](1, 200, 3, symmetry={"h": "100%"}, share_bias=True)
    state = {"weight": shared.weight.detach(), "bias": torch.arange(200.0)}
    with pytest.raises(RuntimeError, match="more") as error:
        shared.load_state_dict(state)
    assert len(str(error.value)) < 1500


def test_prefixes_strictness_and_assign() -> None:
    def net(share_bias: bool) -> nn.Module:
        return nn.Sequential(
            CONVOLUTIONS[2](1, 8, 3, symmetry={"hv": 8}, share_bias=share_bias),
            nn.ReLU(),
            CONVOLUTIONS[2](8, 6, 3, symmetry={"h": 2}, share_bias=share_bias),
        )

    source, shared = net(False), net(True)
    with torch.no_grad():
        for index in (0, 2):
            source[index].bias.copy_(torch.tensor([float(f) for f, _ in source[index].symmetry.channel_map]))
    assert list(source.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    shared.load_state_dict(source.state_dict())
    value = torch.randn(2, 1, 7, 7)
    assert torch.equal(shared(value), source(value))

    shared = net(True)
    shared.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(shared(value), source(value))
    assert isinstance(shared[0].bias, nn.Parameter)
    assert shared[0].bias.requires_grad

    with torch.no_grad():
        source[2].bias.add_(torch.arange(6.0))
    with pytest.raises(RuntimeError, match=r"2\.bias: share_bias=True") as error:
        net(True).load_state_dict(source.state_dict())
    assert "0.bias" not in str(error.value)

    partial = {k: v for k, v in source.state_dict().items() if k != "0.bias"}
    with pytest.raises(RuntimeError, match=r"Missing key.*0\.bias"):
        net(False).load_state_dict(partial)
    assert net(False).load_state_dict(partial, strict=False).missing_keys == ["0.bias"]


@pytest.mark.parametrize("kind", LAYERS, ids=kind_id)
def test_a_weight_of_another_shape_is_refused(kind: type[nn.Module]) -> None:
    layer = make_layer(kind)
    before = parameters(layer)
    rank = rank_of(kind)
    dense = make_layer(kind, symmetry=None)
    assert OUT[rank] != layer.symmetry.unique_out_channels
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        layer.load_state_dict(dense.state_dict())
    assert torch.equal(layer.weight, before["weight"])
    shared = make_layer(kind, share_bias=True)
    with pytest.raises(RuntimeError, match="size mismatch for bias"):
        layer.load_state_dict(shared.state_dict())


@pytest.mark.parametrize("kind", LAYERS, ids=kind_id)
def test_round_trip_through_a_file_of_weights_only(kind: type[nn.Module]) -> None:
    for share_bias in (False, True):
        layer, other = (make_layer(kind, share_bias=share_bias) for _ in range(2))
        stream = io.BytesIO()
        torch.save(layer.state_dict(), stream)
        stream.seek(0)
        other.load_state_dict(torch.load(stream, weights_only=True))
        value = make_input(kind)
        assert torch.equal(layer(value), other(value))


def test_a_checkpoint_on_meta_or_in_another_dtype_loads_as_in_torch() -> None:
    layer = make_layer(CONVOLUTIONS[2], share_bias=True)
    single = make_layer(CONVOLUTIONS[2], dtype=torch.float32)
    with torch.no_grad():
        single.bias.copy_(torch.tensor([float(f) for f, _ in single.symmetry.channel_map]))
    layer.load_state_dict(single.state_dict())
    assert layer.weight.dtype == layer.bias.dtype == torch.float64
    empty = make_layer(CONVOLUTIONS[2], share_bias=True, device="meta")
    empty.load_state_dict(layer.state_dict(), assign=True)
    value = make_input(CONVOLUTIONS[2])
    assert torch.equal(empty(value), layer(value))
    assert SYMMETRY[2] == layer.symmetry.counts
