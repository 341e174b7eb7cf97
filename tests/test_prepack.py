"""prepack: same results, used only in inference, and never stale."""

from __future__ import annotations

import copy
import io
import pickle
import weakref
from collections.abc import Callable

import layers
import pytest
import torch
from problems import FEW, Problem, make
from test_layers import make_input, make_layer
from torch import nn

import symconv_ext
from symconv_ext import SymmetricConv2d, SymmetricConvTranspose2d, backends, cost, ops, packs, prepack
from symconv_ext.conv import SymmetricLayer
from symconv_ext.problem import flat_geometry


def filled(p: Problem, dtype: torch.dtype = torch.float64) -> tuple[SymmetricLayer, torch.Tensor]:
    """The problem's layer with the problem's weight, and its input."""
    layer = layers.layer(p, dtype=dtype).eval()
    tensors = make(p, dtype)
    assert isinstance(layer, SymmetricLayer)
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.copy_(tensors.weight)
        layer.bias.copy_(tensors.bias_b if p.transposed else tensors.bias_a)
    return layer, tensors.grad_output if p.transposed else tensors.input


def sized(p: Problem, layer: nn.Module, value: torch.Tensor) -> torch.Tensor:
    return layer(value, p.size) if p.transposed else layer(value)


@pytest.fixture
def forward_calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows by one with every forward pass that a kept weight is used in: whether it was a packed one."""
    calls: list[bool] = []

    def count(name: str, native: bool) -> None:
        run = getattr(packs, name)

        def counted(*arguments: object) -> torch.Tensor:
            calls.append(native)
            return run(*arguments)  # type: ignore[no-any-return]

        monkeypatch.setattr(packs, name, counted)

    count("run_packed", True)
    count("run_dense", False)
    return calls


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("p", FEW, ids=str)
def test_results_are_those_of_the_layer(p: Problem, dtype: torch.dtype) -> None:
    layer, value = filled(p, dtype)
    with torch.no_grad():
        expected = sized(p, layer, value)
        assert prepack(layer) is layer
        found = sized(p, layer, value)
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()


@pytest.fixture
def layer() -> SymmetricConv2d:
    made = make_layer(SymmetricConv2d, padding=1).eval()
    assert isinstance(made, SymmetricConv2d)
    return made


@pytest.fixture
def value() -> torch.Tensor:
    return make_input(SymmetricConv2d)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_both_forms_are_used(
    backend: str, layer: SymmetricConv2d, value: torch.Tensor, forward_calls: list[bool]
) -> None:
    prepack(layer)
    with symconv_ext.backend(backend), torch.no_grad():
        layer(value)
        layer(value[0])
    with symconv_ext.backend(backend), torch.inference_mode():
        layer(value)
    assert forward_calls == [backend == "native"] * 3


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("symmetry", "extent", "is_large"),
    [
        ({"hv": 16}, 9, False),
        ({"hv": 16}, 80, False),
        ({"hv": 16}, 128, False),
        ({"hv": 16}, 192, True),
        ({"hv": 8, "v": 8}, 80, False),
        ({"hv": 8, "v": 8}, 128, True),
    ],
)
@pytest.mark.parametrize("format_", [torch.contiguous_format, torch.channels_last])
def test_few_channels_and_a_large_output_in_channels_last_use_the_kept_dense_weight(
    forward_calls: list[bool],
    format_: torch.memory_format,
    symmetry: dict[str, int],
    extent: int,
    is_large: bool,
) -> None:
    """An output of several blocks is large earlier."""
    layer = SymmetricConv2d(3, 16, 3, padding=1, symmetry=symmetry).eval()
    value = torch.randn(2, 3, extent, extent).to(memory_format=format_)
    with torch.no_grad(), symconv_ext.backend("auto"):
        expected = layer(value)
        torch.testing.assert_close(prepack(layer)(value), expected)
        assert forward_calls == [format_ == torch.contiguous_format or not is_large]
        assert layer(value).is_contiguous(memory_format=format_)


@pytest.mark.usefixtures("native")
def test_one_pack_serves_all_sizes_and_threads(threads: None) -> None:
    layer = SymmetricConvTranspose2d(5, 24, 3, stride=2, padding=1, symmetry={"hv": 16, "h": 4})
    layer = layer.double().eval()
    for count in (1, 2):
        torch.set_num_threads(count)
        for n, height, width in ((1, 1, 1), (2, 3, 1), (3, 17, 20)):
            value = torch.randn(n, 5, height, width, dtype=torch.float64)
            with symconv_ext.backend("native"), torch.no_grad():
                layer._pack = None
                expected = layer(value)
                if count == 1 and n == 1:
                    pack = packs.Pack(layer.problem, layer.weight)
                    assert pack.packed is not None
                layer._pack = pack
                # Not equal: without a pack, a stride that has no effect on so small an input is left out.
                torch.testing.assert_close(layer(value), expected, rtol=1e-13, atol=1e-13)
                assert layer._pack is pack


@pytest.mark.usefixtures("native")
def test_one_pack_serves_images_with_and_without_strips(threads: None) -> None:
    """Small, wide, and those whose taps along v are applied to the products."""
    for stride in (1, 2):
        layer = SymmetricConv2d(8, 16, 3, stride, padding=1, symmetry={"hv": 16}).double().eval()
        kept = prepack(copy.deepcopy(layer))
        for size in ((1, 8, 5, 5), (2, 8, 40, 30), (1, 8, 300, 7), (1, 8, 6, 600)):
            value = torch.randn(size, dtype=torch.float64)
            for count in (1, 2):
                torch.set_num_threads(count)
                with torch.no_grad(), symconv_ext.backend("native"):
                    assert torch.equal(kept(value), layer(value))
                with torch.no_grad(), symconv_ext.backend("torch"):
                    torch.testing.assert_close(kept(value), layer(value), rtol=1e-12, atol=1e-12)


WRITES: dict[str, Callable[[SymmetricConv2d], object]] = {
    "copy_": lambda layer: layer.weight.copy_(torch.ones_like(layer.weight)),
    "in place": lambda layer: layer.weight.mul_(2),
    "a view": lambda layer: layer.weight[0].zero_(),
    "assignment": lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight * 2)),
    "reset_parameters": lambda layer: layer.reset_parameters(),
    "load_state_dict": lambda layer: layer.load_state_dict(
        {name: t + 1 for name, t in layer.state_dict().items()}
    ),
    "load_state_dict by assignment": lambda layer: layer.load_state_dict(
        {name: t + 1 for name, t in layer.state_dict().items()}, assign=True
    ),
    "vector_to_parameters": lambda layer: nn.utils.vector_to_parameters(
        torch.ones(sum(p.numel() for p in layer.parameters()), dtype=torch.float64), layer.parameters()
    ),
    "dilation": lambda layer: setattr(layer, "dilation", (2, 2)),
}


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("write", WRITES)
def test_a_write_shows(layer: SymmetricConv2d, value: torch.Tensor, write: str) -> None:
    prepack(layer)
    with torch.no_grad():
        before = layer(value)
        WRITES[write](layer)
        found = layer(value)
        expected = copy.deepcopy(layer)(value)
    assert torch.equal(found, expected)
    assert found.shape != before.shape or not torch.equal(found, before)


@pytest.mark.usefixtures("backend")
def test_a_raw_write_needs_another_prepack(layer: SymmetricConv2d, value: torch.Tensor) -> None:
    prepack(layer)
    layer.weight.data.mul_(3)
    with torch.no_grad():
        expected = copy.deepcopy(layer)(value)
        assert torch.equal(prepack(layer)(value), expected)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_training_never_uses_a_pack(
    layer: SymmetricConv2d,
    value: torch.Tensor,
    optimizer: type[torch.optim.Optimizer],
    fused: bool,
    forward_calls: list[bool],
) -> None:
    """Neither in training mode nor, where it is forgotten, in eval mode."""
    steps = optimizer(layer.parameters(), lr=0.1, fused=fused)
    for training in (True, False):
        prepack(layer.eval())
        layer.train(training)
        for _ in range(2):
            steps.zero_grad()
            layer(value).square().sum().backward()
            steps.step()
        assert not forward_calls
        layer.eval()
        with torch.no_grad():
            assert torch.equal(layer(value), copy.deepcopy(layer)(value))


@pytest.mark.usefixtures("backend")
def test_gradients_and_transforms_go_past_the_pack(
    layer: SymmetricConv2d, value: torch.Tensor, forward_calls: list[bool]
) -> None:
    layer.requires_grad_(False)
    expected = layer(value)
    prepack(layer)
    tracked = value.clone().requires_grad_()
    layer(tracked).sum().backward()
    assert tracked.grad is not None
    assert tracked.grad.abs().sum() > 0
    torch.func.jvp(layer, (value,), (value,))
    torch.testing.assert_close(torch.func.vmap(layer)(value[None])[0], expected, rtol=1e-12, atol=1e-12)
    assert not forward_calls
    assert torch.equal(layer(value), expected)
    assert len(forward_calls) == 1
    other = {"weight": torch.zeros_like(layer.weight), "bias": torch.zeros_like(layer.bias)}
    assert not torch.func.functional_call(layer, other, (value,)).any()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "move",
    [
        lambda layer: layer.float(),
        lambda layer: layer.to(torch.bfloat16),
        lambda layer: layer.to(memory_format=torch.channels_last),
        lambda layer: layer.to("meta").to_empty(device="cpu"),
        lambda layer: layer.train(),
        lambda layer: layer.train().eval(),
        copy.deepcopy,
        copy.copy,
        lambda layer: pickle.loads(pickle.dumps(layer)),
    ],
)
def test_what_drops_the_pack(layer: SymmetricConv2d, move: Callable[[nn.Module], nn.Module]) -> None:
    prepack(layer)
    state = set(layer.state_dict())
    assert layer._pack is not None
    moved = move(layer)
    assert moved._pack is None
    assert set(moved.state_dict()) == state == {"weight", "bias"}


def test_eval_keeps_it(layer: SymmetricConv2d) -> None:
    pack = prepack(layer)._pack
    assert layer.eval()._pack is pack is not None


@pytest.mark.usefixtures("backend")
def test_the_pack_dies_with_the_layer(value: torch.Tensor) -> None:
    layer = make_layer(SymmetricConv2d)
    pack = prepack(layer)._pack
    with torch.no_grad():
        layer(value)
    assert pack is not None
    kept = weakref.ref(pack)
    del pack
    assert kept() is not None
    del layer
    assert kept() is None


def test_a_computed_weight_is_not_packed(layer: SymmetricConv2d, value: torch.Tensor) -> None:
    nn.utils.parametrizations.weight_norm(layer)
    prepack(layer)
    assert layer._pack is None
    with torch.no_grad():
        first = layer(value)
        layer.parametrizations.weight.original0.mul_(2)
        assert not torch.equal(layer(value), first)


@pytest.mark.usefixtures("native")
def test_autocast_and_other_dtypes(layer: SymmetricConv2d, value: torch.Tensor) -> None:
    layer.float()
    value = value.float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = layer(value)
        found = prepack(layer)(value)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    with torch.no_grad(), pytest.raises(RuntimeError, match="input: expected float32"):
        layer(value.double())


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kind", [SymmetricConv2d, SymmetricConvTranspose2d])
def test_compile(kind: type[SymmetricLayer], forward_calls: list[bool]) -> None:
    torch._dynamo.reset()
    layer, value = make_layer(kind, stride=2, padding=1).eval(), make_input(kind)
    prepack(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(value), layer(value))
        used = len(forward_calls)
        compiled(value)
        assert len(forward_calls) == used + 1  # by the compiled code as well
        layer.weight.mul_(2)  # shows there, too
        expected = copy.deepcopy(layer)(value)
        assert torch.equal(compiled(value), expected)
        prepack(layer)
        assert torch.equal(compiled(value), expected)
        layer.load_state_dict({name: t * 2 for name, t in layer.state_dict().items()})
        assert torch.equal(compiled(value), copy.deepcopy(layer)(value))
    prepack(layer)
    compiled(value).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kind", [SymmetricConv2d, SymmetricConvTranspose2d])
def test_export(kind: type[SymmetricLayer]) -> None:
    layer, value = make_layer(kind, stride=2, padding=1).eval(), make_input(kind)
    prepack(layer)
    with torch.no_grad():
        expected = layer(value)
        program = torch.export.export(layer, (value,))
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        buffer.seek(0)
        assert torch.equal(torch.export.load(buffer).module()(value), expected)


class TestOperators:
    """The checks of the operators themselves."""

    GEOMETRY = ([1, 1], [1, 1], [1, 1], 1, [0, 0, 0, 2, 0, 0, 0, 1])
    FLAT = flat_geometry(*GEOMETRY, False, False)
    TRANSPOSED = flat_geometry(*GEOMETRY, True, False)

    def pack(self, dtype: torch.dtype = torch.float32, transposed: bool = False) -> torch.Tensor:
        size = (4, 3, 3, 3) if transposed else (3, 4, 3, 3)
        return ops.pack(torch.randn(size, dtype=dtype), *self.GEOMETRY, transposed)

    @pytest.mark.usefixtures("native")
    def test_opcheck(self) -> None:
        weight, value, bias = torch.randn(3, 4, 3, 3), torch.randn(2, 4, 5, 6), torch.randn(9)
        utils = ("test_schema", "test_faketensor")
        torch.library.opcheck(ops.pack, (weight, *self.GEOMETRY, False), test_utils=utils)
        packed = self.pack()
        for channels_last in (False, True):
            torch.library.opcheck(
                ops.fprop_packed,
                (value, packed, bias, [3, 4, 3, 3], self.FLAT, channels_last),
                test_utils=utils,
            )
            torch.library.opcheck(
                ops.dgrad_packed,
                (value, self.pack(transposed=True), bias, [4, 3, 3, 3], [2, 9, 5, 6], self.TRANSPOSED, False),
                test_utils=utils,
            )

    @pytest.mark.usefixtures("native")
    def test_a_pack_that_does_not_fit(self) -> None:
        value, size = torch.randn(2, 4, 5, 6), [3, 4, 3, 3]
        for packed, message in (
            (torch.zeros(0), "packed: expected a pack that"),
            (self.pack()[:-1].clone(), "packed: expected a pack that"),
            (torch.zeros_like(self.pack()), "packed: expected a pack that"),
            (self.pack(transposed=True), "packed: expected a pack that"),
            (self.pack(torch.float64), "packed: expected a pack of float32 numbers"),
            (self.pack()[None], "packed: expected a pack of float32 numbers"),
        ):
            with pytest.raises(RuntimeError, match=message):
                ops.fprop_packed(value, packed, None, size, self.FLAT, False)
        with pytest.raises(RuntimeError, match="input: expected 4 channels"):
            ops.fprop_packed(value[:, :3], self.pack(), None, size, self.FLAT, False)
        with pytest.raises(RuntimeError, match="weight_size: expected"):
            ops.fprop_packed(value, self.pack(), None, [4, 4, 3, 3], self.FLAT, False)

    @pytest.mark.usefixtures("native")
    def test_no_pack_where_the_taps_of_a_residue_do_not_mirror(self) -> None:
        geometry = ([2, 2], [0, 0], [1, 1], 1, [0, 0, 0, 2, 0, 0, 0, 1])
        assert ops.pack(torch.randn(4, 3, 2, 2), *geometry, True).numel() == 0
        assert ops.pack(torch.randn(4, 3, 3, 3), *geometry, True).numel() > 0


@pytest.mark.usefixtures("native")
class TestAuto:
    """What the cost rule takes, prepacked or not."""

    def run(self, layer: nn.Module, *size: int) -> None:
        with symconv_ext.backend("auto"), torch.no_grad():
            prepack(layer.eval())(torch.randn(size))

    def test_prepacked_tiny_and_large(self, forward_calls: list[bool]) -> None:
        layer = SymmetricConv2d(16, 32, 3, padding=1, symmetry={"hv": "100%"})
        self.run(layer, 1, 16, 8, 8)
        self.run(layer, 8, 16, 32, 32)
        self.run(SymmetricConv2d(1, 16, 3, symmetry={"h": 16}), 64, 1, 32, 32)
        self.run(SymmetricConv2d(1, 16, 3, symmetry={"h": 16}), 1, 1, 256, 256)
        assert forward_calls == [False, True, True, False]

    def test_no_fast_dgrad(self, forward_calls: list[bool]) -> None:
        self.run(SymmetricConvTranspose2d(64, 64, 2, stride=2, symmetry={"hv": 64}), 8, 64, 16, 16)
        self.run(SymmetricConvTranspose2d(64, 64, 3, stride=2, symmetry={"hv": 64}), 8, 64, 16, 16)
        assert forward_calls == [False, True]
        even = SymmetricConv2d(64, 64, 2, stride=2, symmetry={"hv": 64}).problem
        value = torch.randn(8, 64, 16, 16)
        with symconv_ext.backend("auto"):
            assert backends.choose(even, value).reason == cost.NO_FOLD
            with torch.no_grad():
                assert backends.choose(even, value).native
