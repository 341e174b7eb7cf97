"""The bars that the kernels are held to: what was reached, what is asked at least, and what is aimed at.

A bar is a row of cases. A ratio is the time of the better of contiguous and channels_last nn.Conv*d over that
of the symmetric layer, and is given for both formats of the latter; the lower one counts.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from baselines import Data
from measure import can_prepack, errors, measure, native_or_torch
from memory import extra_of_fprop
from options import Setting
from progress import note, progress
from shapes import LAYERS, SHOWN, Layer

from symconv_ext.tolerances import bound

MISSED = "MISSED"
MANY = 16  # cases of a bar, from which on only the worst is shown
CHANNELS = ((64, 56), (128, 28), (256, 14), (512, 7))


class Reached(NamedTuple):
    """What a case measured: ``value`` counts, ``text`` shows it by format, ``detail`` tells the rest."""

    value: float
    text: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Case:
    """One number of a bar. ``measure()`` gives None where this build cannot do it."""

    bar: str
    name: str
    least: float
    aim: float
    measure: Callable[[], Reached | None]
    lower_is_better: bool = False

    @property
    def full_name(self) -> str:
        return f"{self.bar}: {self.name}"

    def verdict(self, reached: Reached | None) -> str:
        """In words: how what was reached stands to the bar."""
        if reached is None:
            return "not measured"
        sign = -1 if self.lower_is_better else 1
        if sign * reached.value >= sign * self.aim:
            return "aim reached"
        return "bar held" if sign * reached.value >= sign * self.least else MISSED


def square(channels: int, size: int, batch: int = 8) -> Layer:
    """A 3x3 layer of ResNet-18."""
    return Layer("resnet18", batch, channels, channels, (size, size))


def ratio(
    setting: Setting,
    layer: Layer,
    symmetry: str,
    pass_: str,
    backend: str | None = None,
    dtype: torch.dtype | None = None,
) -> Callable[[], Reached | None]:
    """Measures the ratio of one pass, by default on the native backend (not built: the torch one)."""

    def run() -> Reached | None:
        if pass_ == "prepacked" and not can_prepack():
            return None
        data = _data(layer, dtype or setting.dtype, setting.device)
        name = backend or native_or_torch(setting.device)
        times = measure(layer, [symmetry], pass_, data, setting.seconds, name)[symmetry]
        each = " / ".join(f"{times.ratio(format):.2f}" for format in times.ours)
        spread = max(t.spread for t in (*times.dense.values(), *times.ours.values()))
        return Reached(
            times.worse_ratio, each, f"dense {_milliseconds(times.best_dense)}, spread {spread:.0%}"
        )

    return run


@functools.lru_cache(maxsize=1)
def _data(layer: Layer, dtype: torch.dtype, device: str) -> Data:
    """Cases of the same layer follow each other."""
    return Data(layer, dtype, device)


def cases(setting: Setting) -> Iterator[Case]:
    """Every case, in the order of the table of bars."""
    yield from _kernels(setting)
    yield from _single_layers(setting)
    yield from _resnet(setting)
    yield from _any_shape(setting)
    yield from _tiny(setting)
    half, layer = torch.bfloat16, square(64, 56)
    yield Case(
        "bfloat16 against bfloat16", "64 hv fprop", 8, 20, ratio(setting, layer, "hv", "fprop", dtype=half)
    )
    yield from _errors(setting)
    yield from _memory(setting)


def _kernels(setting: Setting) -> Iterator[Case]:
    def row(
        bar: str, symmetry: str, passes: Sequence[str], least: Sequence[float], aim: Sequence[float]
    ) -> Iterator[Case]:
        for pass_ in passes:
            for (channels, size), low, high in zip(CHANNELS, least, aim, strict=True):
                run = ratio(setting, square(channels, size), symmetry, pass_)
                yield Case(bar, f"{channels} {symmetry} {pass_}", low, high, run)

    training = ("ops", "step")
    yield from row("all hv, fprop", "hv", ["fprop"], (2.6, 3.0, 3.3, 3.6), (3.2, 3.5, 3.8, 4.0))
    yield from row(
        "all hv, fprop + both gradients", "hv", training, (2.9, 3.2, 3.5, 3.7), (3.5, 3.8, 4.0, 4.2)
    )
    for symmetry in ("h", "v"):
        low, high = (1.5, 1.6, 1.75, 1.85), (1.75, 1.85, 1.95, 2.0)
        yield from row(f"all {symmetry}, fprop; training step", symmetry, ("fprop", *training), low, high)
    yield from row(
        "h O/4, v O/4, hv O/2, fprop", "mixed", ["fprop"], (1.6, 2.0, 2.2, 2.4), (2.0, 2.3, 2.5, 2.6)
    )
    # No bar of their own: where the training step is lost or won.
    for pass_ in ("dgrad", "wgrad"):
        yield from row(
            f"(part of the above) {pass_}", "hv", [pass_], (2.9, 3.2, 3.5, 3.7), (3.5, 3.8, 4.0, 4.2)
        )


def _single_layers(setting: Setting) -> Iterator[Case]:
    one = square(64, 56, batch=1)
    yield Case("batch 1, 64 channels", "hv fprop", 2.2, 2.8, ratio(setting, one, "hv", "fprop"))
    yield Case("batch 1, 64 channels", "hv prepacked", 2.4, 3.0, ratio(setting, one, "hv", "prepacked"))
    last = square(512, 7, batch=1)
    yield Case("batch 1, 512 channels", "hv prepacked", 2.5, 3.5, ratio(setting, last, "hv", "prepacked"))
    stem = Layer("resnet18", 8, 3, 64, (224, 224), kernel=7, stride=2)
    yield Case("ResNet stem 7x7 stride 2", "hv fprop", 1.5, 2.0, ratio(setting, stem, "hv", "fprop"))
    volume = Layer("unet3d", 2, 32, 64, (16, 16, 16))
    yield Case("3-D 3x3x3", "hv fprop", 2.4, 3.2, ratio(setting, volume, "hv", "fprop"))
    yield Case("3-D 3x3x3", "hvz fprop", 3.2, 5.0, ratio(setting, volume, "hvz", "fprop"))


def _resnet(setting: Setting) -> Iterator[Case]:
    def run() -> Reached | None:
        from models import NETWORKS, measure_model

        times = measure_model(
            NETWORKS["resnet18"], ["hv"], "step", setting.dtype, setting.device, 20 * setting.seconds
        )["hv"]
        each = " / ".join(f"{times.ratio(format):.2f}" for format in times.ours)
        return Reached(times.worse_ratio, each, f"dense {_milliseconds(times.best_dense)}")

    yield Case("ResNet-18 at 224, batch 8, hv in every 3x3", "training step", 2.0, 2.8, run)


def _any_shape(setting: Setting) -> Iterator[Case]:
    for pass_, least in (("prepacked", 0.97), ("step", 0.93)):
        for layer in LAYERS:
            for symmetry in SHOWN[layer.rank]:
                run = ratio(setting, layer, symmetry, pass_, backend="auto")
                yield Case(f"any shape, auto, {pass_}", f"{layer.name} {symmetry}", least, 1.0, run)


def _tiny(setting: Setting) -> Iterator[Case]:
    layer = Layer("tiny", 1, 1, 16, (8, 8), bias=True)

    def extra() -> Reached | None:
        """Microseconds that the symmetric layer takes beyond nn.Conv2d."""
        data = _data(layer, setting.dtype, setting.device)
        times = measure(layer, ["hv"], "fprop", data, setting.seconds, "auto")["hv"]
        more = {format: 1e6 * (timing.median - times.best_dense) for format, timing in times.ours.items()}
        each = " / ".join(f"{value:+.1f}" for value in more.values())
        return Reached(max(more.values()), f"{each} us", f"dense {_milliseconds(times.best_dense)}")

    def times_longer() -> Reached | None:
        data = _data(layer, setting.dtype, setting.device)
        times = measure(layer, ["hv"], "step", data, setting.seconds, "auto")["hv"]
        each = " / ".join(f"{1 / times.ratio(format):.2f}" for format in times.ours)
        return Reached(1 / times.worse_ratio, f"{each} times", f"dense {_milliseconds(times.best_dense)}")

    yield Case("tiny layer 1->16, 8x8, batch 1, auto", "inference", 15, 0, extra, lower_is_better=True)
    yield Case(
        "tiny layer 1->16, 8x8, batch 1, auto", "training step", 1.5, 1.25, times_longer, lower_is_better=True
    )


def _errors(setting: Setting) -> Iterator[Case]:
    """e over what the design's section on numerics allows."""

    def run(layer: Layer, symmetry: str) -> Callable[[], Reached | None]:
        def of() -> Reached | None:
            data = _data(layer, setting.dtype, setting.device)
            found = errors(layer, symmetry, data, native_or_torch(setting.device))
            shares = [e / bound(name, setting.dtype, found.dense[name]) for name, e in found.ours.items()]
            text = ", ".join(
                f"{name} {e:.1e} (dense {found.dense[name]:.1e})" for name, e in found.ours.items()
            )
            return Reached(max(shares), f"{max(shares):.2f}", text)

        return of

    volume = Layer("unet3d", 2, 32, 64, (16, 16, 16))
    where = [(square(c, s), name) for c, s in CHANNELS for name in ("hv", "h", "v", "mixed")]
    for layer, symmetry in (*where, (volume, "hv"), (volume, "hvz")):
        name = f"{layer.name} {symmetry}"
        yield Case("error over the error allowed", name, 1, 1, run(layer, symmetry), lower_is_better=True)


def _memory(setting: Setting) -> Iterator[Case]:
    def run(layer: Layer, symmetry: str, threads: int) -> Callable[[], Reached | None]:
        def of() -> Reached | None:
            if setting.device != "cpu":
                return None
            extra = extra_of_fprop(layer, symmetry, setting.dtype, threads, native_or_torch())
            if extra is None:
                return None
            megabytes = extra / threads / 1e6
            return Reached(megabytes, f"{megabytes:.2f} MB", f"{threads} threads")

        return of

    for layer in LAYERS:
        symmetry = SHOWN[layer.rank][0]
        case = run(layer, symmetry, torch.get_num_threads())
        yield Case(
            "peak extra memory of fprop per thread",
            f"{layer.name} {symmetry}",
            8,
            8,
            case,
            lower_is_better=True,
        )


class Result(NamedTuple):
    """A case and what it reached."""

    case: Case
    reached: Reached | None


def run_bars(setting: Setting) -> list[Result]:
    """Measures the cases that the setting wants."""
    results = []
    for case in progress([case for case in cases(setting) if setting.wants(case.full_name)], "bars"):
        results.append(Result(case, case.measure()))
        reached = results[-1].reached
        note(f"{case.full_name}: {f'{reached.text} ({reached.detail})' if reached else 'not measured'}")
    return results


def shown(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Rows of the table of bars. Of a bar with many cases: the worst one and every one that misses it."""
    rows: list[tuple[str, ...]] = []
    for bar, group in itertools.groupby(results, lambda result: result.case.bar):
        members = list(group)
        if len(members) > MANY:
            measured = [result for result in members if result.reached is not None]
            missed = [result for result in measured if result.case.verdict(result.reached) == MISSED]
            worst = sorted(measured, key=_margin)[:1]
            held = f"{len(measured) - len(missed)} of {len(measured)} hold it"
            first = members[0].case
            rows.append((bar, f"all {len(members)}", _number(first.least), _number(first.aim), held, "", ""))
            members = missed or worst
        rows += [_row(result) for result in members]
    return rows


def _margin(result: Result) -> float:
    """How far a case is above its bar, relative to it."""
    case, reached = result
    assert reached is not None
    return -reached.value / case.least if case.lower_is_better else reached.value / case.least


def _row(result: Result) -> tuple[str, ...]:
    case, reached = result
    text, detail = (reached.text, reached.detail) if reached else ("", "")
    return case.bar, case.name, _number(case.least), _number(case.aim), text, case.verdict(reached), detail


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def _number(value: float) -> str:
    return f"{value:g}"


HEADER = ("bar", "case", "at least", "aim", "contiguous / channels_last", "verdict", "measured on")
