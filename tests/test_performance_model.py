"""docs/performance-model.md: its arithmetic on small cases, and that the page says what the counts say."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest
from emulator import build

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))  # last: tests/ has a layers.py too

import emulated  # noqa: E402
import gpu_model  # noqa: E402
import performance_model as model  # noqa: E402
from gpu_model import Gpu, Launch  # noqa: E402
from problems import problem  # noqa: E402
from shapes import Layer  # noqa: E402

PAGE = (ROOT / "docs" / "performance-model.md").read_text(encoding="utf-8")
GPU = Gpu("toy", 10, 1e9, 8.0, {"bf16": 1e12}, memory=1e11, l2=200.0, architecture="8.0")
emulator = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


ROWS = [cells(line) for line in PAGE.splitlines() if line.startswith("|")]


class TestArithmetic:
    def test_the_busiest_multiprocessor_takes_the_time(self) -> None:
        def tensor(blocks: int) -> float:
            launch = Launch("k", blocks, mma=1000 * blocks, wavefronts=0, l2_bytes=0, memory_bytes=0)
            return gpu_model.launch_times(GPU, launch).tensor

        # 1000 instructions of a block on four tensor cores, 8 cycles each
        assert [tensor(1), tensor(10)] == pytest.approx([2000e-9] * 2)
        assert [tensor(11), tensor(20)] == pytest.approx([4000e-9] * 2)

    @pytest.mark.parametrize(
        ("limit", "launch", "seconds"),
        [
            ("tensor", Launch("k", 10, 10_000, 1000, 0, 0, 2.0), 2e-6),
            ("shared", Launch("k", 10, 10_000, 30_000, 0, 0, 2.0), 3e-6),
            ("issue", Launch("k", 10, 10_000, 1000, 0, 0, 16.0), 4e-6),
            ("l2", Launch("k", 10, 10_000, 1000, 1_000_000, 1000, 2.0), 5e-6),
            ("memory", Launch("k", 10, 10_000, 1000, 1000, 600_000, 2.0), 6e-6),
        ],
    )
    def test_the_longest_part_is_the_whole(self, limit: str, launch: Launch, seconds: float) -> None:
        times = gpu_model.launch_times(GPU, launch)
        assert times.limit == limit
        assert times.total == getattr(times, limit) == pytest.approx(seconds)

    def test_launches_follow_one_another(self) -> None:
        first = Launch("k", 10, 10_000, 1000, 0, 0)
        second = Launch("k", 10, 0, 30_000, 0, 0)
        times = gpu_model.pass_times(GPU, [first, second])
        assert times.total == pytest.approx(2e-6 + 3e-6)
        assert times.tensor == pytest.approx(2e-6)
        assert times.shared == pytest.approx(0.1e-6 + 3e-6)

    def test_the_dense_pass_takes_its_share_of_the_peak_or_its_bytes(self) -> None:
        assert gpu_model.dense_seconds(GPU, "bf16", 7_000_000, 1000) == pytest.approx(1e-5)
        assert gpu_model.dense_seconds(GPU, "bf16", 7_000_000, 2_000_000) == pytest.approx(2e-5)

    def test_cycles_of_an_mma_are_those_of_the_peak(self) -> None:
        for gpu, share in ((gpu_model.A100, 1.0), (gpu_model.H100, 0.629)):
            per_cycle = gpu.multiprocessors * gpu_model.QUARTERS * 2 * 16 * 8 / gpu.mma_cycles
            assert per_cycle * 16 * gpu.clock == pytest.approx(share * gpu.peak["bf16"], rel=0.01)
            assert per_cycle * 8 * gpu.clock == pytest.approx(share * gpu.peak["tf32"], rel=0.01)

    def test_ratios(self) -> None:
        times = gpu_model.Times(0, 0, 0, 0, 0, total=2.0)
        assert model.Prediction(times, dense=5.0).ratio == 2.5
        assert model.at_least("n", "c", 2.5, 2.5).verdict == model.MET
        assert model.at_least("n", "c", 2.5, 2.49).verdict == model.MISSED
        assert model.at_most("n", "c", 0.85, 0.854).verdict == model.MET
        assert model.at_most("n", "c", 0.85, 0.856).verdict == model.MISSED
        assert model.at_most("n", "c", None, 0.856).verdict == ""

    def test_a_missed_bar_needs_a_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(model, "WHY", {(model.WAVEFRONTS, "wgrad"): "The\n    loads."})
        known = model.Bar(model.WAVEFRONTS, "wgrad, hv, bf16", "1", "1.55", model.MISSED)
        (line,) = model.why([known])
        assert line == f"- {model.WAVEFRONTS}, wgrad, hv, bf16 (1.55, bar 1): The loads."
        with pytest.raises(LookupError, match="say why"):
            list(model.why([known._replace(name="another")]))

    def test_instructions_come_from_the_machine_code(self) -> None:
        for row in model.code_steps():
            if (row["operator"], row["filters"], row["kernel"], row["dtype"]) == (
                *("fprop", "hv", "3x3, strips", "bfloat16"),
            ) and "8.0" in row["for"].split(", "):
                others = float(row["LDSM"]) + float(row["LDS"]) + float(row["others"])
                found = model.issued("fprop", "hv", "3x3", "bf16", "8.0", "tied_result_strips_kernel<X, 8>")
                assert found == 1 + others / float(row["HMMA"])
                break
        else:
            pytest.fail("no such row")
        with pytest.raises(LookupError, match="says nothing"):
            model.issued("fprop", "hv", "9x9", "bf16", "8.0", "")

    def test_tiles_are_brought_by_copies_stages_and_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        row = {"a copy": "5.5", "a stage": "80", "a line": "100", "BAR": "2 / 3"}
        rows = [{**row, "kernel": f"`{name}_kernel<Float16, 2>`"} for name in ("wgrad", "other")]
        monkeypatch.setattr(model, "code_tables", lambda: {"8.0": rows})

        def of(name: str) -> float:
            kernel = f"{name}_kernel<symconv::cuda::BFloat16, 2>"
            return model.bringing("f16", "8.0", kernel, copies=2, barriers=0.5, lines=0.25)

        assert of("other") == 2 * 5.5 + 0.25 * 80
        assert of("wgrad") == of("other") + 0.25 * 100


@emulator
class TestCounts:
    def test_a_sample_of_the_blocks_counts_as_all_of_them(self) -> None:
        p = problem("sample", 64, 32, (16, 64), 3, {"hv": 64}, padding=1, layout="channels_last")
        for operator in model.OPERATORS:
            every, sample = (emulated.counted(operator, p, "bf16", n) for n in (0, 2))
            assert [launch.kernel for launch in every] == [launch.kernel for launch in sample]
            for one, other in zip(every, sample, strict=True):
                assert (one.grid, one.mma, one.counters["warps"]) == (
                    *(other.grid, other.mma, other.counters["warps"]),
                )
                assert other.wavefronts == pytest.approx(one.wavefronts, rel=0.05)
        assert every[-1].blocks > 2

    def test_bytes_of_every_launch(self) -> None:
        p = problem("bytes", 64, 32, (16, 16), 3, {"hv": 64}, padding=1, batch=1, layout="channels_last")
        a, b, w = 2 * 64 * 256, 2 * 32 * 256, 2 * 16 * 32 * 9
        fold, main = emulated.launches("fprop", p, "bf16")
        padded = 2 * w  # 16 orbits of a tile of 32
        assert (fold.kernel.partition("<")[0], fold.memory_bytes) == ("fold_weights_kernel", w + padded)
        assert main.memory_bytes == padded + b + a
        assert main.l2_bytes >= main.memory_bytes
        (counted, _), (product, reduction) = (
            f("wgrad", p, "bf16") for f in (emulated.counted, emulated.launches)
        )
        partial = 4 * (w // 2) * counted.grid[2]
        assert product.memory_bytes == a + b + partial
        assert reduction.memory_bytes == partial + w
        slots, fold, main = emulated.launches("dgrad", p, "bf16")
        assert (slots.memory_bytes, main.memory_bytes) == (a + a, fold.memory_bytes - w + a + b)


@emulator
class TestPage:
    """The whole page takes minutes; make performance-model writes it."""

    @pytest.mark.parametrize("operator", model.OPERATORS)
    def test_counts_of_the_main_loop_are_those_of_now(self, operator: str) -> None:
        rows = [b for b in model.of_main_loop(*model.SHOWN[0], held=True) if b.case.startswith(operator)]
        assert len(rows) == 6 * sum(counted == operator for counted, _ in model.MAIN_LOOPS)
        for bar in rows:
            assert list(bar) in ROWS, "run make performance-model"

    def test_instructions_of_float16_are_those_of_now(self) -> None:
        rows = list(model.code_of_main_loop("hv", "f16", held=True))
        assert len(rows) == 3 * len(model.MAIN_LOOPS)
        for bar in rows:
            assert list(bar) in ROWS, "run make performance-model"

    def test_shares_are_those_of_now(self) -> None:
        for bar in model.shares():
            assert list(bar) in ROWS, "run make performance-model"

    @pytest.mark.parametrize("gpu", model.GPUS, ids=lambda gpu: gpu.name)
    def test_predictions_are_those_of_now(self, gpu: Gpu) -> None:
        layer = next(x for x in model.layers() if (x.out_channels, x.stride, x.kernel) == (512, 1, 3))
        for row in model.layer_rows(gpu, layer, "bf16"):
            assert list(row) in ROWS, "run make performance-model"

    def test_a_pass_without_a_kernel_is_an_error_that_says_so(self) -> None:
        layer = dataclasses.replace(model.squares()[0], kernel=4, stride=2)
        with pytest.raises(LookupError, match="no tensor-core kernel takes dgrad of"):
            model.counts_of(layer, "hv", "dgrad", "bf16")


def test_the_page_has_every_layer_pass_gpu_and_dtype() -> None:
    sections = {section.partition("\n")[0]: section for section in PAGE.split("\n## ")}
    for gpu in model.GPUS:
        for name in ("bf16 and f16", "tf32"):
            section = sections[f"ResNet-18 on an {gpu.name}, {name} (predicted, not measured)"]
            for layer in model.layers():
                for operator in model.OPERATORS:
                    pattern = rf"^\| {re.escape(layer.name.partition(' ')[2])} +\| {operator} "
                    assert len(re.findall(pattern, section, re.MULTILINE)) == 1
    assert isinstance(model.layers()[0], Layer)


def test_everything_is_called_a_prediction() -> None:
    assert "Everything on this page is a prediction. None of it has been measured on a GPU." in PAGE
    for section in PAGE.split("\n## ")[1:]:
        if "|" in section and not section.startswith("How"):
            assert "not measured)" in section.partition("\n")[0]


def test_every_missed_bar_has_its_reason() -> None:
    missed = [row for row in ROWS if row[-1] == model.MISSED]
    reasons = re.findall(r"^- (.*)", PAGE.partition("### Why bars are missed")[2].partition("\n## ")[0], re.M)
    assert len(reasons) == len(missed)
    for (name, case, *_), reason in zip(missed, reasons, strict=True):
        assert reason.startswith(f"{name}, {case}"[:60])
