"""The layers as a user of torch.nn meets them."""

from __future__ import annotations

import copy
import inspect
import io
import math
import pickle
from typing import Any

import layers
import oracle
import pytest
import torch
import torch.nn.functional as F
from layers import CONVOLUTIONS, DENSE, LAYERS, TRANSPOSED, layer
from problems import FEW, Problem, make, random_problems
from test_operators import name
from tolerances import assert_close
from torch import nn

import symconv_ext
from symconv_ext import GlobalConv1d, Symmetry, TopKPool

SIZES = {1: (9,), 2: (8, 9), 3: (5, 6, 7)}
SYMMETRY = {1: {"h": 8}, 2: {"h": 4, "v": 4, "hv": 8}, 3: {"z": 4, "hv": 8, "hvz": 16}}
OUT = {1: 12, 2: 20, 3: 32}  # with plain filters, and whole orbits in two groups


def rank_of(kind: type[nn.Module]) -> int:
    return int(kind.__name__[-2])


def is_transposed(kind: type[nn.Module]) -> bool:
    return kind in TRANSPOSED.values()


def kind_id(kind: object) -> str | None:
    return kind.__name__.removeprefix("Symmetric") if isinstance(kind, type) else None


def make_layer(kind: type[nn.Module], **rest: Any) -> nn.Module:
    rank = rank_of(kind)
    defaults = {
        "in_channels": 4,
        "out_channels": OUT[rank],
        "kernel_size": 3,
        "symmetry": SYMMETRY[rank],
        "dtype": torch.float64,
    }
    return kind(**{**defaults, **rest})


def make_input(kind: type[nn.Module], batch: int = 2, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(batch, 4, *SIZES[rank_of(kind)], dtype=dtype)


def dense_twin(symmetric: nn.Module, **rest: Any) -> nn.Module:
    """The torch.nn layer with the mirrored weight."""
    s = symmetric
    kwargs = {
        "stride": s.stride,
        "padding": s.padding,
        "dilation": s.dilation,
        "groups": s.groups,
        "bias": s.bias is not None,
        "padding_mode": s.padding_mode,
        "dtype": s.weight.dtype,
    }
    if s.transposed:
        kwargs["output_padding"] = s.output_padding
    dense = DENSE[type(s)](s.in_channels, s.out_channels, s.kernel_size, **kwargs, **rest)
    with torch.no_grad():
        dense.weight.copy_(oracle.dense_weight(s.weight, s.symmetry.orbits, s.groups, s.transposed))
        if s.bias is not None:
            dense.bias.copy_(s.channel_bias())
    return dense


every_layer = pytest.mark.parametrize("kind", LAYERS, ids=kind_id)


# The arguments of torch.nn.


@every_layer
def test_signature_is_torch_s_and_then_symmetry(kind: type[nn.Module]) -> None:
    ours = list(inspect.signature(kind).parameters.values())
    theirs = list(inspect.signature(DENSE[kind]).parameters.values())
    assert [p.name for p in ours] == [p.name for p in theirs] + ["symmetry", "share_bias"]
    assert [p.default for p in ours[: len(theirs)]] == [p.default for p in theirs]
    assert [p.default for p in ours[-2:]] == [None, False]
    assert issubclass(kind, DENSE[kind])


ARGUMENTS = {
    "defaults": {},
    "stride": {"stride": 2, "padding": 1},
    "padding": {"padding": 2},
    "dilation": {"dilation": 2, "padding": 1},
    "groups": {"groups": 2},
    "no-bias": {"bias": False},
    "kernel-1": {"kernel_size": 1},
    "even-kernel": {"kernel_size": 4, "padding": 1},
    "kernel-2-stride-3": {"kernel_size": 2, "stride": 3},
    "share-bias": {"share_bias": True},
    "share-bias-groups": {"share_bias": True, "groups": 2},
    "all": {"kernel_size": 2, "stride": 2, "padding": 1, "dilation": 3, "groups": 2, "share_bias": True},
}
PADDINGS = {
    "same": {"padding": "same"},
    "same-even-kernel": {"padding": "same", "kernel_size": 4},
    "same-dilated": {"padding": "same", "kernel_size": 2, "dilation": 3},
    "valid": {"padding": "valid"},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
    "replicate": {"padding": 3, "padding_mode": "replicate"},
    "circular": {"padding": 2, "padding_mode": "circular"},
    "circular-same-even-kernel": {"padding": "same", "kernel_size": 4, "padding_mode": "circular"},
    "reflect-stride-dilation": {"padding": 2, "padding_mode": "reflect", "stride": 2, "dilation": 2},
    "reflect-valid": {"padding": "valid", "padding_mode": "reflect"},
    "replicate-no-padding": {"padding_mode": "replicate"},
}


def check_against_dense(symmetric: nn.Module, value: torch.Tensor, *rest: Any) -> None:
    dense = dense_twin(symmetric)
    ours, theirs = value.clone().requires_grad_(), value.clone().requires_grad_()
    output, expected = symmetric(ours, *rest), dense(theirs, *rest)
    assert_close("fprop", output, expected.detach())
    direction = torch.arange(output.numel(), dtype=output.dtype).cos().view_as(output)
    output.backward(direction)
    expected.backward(direction)
    assert_close("dgrad", ours.grad, theirs.grad)
    weight = symmetric.weight.detach().clone().requires_grad_()
    tied = oracle.dense_weight(weight, symmetric.symmetry.orbits, symmetric.groups, symmetric.transposed)
    (gradient,) = torch.autograd.grad(tied, weight, dense.weight.grad)
    assert_close("wgrad", symmetric.weight.grad, gradient)
    if symmetric.bias is None:
        assert dense.bias is None
    elif symmetric.share_bias:
        shared = torch.zeros_like(symmetric.bias)
        for channel, (filter_, _) in enumerate(symmetric.symmetry.channel_map):
            shared[filter_] += dense.bias.grad[channel]
        assert_close("wgrad", symmetric.bias.grad, shared)
    else:
        assert_close("wgrad", symmetric.bias.grad, dense.bias.grad)


@pytest.mark.usefixtures("backend")
@every_layer
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_every_argument(kind: type[nn.Module], arguments: dict[str, Any]) -> None:
    check_against_dense(make_layer(kind, **arguments), make_input(kind))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kind", CONVOLUTIONS.values(), ids=kind_id)
@pytest.mark.parametrize("arguments", PADDINGS.values(), ids=PADDINGS.keys())
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_every_padding(kind: type[nn.Module], arguments: dict[str, Any]) -> None:
    check_against_dense(make_layer(kind, **arguments), make_input(kind))


@pytest.mark.usefixtures("backend")
@every_layer
def test_one_number_per_dimension(kind: type[nn.Module]) -> None:
    rank = rank_of(kind)
    arguments = {"kernel_size": (2, 3, 4), "stride": (2, 1, 3), "padding": (0, 2, 1), "dilation": (2, 1, 1)}
    arguments = {key: value[:rank] for key, value in arguments.items()}
    check_against_dense(make_layer(kind, **arguments), make_input(kind))
    check_against_dense(make_layer(kind, **{k: list(v) for k, v in arguments.items()}), make_input(kind))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes_with_one_padding_per_dimension(mode: str) -> None:
    kind = CONVOLUTIONS[2]
    check_against_dense(
        make_layer(kind, padding=(1, 3), padding_mode=mode, kernel_size=(3, 4)), make_input(kind)
    )
    check_against_dense(make_layer(kind, padding=(0, 2), padding_mode=mode), make_input(kind))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kind", TRANSPOSED.values(), ids=kind_id)
def test_output_padding_and_output_size(kind: type[nn.Module]) -> None:
    rank = rank_of(kind)
    value = make_input(kind)
    for output_padding in (0, 1, 2):
        arguments = {"stride": 3, "padding": 1, "output_padding": output_padding}
        check_against_dense(make_layer(kind, **arguments), value)
        symmetric = make_layer(kind, **{**arguments, "output_padding": 0})
        size = [3 * n - 2 + output_padding for n in SIZES[rank]]
        for asked in (size, tuple(size), torch.Size([2, OUT[rank], *size])):
            assert symmetric(value, asked).shape == (2, OUT[rank], *size)
            assert symmetric(value, output_size=asked).shape == (2, OUT[rank], *size)
        check_against_dense(symmetric, value, size)
    with pytest.raises(ValueError, match="output_size"):
        make_layer(kind, stride=3)(value, [10**3] * rank)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("p", [*FEW, *random_problems(20, seed=3)], ids=name)
def test_layer_and_function_agree_with_the_oracle(p: Problem) -> None:
    t = make(p)
    value, bias, operator = (
        (t.grad_output, t.bias_b, "dgrad") if p.transposed else (t.input, t.bias_a, "fprop")
    )
    built = layer(p, dtype=torch.float64)
    built.load_state_dict({"weight": t.weight, "bias": bias})
    output = built(value)
    assert list(output.shape) == (p.input_size if p.transposed else p.output_size)
    assert_close(operator, output, getattr(oracle.results(p, t), operator), context=p)
    assert torch.equal(layers.forward(p, value, built.weight, built.bias), output)


@pytest.mark.usefixtures("backend")
@every_layer
def test_unbatched_input_and_empty_batch(kind: type[nn.Module]) -> None:
    symmetric = make_layer(kind, padding=1)
    value = make_input(kind, batch=3).requires_grad_()
    output = symmetric(value)
    for one, expected in zip(value, output, strict=True):
        single = symmetric(one)
        assert single.shape == expected.shape
        assert_close("fprop", single.detach(), expected.detach())
    (gradient,) = torch.autograd.grad(symmetric(value[0]).sum(), value)
    assert gradient[0].abs().sum() > 0
    assert not gradient[1:].any()

    symmetric.zero_grad()
    empty = make_input(kind, batch=0).requires_grad_()
    output = symmetric(empty)
    assert output.shape == (0, OUT[rank_of(kind)], *SIZES[rank_of(kind)])
    output.sum().backward()
    assert empty.grad.shape == empty.shape
    for parameter in symmetric.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kind", TRANSPOSED.values(), ids=kind_id)
def test_unbatched_output_size(kind: type[nn.Module]) -> None:
    symmetric = make_layer(kind, stride=2)
    value = make_input(kind)
    size = [2 * n + 2 for n in SIZES[rank_of(kind)]]
    assert_close("dgrad", symmetric(value[0], size).detach(), symmetric(value, size)[0].detach())


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "kind", [CONVOLUTIONS[2], CONVOLUTIONS[3], TRANSPOSED[2], TRANSPOSED[3]], ids=kind_id
)
def test_channels_last_stays_channels_last(kind: type[nn.Module]) -> None:
    form = torch.channels_last if rank_of(kind) == 2 else torch.channels_last_3d
    symmetric = make_layer(kind, padding=1, dtype=torch.float32)
    value = make_input(kind, dtype=torch.float32)
    expected = symmetric(value)
    assert expected.is_contiguous()
    output = symmetric(value.contiguous(memory_format=form).requires_grad_())
    assert output.is_contiguous(memory_format=form)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    symmetric = symmetric.to(memory_format=form)
    assert symmetric(value).is_contiguous(memory_format=form)


# A layer without a symmetry.


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("symmetry", [None, {}, {"h": 0}, {"h": "0%"}], ids=str)
@every_layer
def test_plain_layer_is_torch_s_bit_for_bit(kind: type[nn.Module], symmetry: object) -> None:
    for arguments in ({}, {"groups": 2, "stride": 2, "padding": 1}, {"bias": False}, {"share_bias": True}):
        torch.manual_seed(5)
        ours = kind(4, 6, 3, **arguments, symmetry=symmetry)
        after = torch.rand(3)
        torch.manual_seed(5)
        theirs = DENSE[kind](4, 6, 3, **{k: v for k, v in arguments.items() if k != "share_bias"})
        assert torch.equal(torch.rand(3), after), "construction draws another amount of random numbers"
        assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)
        value = make_input(kind, dtype=torch.float32)
        output, expected = ours(value), theirs(value)
        if symconv_ext.backends.setting == "torch":
            assert torch.equal(output, expected)
        else:
            torch.testing.assert_close(output, expected)
        with symconv_ext.backend("auto"):
            assert torch.equal(ours(value), expected)


# Parameters.


@every_layer
def test_initial_weights_have_the_dense_layer_s_distribution(kind: type[nn.Module]) -> None:
    symmetric = kind(64, 64, 3, symmetry={"h": "100%"})
    dense = DENSE[kind](64, 64, 3)
    bound = dense.weight.abs().max().item()
    assert 0.99 * bound < symmetric.weight.abs().max().item() < 1.01 * bound
    assert symmetric.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert abs(symmetric.weight.mean().item()) < 0.05 * bound
    assert symmetric.bias.abs().max().item() == pytest.approx(dense.bias.abs().max().item(), rel=0.2)
    before = symmetric.weight.clone()
    torch.manual_seed(1)
    symmetric.reset_parameters()
    first = symmetric.weight.clone()
    torch.manual_seed(1)
    symmetric.reset_parameters()
    assert torch.equal(symmetric.weight, first)
    assert not torch.equal(first, before)


@every_layer
def test_shapes_of_parameters(kind: type[nn.Module]) -> None:
    rank = rank_of(kind)
    for groups in (1, 2):
        symmetric = make_layer(kind, groups=groups, share_bias=True)
        unique = symmetric.symmetry.unique_out_channels
        assert unique < OUT[rank]
        two = (4, unique // groups) if is_transposed(kind) else (unique, 4 // groups)
        assert symmetric.weight.shape == (*two, *(3,) * rank)
        assert symmetric.bias.shape == (unique,)
        assert make_layer(kind, groups=groups).bias.shape == (OUT[rank],)
        assert [n for n, _ in symmetric.named_parameters()] == ["weight", "bias"]
    assert make_layer(kind, bias=False).bias is None
    assert make_layer(kind, bias=False, share_bias=True).bias is None


def test_share_bias_gives_an_orbit_one_bias() -> None:
    shared = CONVOLUTIONS[2](3, 14, 3, symmetry={"h": 2, "hv": 8}, share_bias=True)
    assert shared.bias.shape == (1 + 2 + 4,)
    with torch.no_grad():
        shared.weight.zero_()
        shared.bias.copy_(torch.arange(7.0))
    # Reduced: h, hv, hv, four plain; then the h copy; then the copies of hv, reflection by reflection.
    expected = [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 1, 2, 1, 2]
    assert shared(torch.zeros(1, 3, 3, 3)).flatten().tolist() == expected
    assert shared.channel_bias().tolist() == expected


@every_layer
def test_device_and_dtype(kind: type[nn.Module]) -> None:
    meta = make_layer(kind, device="meta")
    assert meta.weight.is_meta
    assert meta.bias.is_meta
    assert meta(make_input(kind).to("meta")).shape == make_layer(kind)(make_input(kind)).shape
    real = meta.to_empty(device="cpu")
    real.reset_parameters()
    assert real(make_input(kind)).isfinite().all()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        symmetric = make_layer(kind, dtype=dtype)
        assert symmetric.weight.dtype == symmetric.bias.dtype == dtype
        output = symmetric(make_input(kind, dtype=dtype))
        assert output.dtype == dtype
        other = make_layer(kind).to(dtype)
        assert other(make_input(kind, dtype=dtype)).dtype == dtype
    skipped = nn.utils.skip_init(kind, 4, OUT[rank_of(kind)], 3, symmetry=SYMMETRY[rank_of(kind)])
    assert skipped.weight.shape == make_layer(kind).weight.shape


def test_default_dtype_and_device_are_respected() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert CONVOLUTIONS[2](1, 4, 3, symmetry={"hv": 4}).weight.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert CONVOLUTIONS[2](1, 4, 3, symmetry={"hv": 4}).weight.is_meta


# Copies.


@pytest.mark.usefixtures("backend")
@every_layer
@pytest.mark.parametrize("arguments", [{}, {"groups": 2, "share_bias": True}, {"bias": False}], ids=str)
def test_copies_compute_the_same_and_share_nothing(kind: type[nn.Module], arguments: dict[str, Any]) -> None:
    symmetric = make_layer(kind, padding=1, **arguments)
    value = make_input(kind)
    expected = symmetric(value)  # before and after: what a layer keeps from a call must not hinder copying

    stream = io.BytesIO()
    torch.save(symmetric, stream)
    stream.seek(0)
    fresh = make_layer(kind, padding=1, **arguments)
    fresh.load_state_dict(symmetric.state_dict())
    copies = [
        copy.deepcopy(symmetric),
        pickle.loads(pickle.dumps(symmetric)),
        torch.load(stream, weights_only=False),
        fresh,
    ]
    for other in copies:
        assert torch.equal(other(value), expected)
        assert other.symmetry == symmetric.symmetry
        assert other.share_bias == symmetric.share_bias
        assert repr(other) == repr(symmetric)
        with torch.no_grad():
            other.weight.add_(1)
        assert not torch.equal(other(value), expected)
        assert torch.equal(symmetric(value), expected)


@every_layer
def test_state_dict_has_torch_s_keys(kind: type[nn.Module]) -> None:
    assert list(make_layer(kind).state_dict()) == ["weight", "bias"]
    assert list(make_layer(kind, bias=False).state_dict()) == ["weight"]


# How it looks.


def test_extra_repr() -> None:
    kinds = CONVOLUTIONS | {}
    text = repr(kinds[2](3, 16, 3, padding=1, symmetry={"hv": 8, "h": 2}))
    assert text.startswith("SymmetricConv2d(3, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)")
    assert "symmetry={'h': 2, 'hv': 8}" in text
    assert "share_bias" not in text
    assert "share_bias=True" in repr(kinds[2](3, 16, 3, symmetry={"hv": "50%"}, share_bias=True))
    assert "'hv': 8" in repr(kinds[2](3, 16, 3, symmetry={"vh": "50%"}))
    assert "bias=False" in repr(kinds[1](3, 16, 3, bias=False, symmetry={"h": 2}))
    assert "output_padding=(1,)" in repr(
        TRANSPOSED[1](3, 16, 3, stride=2, output_padding=1, symmetry={"h": 2})
    )


def test_isinstance_of_torch_s_classes() -> None:
    for kind in LAYERS:
        symmetric = make_layer(kind)
        for other in LAYERS:
            assert isinstance(symmetric, DENSE[other]) == (other is kind)
        assert symmetric.transposed == is_transposed(kind)


# As part of a network.


def test_attributes_may_be_changed_afterwards() -> None:
    """Network surgery assigns to stride, padding and the like."""
    symmetric = make_layer(CONVOLUTIONS[2], padding=1)
    value = make_input(CONVOLUTIONS[2])
    symmetric(value)
    symmetric.stride, symmetric.padding = (2, 2), (0, 1)
    check_against_dense(symmetric, value)
    symmetric.padding_mode = "circular"
    symmetric._reversed_padding_repeated_twice = [1, 1, 0, 0]  # torch's own bookkeeping, for its twin
    assert symmetric(value).shape == (2, OUT[2], 3, 5)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kind", [CONVOLUTIONS[2], TRANSPOSED[2]], ids=kind_id)
def test_weights_can_be_reparametrised_replaced_and_shared(kind: type[nn.Module]) -> None:
    value = make_input(kind)
    normed = nn.utils.parametrizations.weight_norm(make_layer(kind))
    normed(value).sum().backward()
    assert all(p.grad is not None for p in normed.parameters())

    symmetric = make_layer(kind)
    doubled = torch.func.functional_call(
        symmetric, {"weight": 2 * symmetric.weight, "bias": 2 * symmetric.bias}, value
    )
    torch.testing.assert_close(doubled, 2 * symmetric(value))

    other = make_layer(kind)
    other.weight = symmetric.weight
    (symmetric(value).sum() + other(value).sum()).backward()
    twice = symmetric.weight.grad.clone()
    symmetric.zero_grad()
    (2 * symmetric(value).sum()).backward()
    torch.testing.assert_close(symmetric.weight.grad, twice)

    symmetric.weight.data.mul_(3)
    changed = symmetric(value)
    assert_close("fprop", changed.detach(), dense_twin(symmetric)(value).detach())


@pytest.mark.parametrize("optimiser", ["SGD", "Adam"])
def test_training_is_training_the_tied_dense_layer(native: None, optimiser: str) -> None:
    """The same steps on both backends, in float64."""
    losses = {}
    for backend in ("torch", "native"):
        torch.manual_seed(0)
        with symconv_ext.backend(backend):
            net = nn.Sequential(
                CONVOLUTIONS[2](1, 8, 3, padding=1, symmetry={"h": 2, "hv": 4}, dtype=torch.float64),
                nn.ReLU(),
                CONVOLUTIONS[2](
                    8, 12, 3, stride=2, symmetry={"hv": "100%"}, share_bias=True, dtype=torch.float64
                ),
                nn.ReLU(),
                TRANSPOSED[2](12, 4, 3, stride=2, symmetry={"v": 2}, dtype=torch.float64),
            )
            step = getattr(torch.optim, optimiser)(net.parameters(), lr=0.01)
            value = torch.randn(4, 1, 7, 7, dtype=torch.float64)
            history = []
            for _ in range(8):
                step.zero_grad()
                loss = (net(value) - value).square().mean()
                loss.backward()
                step.step()
                history.append(loss.item())
            losses[backend] = history
    assert losses["native"][-1] < losses["native"][0]
    assert losses["native"] == pytest.approx(losses["torch"], rel=1e-9)


# Symmetry as an argument.


@pytest.mark.parametrize("spec", [{"hv": 8, "h": 2}, {"vh": 8, "h": 2}, {"h": 2, "vh": 8}], ids=str)
def test_order_of_keys_and_letters_means_nothing(spec: dict[str, int]) -> None:
    torch.manual_seed(0)
    first = CONVOLUTIONS[2](3, 12, 3, symmetry={"h": 2, "hv": 8})
    torch.manual_seed(0)
    second = CONVOLUTIONS[2](3, 12, 3, symmetry=spec)
    value = torch.randn(1, 3, 5, 5)
    assert first.symmetry == second.symmetry
    assert torch.equal(first(value), second(value))


def test_a_symmetry_object_is_an_argument_too() -> None:
    spec = Symmetry({"hv": "50%"}, 16, rank=2)
    symmetric = CONVOLUTIONS[2](3, 16, 3, symmetry=spec)
    assert symmetric.symmetry == spec
    assert symmetric.weight.shape[0] == 2 + 8


# The two other modules.


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_global_conv_matches_its_definition(length: int, bias: bool) -> None:
    module = GlobalConv1d(3, 4, bias=bias, dtype=torch.float64)
    assert module.center.shape == module.surround.shape == (4, 3)
    value = torch.randn(2, 3, length, dtype=torch.float64, requires_grad=True)
    expected = torch.zeros(2, 4, length, dtype=torch.float64)
    for i in range(length):
        for j in range(length):
            weight = module.center if i == j else module.surround
            expected[:, :, i] += torch.einsum("oc,nc->no", weight, value[:, :, j])
    kernel = torch.cat(
        [
            module.surround[:, :, None].repeat(1, 1, length - 1),
            module.center[:, :, None],
            module.surround[:, :, None].repeat(1, 1, length - 1),
        ],
        2,
    )
    convolved = F.conv1d(value, kernel, padding=length - 1)
    if bias:
        expected = expected + module.bias[:, None]
        convolved = convolved + module.bias[:, None]
    output = module(value)
    assert_close("fprop", output, expected.detach())
    assert_close("fprop", output, convolved.detach())
    assert_close("fprop", module(value[0]), expected[0].detach())
    wanted = [value, *module.parameters()]
    gradients = torch.autograd.grad(output.sin().sum(), wanted)
    for a, b in zip(
        gradients, torch.autograd.grad(expected.sin().sum(), wanted, materialize_grads=True), strict=True
    ):
        assert_close("fprop", a, b)
    assert torch.autograd.gradcheck(lambda x, *_: module(x), tuple(wanted))
    assert torch.autograd.gradgradcheck(lambda x, *_: module(x), tuple(wanted))


def test_global_conv_is_a_module() -> None:
    module = GlobalConv1d(3, 4)
    assert {n: tuple(p.shape) for n, p in module.named_parameters()} == {
        "center": (4, 3),
        "surround": (4, 3),
        "bias": (4,),
    }
    assert GlobalConv1d(3, 4, bias=False).bias is None
    assert list(GlobalConv1d(3, 4, bias=False).state_dict()) == ["center", "surround"]
    value = torch.randn(2, 3, 6)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(value), module(value))
    assert "3, 4" in repr(module)
    assert module(torch.randn(0, 3, 6)).shape == (0, 4, 6)
    permuted = torch.randperm(6)
    torch.testing.assert_close(module(value[:, :, permuted]), module(value)[:, :, permuted])


def test_top_k_pool_keeps_the_largest_values_sorted() -> None:
    value = torch.randn(2, 3, 9, dtype=torch.float64, requires_grad=True)
    for k in (1, 4, 9):
        output = TopKPool(k)(value)
        assert torch.equal(output, value.sort(-1, descending=True).values[..., :k])
        assert torch.equal(TopKPool(k)(value[0]), output[0])
    (gradient,) = torch.autograd.grad(TopKPool(4)(value).sum(), value)
    assert torch.equal(gradient.sum(-1), torch.full((2, 3), 4.0, dtype=torch.float64))
    assert torch.equal(gradient.bool(), value >= TopKPool(4)(value)[..., -1:])
    assert not list(TopKPool(2).parameters())
    assert "2" in repr(TopKPool(2))
    assert TopKPool(2)(torch.randn(0, 3, 6)).shape == (0, 3, 2)
