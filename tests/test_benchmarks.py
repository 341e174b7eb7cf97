"""The benchmarks: contenders compute the same, measurements are complete, and the scripts write whole tables.

No test says how fast anything is.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tolerances
import torch
from torch import nn

import symconv_ext

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))  # last: tests/ has a layers.py too

import bars  # noqa: E402
import baselines  # noqa: E402
import crossover  # noqa: E402
import machine  # noqa: E402
import measure  # noqa: E402
import memory  # noqa: E402
import models  # noqa: E402
import options  # noqa: E402
import shapes  # noqa: E402
import tables  # noqa: E402
import timing  # noqa: E402
from shapes import FORMATS, Layer  # noqa: E402

_specification = importlib.util.spec_from_file_location("benchmark_layers", ROOT / "benchmarks" / "layers.py")
assert _specification is not None
assert _specification.loader is not None
benchmark_layers = importlib.util.module_from_spec(_specification)
sys.modules["benchmark_layers"] = benchmark_layers
_specification.loader.exec_module(benchmark_layers)

TINY = {
    1: Layer("tiny", 2, 3, 8, (9,), bias=True),
    2: Layer("tiny", 2, 3, 8, (6, 5), kernel=5, stride=2, bias=True),
    3: Layer("tiny", 2, 3, 8, (4, 5, 6)),
}
SMALL_NETWORKS = {
    "resnet18": models.Network(2, models.ResNet18, (2, 3, 32, 32), (2,), 1000),
    "unet3d": models.Network(
        3, functools.partial(models.UNet3d, channels=(8, 16)), (2, 1, 4, 4, 4), (2, 4, 4, 4), 2
    ),
}


def run(script: str, *arguments: object) -> str:
    """Runs a script with one thread on the tree's package and returns what it prints."""
    command = [sys.executable, *script.split(), *map(str, arguments), "--threads", "1"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def parts(text: str) -> set[str]:
    """Second-level headings of a Markdown text."""
    return set(re.findall("^## (.*)$", text, re.MULTILINE))


class TestTiming:
    def test_every_call_is_timed_as_often_and_uses_every_buffer(self) -> None:
        seen: dict[str, list[int]] = {"a": [], "b": []}
        alive: list[int] = []

        class Result:
            def __init__(self, number: int) -> None:
                alive.append(number)

            def __del__(self) -> None:
                alive.pop()

        def call(name: str, i: int) -> Result:
            seen[name].append(i)
            assert len(alive) <= 2 * timing.ROTATION
            return Result(i)

        found = timing.interleaved({name: functools.partial(call, name) for name in seen}, 0.01)
        assert found["a"].samples == found["b"].samples >= 1
        for name, numbers in seen.items():
            assert set(numbers) == set(range(timing.ROTATION))
            assert found[name].median > 0
        assert not alive

    def test_summary(self) -> None:
        assert timing.summary([5.0, 1.0, 3.0, 2.0, 4.0]) == timing.Timing(3.0, 1 / 3, 5)
        assert timing.summary([2.0]) == timing.Timing(2.0, 0.0, 1)

    def test_a_slow_call_is_cut_short(self) -> None:
        calls = []
        timing.interleaved(
            {"slow": lambda i: calls.append(torch.randn(400, 400) @ torch.randn(400, 400))}, 0.0
        )
        assert len(calls) > timing.WARM_UP_ROUNDS["cpu"]


class FakeGpu:
    """A clock for the host and one for the end of the device's queue, in place of torch.cuda's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = self.device = 0.0
        self.synchronized = True
        gpu = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = max(gpu.host, gpu.device)

            def elapsed_time(self, end: Event) -> float:
                assert gpu.synchronized, "the end has not been reached"
                return 1000 * (end.at - self.at)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)
        monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: self.run(cycles / 1e9))

    def synchronize(self) -> None:
        self.host = max(self.host, self.device)
        self.synchronized = True

    def run(self, seconds: float) -> None:
        """Queues work."""
        self.device = max(self.host, self.device) + seconds
        self.synchronized = False


class TestTimingOnGpu:
    def test_events_give_the_devices_time_however_slow_the_host(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gpu = FakeGpu(monkeypatch)
        seen: dict[str, list[int]] = {"short": [], "long": []}

        def call(name: str, i: int) -> None:
            seen[name].append(i)
            gpu.host += 300e-6  # what Python takes to queue a call
            gpu.run({"short": 20e-6, "long": 5e-3}[name])

        calls = {name: functools.partial(call, name) for name in seen}
        found = timing.interleaved(calls, 0.0, "cuda")
        assert found["short"].median == pytest.approx(20e-6)
        assert found["long"].median == pytest.approx(5e-3)
        assert found["short"].spread == pytest.approx(0, abs=1e-6)
        for name, numbers in seen.items():
            assert set(numbers) == set(range(timing.ROTATION))
            assert len(numbers) > timing.WARM_UP_ROUNDS["cuda"]
            assert found[name].samples == len(numbers[timing.WARM_UP_ROUNDS["cuda"] :]) / (
                10 if name == "short" else 1
            )
        # Without the head start, the device would wait for the host.
        monkeypatch.setattr(timing, "HEAD_START", 0)
        assert timing.interleaved(calls, 0.0, "cuda")["short"].median > 250e-6

    def test_the_calls_of_the_warm_up_do_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = FakeGpu(monkeypatch)
        calls = 0

        def call(i: int) -> None:
            nonlocal calls
            calls += 1
            gpu.run(1.0 if calls < timing.WARM_UP_ROUNDS["cuda"] else 1e-3)  # cuDNN tries its algorithms

        assert timing.interleaved({"conv": call}, 0.0, "cuda")["conv"].median == pytest.approx(1e-3)


class TestShapes:
    @pytest.mark.parametrize("name", models.NETWORKS)
    def test_layers_are_those_of_the_network(self, name: str) -> None:
        network = models.NETWORKS[name]
        found = set()

        def look(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            assert isinstance(module, nn.Conv2d | nn.Conv3d)
            channels = module.in_channels, module.out_channels
            geometry = module.kernel_size[0], module.stride[0], module.bias is not None
            found.add(Layer(name, *inputs[0].shape[:1], *channels, tuple(inputs[0].shape[2:]), *geometry))

        with torch.device("meta"):
            model = network.build(models.convolution(network.rank, None)).eval()
            for module in model.modules():
                if isinstance(module, nn.Conv2d | nn.Conv3d):
                    module.register_forward_hook(look)
            assert model(torch.empty(network.input_size)).shape[1] == network.classes
        batch = network.input_size[0]
        assert found == {layer for layer in shapes.LAYERS if (layer.family, layer.batch) == (name, batch)}

    @pytest.mark.parametrize(
        "layer", [*shapes.LAYERS, *shapes.QUICK, *TINY.values()], ids=lambda layer: layer.name
    )
    def test_sizes(self, layer: Layer) -> None:
        module = baselines.CONVOLUTION[layer.rank](
            layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.padding, device="meta"
        )
        assert tuple(module.weight.shape) == layer.weight_size
        assert tuple(module(torch.empty(layer.input_size, device="meta")).shape) == layer.output_size
        assert layer.operations == 2 * module.weight[0].numel() * torch.Size(layer.output_size).numel()

    def test_names_tell_layers_apart(self) -> None:
        assert len({layer.name for layer in shapes.LAYERS}) == len(set(shapes.LAYERS)) == len(shapes.LAYERS)

    def test_bounds(self) -> None:
        layer = Layer("", 1, 16, 32, (8, 8, 8))
        found = {name: round(layer.bound(name), 2) for name in shapes.SYMMETRIES}
        assert found == {"h": 2, "v": 2, "hv": 4, "hvz": 8, "h and v": 2, "mixed": 2.67}
        item = layer.bytes(4) - layer.bytes(4, "hv")
        assert item == 4 * (32 - 8) * 16 * 27


@pytest.mark.parametrize("rank", TINY)
class TestContenders:
    def contenders(self, rank: int, symmetry: str) -> tuple[baselines.Mirrored, list[measure.Symmetric]]:
        layer = TINY[rank]
        data = baselines.Data(layer, torch.float64)
        mirrored = baselines.Mirrored(layer, symmetry, data, "contiguous")
        ours = [measure.Symmetric(layer, symmetry, data, format) for format in FORMATS]
        for contender in ours:
            for mine, theirs in zip(contender.parameters, mirrored.parameters, strict=True):
                assert torch.equal(mine, theirs)
        return mirrored, ours

    def test_mirrored_weight_is_the_layer_s(self, rank: int) -> None:
        for symmetry in shapes.SHOWN[rank]:
            mirrored, ours = self.contenders(rank, symmetry)
            dense = mirrored.mirrored.mirrored(mirrored.weight)
            assert torch.equal(dense, symconv_ext.expand_weight(ours[0].module))
            # reduced is the transpose of mirrored: <M w, g> = <w, M' g>
            grad = torch.randn_like(dense)
            one = (dense * grad).sum()
            other = (mirrored.weight * mirrored.mirrored.reduced(grad)).sum()
            tolerances.assert_close("fprop", other, one)

    def test_every_pass_computes_the_same(self, rank: int, backend: str) -> None:
        for symmetry in shapes.SHOWN[rank]:
            mirrored, ours = self.contenders(rank, symmetry)
            for name in baselines.PASSES:
                if name == "prepacked" and not measure.can_prepack():
                    continue
                with torch.set_grad_enabled(name == "step"):
                    expected = mirrored.call(name)(1)
                    for contender in ours:
                        value = contender.call(name)(1)
                        pairs = (
                            zip(value, expected, strict=True)
                            if isinstance(value, tuple)
                            else [(value, expected)]
                        )
                        for one, other in pairs:
                            tolerances.assert_close("fprop", one, other, context=(symmetry, name, backend))

    def test_dense_passes_are_autograd_s(self, rank: int) -> None:
        contender = baselines.Dense(TINY[rank], baselines.Data(TINY[rank], torch.float64), "channels_last")
        grads = contender.step(0)
        output, *others = contender.ops(0)
        for one, other in zip(others, grads, strict=False):
            tolerances.assert_close("dgrad", one, other)
        tolerances.assert_close("dgrad", contender.dgrad(0), grads[0])
        tolerances.assert_close("wgrad", contender.wgrad(0), grads[1])
        assert tuple(output.shape) == TINY[rank].output_size

    def test_measure_is_complete(self, rank: int, backend: str) -> None:
        layer, symmetries = TINY[rank], shapes.SHOWN[rank]
        data = baselines.Data(layer, torch.float32)
        times = measure.measure(layer, symmetries, "step", data, 0.0, backend, mirrored=FORMATS)
        assert list(times) == list(symmetries)
        for found in times.values():
            for timings in (found.dense, found.mirrored, found.ours):
                assert list(timings) == list(FORMATS)
                assert all(t.median > 0 for t in timings.values())
            assert found.worse_ratio == found.best_dense / max(t.median for t in found.ours.values())

    def test_errors(self, rank: int, backend: str) -> None:
        for dtype in (torch.float64, torch.float32):
            found = measure.errors(
                TINY[rank], shapes.SHOWN[rank][0], baselines.Data(TINY[rank], dtype), backend
            )
            assert set(found.dense) == set(found.ours) == {"fprop", "dgrad", "wgrad"}
            for name, error in found.ours.items():
                assert error <= tolerances.bound(name, dtype, found.dense[name])
            assert (max(found.dense.values()) > tolerances.FLOAT64) == (dtype == torch.float32)


def test_on_a_gpu_the_faster_of_the_mirrored_contenders_is_shown() -> None:
    layer = TINY[2]
    slow, fast = timing.Timing(2.0, 0.0, 1), timing.Timing(1.0, 0.0, 1)
    each = {"contiguous": slow, "channels_last": fast}
    times = measure.Times(dense=each, mirrored=each, ours=each)
    row = benchmark_layers.Row(layer, "hv", "step", times, measure.Errors({}, {}))
    (cells,) = benchmark_layers.table([row], machine.Limits(1e9, 1e9, ""))
    shown = dict(zip(benchmark_layers.HEADER, cells, strict=True))
    assert shown["mirror and F.conv, ms"].startswith("1000 ")
    assert shown["ratio to mirror and F.conv"] == "1.00"
    contenders = benchmark_layers.csv_rows([row], machine.Limits(1e9, 1e9, ""))
    assert len(contenders) == 6


class TestModels:
    @pytest.mark.parametrize("name", SMALL_NETWORKS)
    def test_symmetric_network_is_whole(self, name: str) -> None:
        network = SMALL_NETWORKS[name]
        dense = network.build(models.convolution(network.rank, None))
        symmetric = network.build(models.convolution(network.rank, "hv"))
        with torch.no_grad():
            shape = symmetric.eval()(torch.zeros(network.input_size)).shape
        assert tuple(shape) == (network.target_size[0], network.classes, *network.target_size[1:])
        kept = sum(
            m.weight.numel() for m in dense.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (3, 3)
        )
        kept += sum(
            m.weight.numel() for m in dense.modules() if isinstance(m, nn.Conv3d) and m.kernel_size[0] != 3
        )
        all_dense = models.weights(network, None)
        assert models.weights(network, "hv") == kept + (all_dense - kept) // 4

    def test_a_step_trains(self) -> None:
        trainee = models.Trainee(SMALL_NETWORKS["unet3d"], "hv", torch.float32, "cpu", "channels_last")
        before = [p.detach().clone() for p in trainee.model.parameters()]
        loss = trainee.call("step")(0)
        assert isinstance(loss, torch.Tensor)
        assert loss.isfinite()
        assert all(not torch.equal(a, b) for a, b in zip(before, trainee.model.parameters(), strict=True))

    @pytest.mark.usefixtures("only_small_networks")
    def test_table_is_complete(self) -> None:
        rows = models.measure_all(options.Setting(seconds=0.0, only=re.compile("unet3d")))
        assert [row.symmetry for row in rows] == [None, *models.SHOWN[3]]
        for line in models.table(rows):
            assert len(line) == len(models.HEADER)
            empty = {name for name, cell in zip(models.HEADER, line, strict=True) if not cell}
            assert all(name.startswith("prepacked") for name in empty if memory.CLEAR_REFS.exists())
            assert not empty or not measure.can_prepack()

    @pytest.fixture
    def only_small_networks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(models, "NETWORKS", SMALL_NETWORKS)


def allocate_and_free() -> None:
    torch.ones(16 << 20).sum()


@pytest.mark.skipif(
    not memory.CLEAR_REFS.exists(), reason="the system does not let a process reset its peak memory"
)
class TestMemory:
    @pytest.mark.parametrize("work", [functools.partial(torch.ones, 16 << 20), allocate_and_free])
    def test_peak_counts_what_is_freed_again(self, work: Callable[[], object]) -> None:
        found = memory.in_fresh_process(memory.peak_of, work)
        assert found is not None
        # The kernel counts pages a little late.
        assert 63 << 20 < found < 80 << 20

    @pytest.mark.usefixtures("native")
    def test_extra_of_fprop_leaves_out_the_output(self) -> None:
        layer = Layer("", 1, 1, 16, (512, 512))
        found = memory.extra_of_fprop(layer, "hv", torch.float32, 1, "native")
        assert found is not None
        assert found < 4 * torch.Size(layer.output_size).numel()


class TestBars:
    SETTING = options.Setting(seconds=0.0)

    def test_table_is_that_of_the_issue(self) -> None:
        names = [case.full_name for case in bars.cases(self.SETTING)]
        assert len(set(names)) == len(names)
        found = {case.full_name: (case.least, case.aim) for case in bars.cases(self.SETTING)}
        assert found["all hv, fprop: 512 hv fprop"] == (3.6, 4.0)
        assert found["all hv, fprop + both gradients: 64 hv step"] == (2.9, 3.5)
        assert found["all v, fprop; training step: 256 v step"] == (1.75, 1.95)
        assert found["3-D 3x3x3: hvz fprop"] == (3.2, 5.0)
        assert sum(name.startswith("any shape, auto, step") for name in names) == sum(
            len(shapes.SHOWN[layer.rank]) for layer in shapes.LAYERS
        )

    def test_verdicts(self) -> None:
        def verdict(value: float | None, **rest: bool) -> str:
            reached = None if value is None else bars.Reached(value, "", "")
            case = bars.Case("", "", 2.0, 1.0 if rest else 3.0, lambda: reached, **rest)
            return case.verdict(case.measure())

        assert [verdict(v) for v in (3.0, 2.0, 1.9, None)] == [
            "aim reached",
            "bar held",
            bars.MISSED,
            "not measured",
        ]
        found = [verdict(v, lower_is_better=True) for v in (1.0, 2.0, 2.1)]
        assert found == ["aim reached", "bar held", bars.MISSED]

    def test_many_cases_are_summed_up(self) -> None:
        values = [2.0 + i for i in range(bars.MANY + 1)]
        results = [
            bars.Result(bars.Case("bar", str(v), 1, 1, lambda: None), bars.Reached(v, f"{v}", ""))
            for v in values
        ]
        assert [row[1] for row in bars.shown(results)] == ["all 17", "2.0"]
        results[3] = results[3]._replace(reached=bars.Reached(0.5, "0.5", ""))
        summed = bars.shown(results)
        assert [row[1] for row in summed] == ["all 17", "5.0"]
        assert "16 of 17" in summed[0][4]
        assert summed[1][5] == bars.MISSED

    def test_cases_of_every_kind_run(self) -> None:
        kinds = [
            "tiny",
            "error.*8x512->512 7x7 k3 hv",
            "memory.*demo 64x16->32",
            "auto, step.*demo 64x16->32.* hv",
        ]
        setting = options.Setting(seconds=0.0, only=re.compile("|".join(kinds)))
        results = bars.run_bars(setting)
        assert len(results) == len(kinds) + 1
        for result in results:
            measurable = result.case.bar[:4] != "peak" or memory.CLEAR_REFS.exists()
            assert (result.reached is not None) == measurable
        for row in bars.shown(results):
            assert len(row) == len(bars.HEADER)

    def test_a_ratio_needs_prepack(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bars, "can_prepack", lambda: False)
        assert bars.ratio(self.SETTING, TINY[2], "hv", "prepacked")() is None


class TestMachine:
    def test_limits(self) -> None:
        found = machine.limits(options.Setting(), seconds=0.0)
        assert found.arithmetic > 0
        assert found.memory > 0
        assert found.source in found.text

    def test_rate_of_the_loop(self) -> None:
        found = {dtype: machine.fma_rate(dtype, 1) for dtype in (torch.float32, torch.float64, torch.int8)}
        assert found[torch.int8] is None
        assert (found[torch.float32] is None) == (found[torch.float64] is None)  # no compiler
        assert all(rate is None or rate > 0 for rate in found.values())

    def test_description(self) -> None:
        found = dict(machine.description(options.Setting()))
        assert found["torch"] == torch.__version__
        assert symconv_ext.__version__ in found["symconv_ext"]
        assert all(found.values())


class TestOptions:
    def test_instruction_set_starts_anew_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        started: list[list[str]] = []

        def start(path: str, command: list[str]) -> None:
            started.append(command)
            raise SystemExit

        monkeypatch.setattr(os, "execv", start)
        monkeypatch.setattr(sys, "orig_argv", ["python", "layers.py", "--isa", "avx2"])
        for name in options.ISA["avx2"]:
            monkeypatch.setenv(name, "other")
        arguments = options.parser("").parse_args(
            ["--isa", "avx2", "--threads", str(torch.get_num_threads())]
        )
        with pytest.raises(SystemExit):
            options.apply(arguments)
        assert started == [[sys.executable, "layers.py", "--isa", "avx2"]]
        assert {name: os.environ[name] for name in options.ISA["avx2"]} == options.ISA["avx2"]
        assert options.apply(arguments) == options.Setting(isa="avx2")
        assert len(started) == 1

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    def test_no_cuda_is_said(self) -> None:
        with pytest.raises(SystemExit, match="no CUDA device"):
            options.apply(options.parser("").parse_args(["--device", "cuda"]))

    def test_arithmetic_on_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        switches = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
        before = [switch.fp32_precision for switch in switches]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        threads = ["--threads", str(torch.get_num_threads())]
        try:
            for dtype, tf32, expected in (("tf32", True, "tf32"), ("float32", False, "ieee")):
                arguments = options.parser("").parse_args(["--device", "cuda", "--dtype", dtype, *threads])
                setting = options.apply(arguments)
                assert (setting.dtype, setting.tf32, setting.device) == (torch.float32, tf32, "cuda")
                assert [switch.fp32_precision for switch in switches] == [expected] * 2
                assert torch.backends.cudnn.benchmark
        finally:
            for switch, value in zip(switches, before, strict=True):
                switch.fp32_precision = value

    def test_tf32_needs_a_gpu(self) -> None:
        with pytest.raises(SystemExit, match="only a GPU"):
            options.apply(options.parser("").parse_args(["--dtype", "tf32"]))

    def test_only(self) -> None:
        parser = options.parser("")
        options.add_selection(parser, 0.5)
        threads = ["--threads", str(torch.get_num_threads())]
        setting = options.apply(parser.parse_args(["--only", "a.c", "--seconds", "2", *threads]))
        assert setting.seconds == 2
        assert [name for name in ("abc", "xaxcx", "ac") if setting.wants(name)] == ["abc", "xaxcx"]


def test_markdown() -> None:
    text = tables.markdown(("name", "value"), [("a", 1), ("long name", 22)])
    assert text == (
        "| name      | value |\n| --------- | ----: |\n| a         |     1 |\n| long name |    22 |\n"
    )


def test_crossover_table_is_complete() -> None:
    setting = options.Setting(seconds=0.0, only=re.compile("1x(4->4|8->8) (4x4|16x16)"))
    cells = crossover.measure_all(setting, quick=True)
    assert len(cells) == 2 * 2 * len(crossover.SYMMETRIES) * len(crossover.PASSES)
    rows = crossover.table(cells)
    assert len(rows) == 2 * len(crossover.SYMMETRIES) * len(crossover.PASSES)
    assert all(len(row) == len(crossover.header(cells)) == 6 for row in rows)


def test_layers_script(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    passes = ["fprop", "wgrad", "step"]
    text = run(
        "benchmarks/layers.py",
        *("--only", "demo 64x16->", "--seconds", 0, "--passes", *passes),
        *("--csv", tmp_path / "layers.csv", "--plots", tmp_path),
    )
    layers = [layer for layer in shapes.LAYERS if "demo 64x16->" in layer.name]
    assert len(layers) == 2
    for layer in layers:
        for symmetry in shapes.SHOWN[2]:
            for name in passes:
                assert re.search(rf"\| {re.escape(layer.name)} +\| {symmetry} +\| {name} ", text)
    found = {
        (row["layer"], row["symmetry"], row["pass"], row["contender"], row["format"]): row
        for row in read(tmp_path / "layers.csv")
    }
    contenders = (
        [("dense", f) for f in FORMATS] + [("mirrored", "contiguous")] + [("ours", f) for f in FORMATS]
    )
    assert set(found) == {
        (layer.name, symmetry, name, *contender)
        for layer in layers
        for symmetry in shapes.SHOWN[2]
        for name in passes
        for contender in contenders
    }
    for row in found.values():
        assert float(row["seconds"]) > 0
        assert float(row["share_of_peak"]) > 0
        assert (row["error"] == "") == (row["pass"] == "step")
    for name in ("speedup.png", "roofline.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


def test_bars_script(tmp_path: Path) -> None:
    text = run("benchmarks/layers.py --bars --only tiny --seconds 0", "--csv", tmp_path / "bars.csv")
    assert len(read(tmp_path / "bars.csv")) == 2
    assert "tiny layer" in text


def test_bench_command_writes_the_report(tmp_path: Path) -> None:
    text = run("-m symconv_ext bench", "--only", "demo|tiny", "--scale", 0, "--out", tmp_path)
    assert text.strip() == (tmp_path / "benchmarks.md").read_text(encoding="utf-8").strip()
    assert parts(text) == {"Bars", "Layers", "Networks", "Where a dense layer stays better"}
    assert all(name in text for name in ("demo 64x16->32 4x4 k3", "tiny layer", "torch threads", "date"))
    beside = tmp_path / "benchmarks"
    for link in re.findall(r"\]\((benchmarks/[^)]*)\)", text):
        assert (tmp_path / link).is_file()
    assert {path.name for path in beside.glob("*.csv")} == {
        "bars.csv",
        "layers.csv",
        "models.csv",
        "crossover.csv",
    }
    assert {row["pass"] for row in read(beside / "layers.csv")} == {"fprop", "step"}


def test_bench_command_without_the_source_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from symconv_ext import bench

    monkeypatch.setattr(bench, "SCRIPT", tmp_path / "report.py")
    assert bench.main([]) == 1
    assert "source tree" in capsys.readouterr().err
