"""Whole networks, dense against symmetric: inference, a training step, weights and peak memory.

python benchmarks/models.py --only resnet18
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import options
import tables
import torch
from baselines import CONVOLUTION, memory_format
from measure import SYMMETRIC, Times, can_prepack, prepacked
from memory import in_fresh_process, peak_of
from options import Setting
from progress import progress
from shapes import FORMATS, SYMMETRIES
from timing import ROTATION, Call, interleaved
from torch import Tensor, nn
from torch.nn import functional as F

import symconv_ext

# in_channels, out_channels, kernel, stride -> a convolution without bias that keeps the map at stride 1
Convolution = Callable[[int, int, int, int], nn.Module]

PASSES = ("inference", "prepacked", "step")


def convolution(rank: int, symmetry: str | None) -> Convolution:
    """Makes the convolutions of a network: with a symmetry, all of kernel 3 are symmetric."""

    def make(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Module:
        geometry = (in_channels, out_channels, kernel, stride, kernel // 2)
        if symmetry is None or kernel != 3:
            return CONVOLUTION[rank](*geometry, bias=False)
        return SYMMETRIC[rank](*geometry, bias=False, symmetry=SYMMETRIES[symmetry])

    return make


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside the identity, or beside a 1x1 convolution where the size changes."""

    def __init__(self, convolve: Convolution, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolve(in_channels, channels, 3, stride)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = convolve(channels, channels, 3, 1)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                convolve(in_channels, channels, 1, stride), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Sequential):
    """``(N, 3, 224, 224)`` to logits ``(N, 1000)`` (He et al., Deep Residual Learning, 2015)."""

    def __init__(self, convolve: Convolution) -> None:
        stem = [convolve(3, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        blocks = []
        channels = 64
        for out_channels in (64, 128, 256, 512):
            blocks.append(BasicBlock(convolve, channels, out_channels, out_channels // channels))
            blocks.append(BasicBlock(convolve, out_channels, out_channels, 1))
            channels = out_channels
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


class UNet3d(nn.Module):
    """``(N, 1, D, H, W)`` to logits ``(N, 2, D, H, W)``, sizes in fours (Cicek et al., 3D U-Net, 2016)."""

    def __init__(self, convolve: Convolution, channels: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        pairs = list(zip((1, *channels), channels, strict=False))
        self.down = nn.ModuleList(self._level(convolve, a, b) for a, b in pairs)
        self.up = nn.ModuleList(self._level(convolve, a + b, b) for b, a in pairs[:0:-1])
        self.head = nn.Conv3d(channels[0], 2, 1)

    @staticmethod
    def _level(convolve: Convolution, in_channels: int, channels: int) -> nn.Module:
        layers: list[nn.Module] = []
        for a in (in_channels, channels):
            layers += [convolve(a, channels, 3, 1), nn.BatchNorm3d(channels), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for i, level in enumerate(self.down):
            x = level(F.max_pool3d(x, 2) if i else x)
            kept.append(x)
        kept.pop()
        for level in self.up:
            x = level(torch.cat([F.interpolate(x, scale_factor=2.0), kept.pop()], 1))
        return self.head(x)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, its input, and the size and number of classes of its targets."""

    rank: int
    build: Callable[[Convolution], nn.Module]
    input_size: tuple[int, ...]
    target_size: tuple[int, ...]
    classes: int


SHOWN = {2: ("hv", "h and v", "mixed"), 3: ("hvz", "hv", "h and v", "mixed")}
NETWORKS = {
    "resnet18": Network(2, ResNet18, (8, 3, 224, 224), (8,), 1000),
    "unet3d": Network(3, UNet3d, (2, 1, 32, 32, 32), (2, 32, 32, 32), 2),
}


class Trainee:
    """A network in one format, its data and optimiser; the passes take the number of the buffers they use."""

    def __init__(
        self, network: Network, symmetry: str | None, dtype: torch.dtype, device: str, format: str
    ) -> None:
        torch.manual_seed(0)
        layout = memory_format(format, network.rank)
        self.model = network.build(convolution(network.rank, symmetry)).to(device, dtype)
        self.model.to(memory_format=layout)  # type: ignore[call-overload]
        input = torch.randn(network.input_size).to(device, dtype)
        self.inputs = [input.clone(memory_format=layout) for _ in range(ROTATION)]
        self.target = torch.randint(network.classes, network.target_size).to(device)
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9)

    def call(self, name: str) -> Call:
        """The pass of this name; the others than ``step`` are to be called without gradients."""
        if name == "step":
            self.model.train()
            return self.step
        self.model.eval()
        if name == "prepacked":
            self.model = prepacked(self.model)
        return self.inference

    def inference(self, i: int) -> Tensor:
        return self.model(self.inputs[i])

    def step(self, i: int) -> Tensor:
        self.optimiser.zero_grad()
        loss = F.cross_entropy(self.model(self.inputs[i]), self.target)
        loss.backward()
        self.optimiser.step()
        return loss.detach()


def measure_model(
    network: Network, symmetries: Sequence[str], pass_: str, dtype: torch.dtype, device: str, seconds: float
) -> dict[str, Times]:
    """Times of a pass by symmetry, all in turns in one run of about ``seconds``, on the backend ``auto``."""
    with symconv_ext.backend("auto"), torch.set_grad_enabled(pass_ == "step"):
        calls = {
            (symmetry, format): Trainee(network, symmetry, dtype, device, format).call(pass_)
            for symmetry in (None, *symmetries)
            for format in FORMATS
        }
        timings = interleaved(calls, seconds, device)
    by_symmetry = {s: {f: timings[s, f] for f in FORMATS} for s in (None, *symmetries)}
    return {s: Times(dense=by_symmetry[None], mirrored={}, ours=by_symmetry[s]) for s in symmetries}


def peak_memory(
    network: Network, symmetry: str | None, pass_: str, dtype: torch.dtype, device: str, threads: int
) -> int | None:
    """Bytes that a first pass takes at its highest beyond model and data.

    Activations, gradients, the optimiser's state and workspace.
    """
    if device == "cuda":
        return _peak_on_gpu(network, symmetry, pass_, dtype)
    return in_fresh_process(_peak, network, symmetry, pass_, dtype, threads)


def _peak(network: Network, symmetry: str | None, pass_: str, dtype: torch.dtype, threads: int) -> int:
    torch.set_num_threads(threads)
    with torch.set_grad_enabled(pass_ == "step"):
        call = Trainee(network, symmetry, dtype, "cpu", "contiguous").call(pass_)
        return peak_of(lambda: call(0))


def _peak_on_gpu(network: Network, symmetry: str | None, pass_: str, dtype: torch.dtype) -> int:
    with torch.set_grad_enabled(pass_ == "step"):
        call = Trainee(network, symmetry, dtype, "cuda", "contiguous").call(pass_)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call(0)
        return torch.cuda.max_memory_allocated() - before


def weights(network: Network, symmetry: str | None) -> int:
    """Numbers in the weights of all convolutions."""
    model = network.build(convolution(network.rank, symmetry))
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))


@dataclasses.dataclass(frozen=True)
class Row:
    """A network with one symmetry (None: dense), seconds by pass and format, and bytes by pass."""

    network: str
    symmetry: str | None
    weights: int
    times: dict[str, Times]
    memory: dict[str, int | None]


HEADER = (
    "network",
    "symmetry",
    "weights in convolutions",
    *(f"{pass_}, ms (contiguous / channels_last)" for pass_ in PASSES),
    *(f"{pass_}, times faster than the best dense" for pass_ in PASSES),
    "memory of inference, MB",
    "memory of a step, MB",
)


def rows_of(name: str, setting: Setting, quick: bool = False) -> list[Row]:
    """The rows of a network, dense first; ``quick`` leaves one symmetry."""
    network = NETWORKS[name]
    symmetries = SHOWN[network.rank][: 1 if quick else None]
    budget = setting.seconds * (1 + len(symmetries))
    times = {
        pass_: measure_model(network, symmetries, pass_, setting.dtype, setting.device, budget)
        for pass_ in PASSES
        if pass_ != "prepacked" or can_prepack()
    }
    rows = []
    for symmetry in (None, *symmetries):
        of_row = {p: t[symmetries[0] if symmetry is None else symmetry] for p, t in times.items()}
        memory = {
            pass_: peak_memory(
                network, symmetry, pass_, setting.dtype, setting.device, torch.get_num_threads()
            )
            for pass_ in ("inference", "step")
        }
        rows.append(Row(name, symmetry, weights(network, symmetry), of_row, memory))
    return rows


def table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The rows as they are printed."""
    result = []
    for row in rows:
        milliseconds, ratios = [], []
        for pass_ in PASSES:
            times = row.times.get(pass_)
            timings = {} if times is None else times.dense if row.symmetry is None else times.ours
            milliseconds.append(" / ".join(tables.milliseconds(t.median) for t in timings.values()))
            best = min((t.median for t in timings.values()), default=0.0)
            ratios.append("" if times is None else f"{times.best_dense / best:.2f}")
        symmetry = "dense" if row.symmetry is None else str(SYMMETRIES[row.symmetry])
        memory = ("" if b is None else f"{b / 1e6:.0f}" for b in row.memory.values())
        result.append((row.network, symmetry, f"{row.weights:,}", *milliseconds, *ratios, *memory))
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = options.parser(__doc__)
    options.add_selection(parser, seconds=4.0, what="pass of a network with one symmetry")
    arguments = parser.parse_args(argv)
    rows = measure_all(options.apply(arguments))
    print(tables.markdown(HEADER, table(rows), left=2))
    if arguments.csv:
        tables.write_csv(arguments.csv, HEADER, table(rows))
    return 0


def measure_all(setting: Setting, quick: bool = False) -> list[Row]:
    """The rows of every network that the setting wants; its seconds for each pass with each symmetry."""
    names = [name for name in NETWORKS if setting.wants(name)]
    return [row for name in progress(names, "networks") for row in rows_of(name, setting, quick)]


if __name__ == "__main__":
    raise SystemExit(main())
