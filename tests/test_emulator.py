"""The emulated device that the CUDA kernels are proved on: layouts, limits, counters, bugs it must catch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from emulator import build

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")

SEEDS = range(10)


@pytest.fixture(scope="module")
def emulator() -> ModuleType:
    return build.load()


@pytest.fixture(autouse=True)
def fresh(emulator: ModuleType) -> None:
    emulator.reset_counters()
    emulator.settings().seed = 0
    emulator.settings().resident_blocks = 2


def bfloat16(x: np.ndarray) -> np.ndarray:
    """The bits of x rounded to bfloat16 (x is chosen to be exact in it)."""
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def gemm(emulator: ModuleType, bug: str, seed: int, m: int = 128, n: int = 64, k: int = 256) -> np.ndarray:
    rng = np.random.default_rng(seed)
    a = rng.integers(-8, 9, (m, k)).astype(np.float32)
    b = rng.integers(-8, 9, (n, k)).astype(np.float32)
    emulator.settings().seed = seed
    c = emulator.Buffer(np.full((m, n), np.nan, np.float32))
    emulator.probes.gemm(
        emulator.Buffer(bfloat16(a)),
        emulator.Buffer(bfloat16(b)),
        c,
        m,
        n,
        k,
        getattr(emulator.probes.Bug, bug),
    )
    return c.numpy().view(np.float32).reshape(m, n) - a @ b.T


# --- what must work


@pytest.mark.parametrize("seed", SEEDS)
def test_gemm_is_exact_in_every_schedule(emulator: ModuleType, seed: int) -> None:
    assert np.all(gemm(emulator, "none", seed) == 0)


def test_counters_of_a_gemm(emulator: ModuleType) -> None:
    gemm(emulator, "none", 0, m=128, n=64, k=256)
    c = emulator.counters()["gemm_kernel"]
    assert (c["launches"], c["blocks"], c["warps"]) == (1, 2, 8)
    assert c["mma_bf16"] == 128 // 16 * (64 // 8) * (256 // 16)
    assert c["mma_f16"] == c["mma_tf32"] == 0
    assert c["ldmatrix"] == 8 * 16 * (2 + 4)
    assert c["ldmatrix_wavefronts"] == 8 * 16 * (2 * 4 + 4 * 2)
    assert c["global_load_bytes"] == 2 * 2 * 64 * 256 * 2
    assert c["copies"] == 2 * 2 * 64 * 256 * 2 // 512
    assert c["bank_conflicts"] == 0
    assert c["block_barriers"] == 2 * 8 * 4  # blocks, tiles, warps


def test_bank_conflicts_are_counted(emulator: ModuleType) -> None:
    assert np.all(gemm(emulator, "no_swizzle", 0) == 0)
    assert emulator.counters()["gemm_kernel"]["bank_conflicts"] > 0


@pytest.mark.parametrize(
    ("stride", "size", "wavefronts", "conflicts"),
    [
        (4, 4, 1, 0),
        (8, 4, 2, 1),
        (128, 4, 32, 31),
        (0, 4, 1, 0),
        (132, 4, 1, 0),
        (16, 16, 4, 0),
        (32, 16, 8, 4),
        (8, 8, 2, 0),
    ],
)
def test_wavefronts_of_shared_accesses(
    emulator: ModuleType, stride: int, size: int, wavefronts: int, conflicts: int
) -> None:
    addresses = (np.arange(32) * stride).astype(np.uint32)
    emulator.probes.touch_shared(emulator.Buffer(addresses), size, 32 * 132 + 16)
    c = emulator.counters()["touch_kernel"]
    assert (c["shared_stores"], c["shared_store_wavefronts"], c["bank_conflicts"]) == (
        1,
        wavefronts,
        conflicts,
    )


def test_transpose_and_sum(emulator: ModuleType) -> None:
    for seed in SEEDS:
        emulator.settings().seed = seed
        x = np.arange(4 * 1024, dtype=np.uint32).reshape(4, 32, 32)
        out = emulator.Buffer(np.zeros_like(x))
        emulator.probes.transpose(emulator.Buffer(x), out, 4, emulator.probes.Bug.none)
        assert np.array_equal(out.numpy().view(np.uint32).reshape(x.shape), x.transpose(0, 2, 1))
        ones = np.ones(1000, np.float32)
        total = emulator.Buffer(np.zeros(1, np.float32))
        emulator.probes.sum(emulator.Buffer(ones), total, 1000, emulator.probes.Bug.none)
        assert total.numpy().view(np.int32)[0] == 1000


def test_conversions(emulator: ModuleType) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [
            rng.standard_normal(2000).astype(np.float32) * 10.0 ** rng.integers(-9, 6, 2000),
            np.array(
                [0, -0.0, 65504, 65519.9, 65520, 1e30, np.inf, -np.inf, 6e-8, 2.9e-8, 3e-8, 2**-14],
                np.float32,
            ),
        ]
    ).astype(np.float32)
    out = emulator.Buffer(np.zeros((x.size, 4), np.uint32))
    emulator.probes.convert(emulator.Buffer(x), out, x.size)
    got = out.numpy().view(np.uint32).reshape(-1, 4)
    with np.errstate(over="ignore", invalid="ignore"):
        half = x.astype(np.float16)
        three_halves = (half.astype(np.float64) * 1.5).astype(np.float16)
    assert np.array_equal(got[:, 0], half.view(np.uint16))
    bits = x.view(np.uint32).astype(np.uint64)
    finite = np.isfinite(x)
    assert np.array_equal(got[finite, 1], ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)[finite])
    assert np.array_equal(got[finite, 2], ((bits + 0x1000) & 0xFFFFE000)[finite])
    assert np.array_equal(got[finite, 3] & 0xFFFF, three_halves.view(np.uint16)[finite])
    assert np.array_equal(got[finite, 3] >> 16, (-three_halves).view(np.uint16)[finite])


# --- layouts, written out from the tables of the PTX ISA


def fragment_a_16bit(lane: int, i: int) -> tuple[int, int]:
    row = lane >> 2 if i in (0, 1, 4, 5) else (lane >> 2) + 8
    return row, (lane % 4) * 2 + (i & 1) + (0 if i < 4 else 8)


def fragment_b_16bit(lane: int, i: int) -> tuple[int, int]:
    return (lane % 4) * 2 + (i & 1) + (0 if i < 2 else 8), lane >> 2


def fragment_c(lane: int, i: int) -> tuple[int, int]:
    return (lane >> 2 if i < 2 else (lane >> 2) + 8), (lane % 4) * 2 + (i & 1)


TF32_A = {0: (0, 0), 1: (8, 0), 2: (0, 4), 3: (8, 4)}
TF32_B = {0: 0, 1: 4}


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "tf32"])
def test_mma_fragments(emulator: ModuleType, kind: str) -> None:
    rng = np.random.default_rng(1)
    depth = 8 if kind == "tf32" else 16
    a = rng.integers(-9, 10, (16, depth)).astype(np.float32)
    b = rng.integers(-9, 10, (depth, 8)).astype(np.float32)
    c = rng.integers(-9, 10, (16, 8)).astype(np.float32)
    fa = np.zeros((32, 4), np.uint32)
    fb = np.zeros((32, 2), np.uint32)
    fc = np.zeros((32, 4), np.float32)
    for lane in range(32):
        for i in range(4):
            fc[lane, i] = c[fragment_c(lane, i)]
        if kind == "tf32":
            for i, (row, column) in TF32_A.items():
                fa[lane, i] = a[(lane >> 2) + row, lane % 4 + column].view(np.uint32)
            for i, row in TF32_B.items():
                fb[lane, i] = b[lane % 4 + row, lane >> 2].view(np.uint32)
        else:
            for fragment, place, matrix, count in (
                (fa, fragment_a_16bit, a, 8),
                (fb, fragment_b_16bit, b, 4),
            ):
                for i in range(count):
                    value = matrix[place(lane, i)]
                    bits = (
                        int(np.float16(value).view(np.uint16))
                        if kind == "float16"
                        else int(value.view(np.uint32)) >> 16
                    )
                    fragment[lane, i // 2] |= np.uint32(bits << (16 * (i % 2)))
    result = emulator.Buffer(fc)
    emulator.probes.mma_once(kind, emulator.Buffer(fa), emulator.Buffer(fb), result)
    got = result.numpy().view(np.float32).reshape(32, 4)
    want = c + a @ b
    for lane in range(32):
        for i in range(4):
            assert got[lane, i] == want[fragment_c(lane, i)]


def test_tf32_operands_lose_their_low_bits(emulator: ModuleType) -> None:
    fa = np.full((32, 4), np.float32(1 + 2.0**-11).view(np.uint32))
    fb = np.full((32, 2), np.float32(1).view(np.uint32))
    result = emulator.Buffer(np.zeros((32, 4), np.float32))
    emulator.probes.mma_once("tf32", emulator.Buffer(fa), emulator.Buffer(fb), result)
    assert np.all(result.numpy().view(np.float32) == 8)


@pytest.mark.parametrize("matrices", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(emulator: ModuleType, matrices: int, transposed: bool) -> None:
    shared = np.arange(32 * 8 + 64, dtype=np.uint16)
    order = np.random.default_rng(2).permutation(32)
    rows = (order * 16).astype(np.uint32)
    result = emulator.Buffer(np.zeros((32, matrices), np.uint32))
    emulator.probes.load_matrices_once(
        emulator.Buffer(shared), emulator.Buffer(rows), matrices, transposed, result
    )
    got = result.numpy().view(np.uint32).reshape(32, matrices)
    for m in range(matrices):
        matrix = np.stack([shared[order[8 * m + r] * 8 :][:8] for r in range(8)])
        if transposed:
            matrix = matrix.T
        for lane in range(32):
            low, high = matrix[lane // 4, 2 * (lane % 4)], matrix[lane // 4, 2 * (lane % 4) + 1]
            assert got[lane, m] == int(low) | int(high) << 16


# --- what must be caught


@pytest.mark.parametrize(
    "bug", ["missing_barrier", "missing_trail_barrier", "missing_wait", "wait_off_by_one"]
)
@pytest.mark.parametrize("seed", SEEDS)
def test_unordered_copies_are_caught(emulator: ModuleType, bug: str, seed: int) -> None:
    try:
        wrong = not np.all(gemm(emulator, bug, seed) == 0)
    except RuntimeError as failure:
        wrong = "pending" in str(failure)
    assert wrong


@pytest.mark.parametrize("seed", SEEDS)
def test_missing_warp_barrier_is_caught(emulator: ModuleType, seed: int) -> None:
    emulator.settings().seed = seed
    x = np.arange(4 * 1024, dtype=np.uint32).reshape(4, 32, 32)
    out = emulator.Buffer(np.zeros_like(x))
    emulator.probes.transpose(emulator.Buffer(x), out, 4, emulator.probes.Bug.missing_warp_barrier)
    assert not np.array_equal(out.numpy().view(np.uint32).reshape(x.shape), x.transpose(0, 2, 1))


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        ("pending_at_exit", "cp.async still pending when the thread ends"),
        ("store_overflow", "out-of-range access .* past the end of a buffer of 32768 bytes"),
        ("load_overflow", "cp.async: 16 bytes at offset .* out of range of a buffer"),
        ("shared_overflow", "out-of-range access .* past the end of a buffer of 24576 bytes"),
        ("misaligned_copy", "cp.async: global address is not aligned to 16 bytes"),
    ],
)
def test_broken_rules_are_named(emulator: ModuleType, bug: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"kernel gemm_kernel: block .* thread .*{message}"):
        gemm(emulator, bug, 0)
    assert np.all(gemm(emulator, "none", 0) == 0)  # and the device goes on


@pytest.mark.parametrize(
    ("bug", "message"),
    [("divergent_barrier", "divergent barrier"), ("partial_warp", "partial warp operation")],
)
@pytest.mark.parametrize("seed", SEEDS)
def test_divergence_is_named(emulator: ModuleType, bug: str, message: str, seed: int) -> None:
    emulator.settings().seed = seed
    out = emulator.Buffer(np.zeros(64, np.float32))
    with pytest.raises(RuntimeError, match=f"probes.cpp:[0-9]+.*{message}|{message}.*probes.cpp:[0-9]+"):
        emulator.probes.diverge(out, getattr(emulator.probes.Bug, bug))
    emulator.probes.diverge(out, emulator.probes.Bug.none)


@pytest.mark.parametrize(
    ("grid", "block", "shared", "opt_in", "works"),
    [
        ([1], [32], 0, False, True),
        ([1, 65535], [32], 0, False, True),
        ([1, 65536], [32], 0, False, False),
        ([1, 1, 65536], [32], 0, False, False),
        ([0], [32], 0, False, False),
        ([1], [1024], 0, False, True),
        ([1], [1056], 0, False, False),
        ([1], [1, 1, 96], 0, False, False),
        ([1], [48], 0, False, False),
        ([1], [32], 48 * 1024, False, True),
        ([1], [32], 48 * 1024 + 16, False, False),
        ([1], [32], 163 * 1024, True, True),
        ([1], [32], 163 * 1024 + 16, True, False),
    ],
)
def test_limits_of_a_launch(
    emulator: ModuleType, grid: list[int], block: list[int], shared: int, opt_in: bool, works: bool
) -> None:
    assert (emulator.probes.try_launch(grid, block, shared, opt_in) == "") is works


def test_buffers_are_aligned_to_no_more_than_asked(emulator: ModuleType) -> None:
    a = emulator.Buffer(np.zeros((64, 32), np.uint16), alignment=8)
    b = emulator.Buffer(np.zeros((64, 32), np.uint16))
    c = emulator.Buffer(np.zeros((64, 64), np.float32))
    with pytest.raises(RuntimeError, match="not aligned to 16 bytes"):
        emulator.probes.gemm(a, b, c, 64, 64, 32, emulator.probes.Bug.none)


@pytest.mark.parametrize(("size", "shift"), [(4, 2), (8, 4), (16, 8), (16, 4)])
def test_shared_accesses_are_aligned(emulator: ModuleType, size: int, shift: int) -> None:
    """To their size, and so are those of ldmatrix to a row: an address may not be rounded down."""
    addresses = np.arange(32, dtype=np.uint32) * size
    emulator.probes.touch_shared(emulator.Buffer(addresses), size, 32 * size + 16)
    addresses[7] += shift
    with pytest.raises(
        RuntimeError, match=f"thread .*store_shared: .* {7 * size + shift} is not aligned to {size} "
    ):
        emulator.probes.touch_shared(emulator.Buffer(addresses), size, 32 * size + 16)


def test_rows_of_ldmatrix_are_aligned(emulator: ModuleType) -> None:
    shared, result = np.zeros(33 * 8, np.uint16), np.zeros((32, 4), np.uint32)
    rows = np.arange(32, dtype=np.uint32) * 16
    rows[9] += 8
    with pytest.raises(
        RuntimeError, match=r"thread .*ldmatrix: shared address 152 is not aligned to 16 bytes"
    ):
        emulator.probes.load_matrices_once(
            emulator.Buffer(shared), emulator.Buffer(rows), 4, False, emulator.Buffer(result)
        )


# --- the sanitizer flavours, each in a process of its own

PROBE = """
import sys
import numpy as np
from emulator import build
e = build.load(sys.argv[1])
kind, bug = sys.argv[2], getattr(e.probes.Bug, sys.argv[3])
e.settings().seed = 3
half = np.zeros((64, 128), np.uint16)
c = e.Buffer(np.zeros((64, 64), np.float32))
if kind == "gemm":
    e.probes.gemm(e.Buffer(half), e.Buffer(half), c, 64, 64, 128, bug)
elif kind == "transpose":
    x = np.zeros((4, 32, 32), np.uint32)
    e.probes.transpose(e.Buffer(x), e.Buffer(x), 4, bug)
else:
    e.probes.sum(e.Buffer(np.ones(1000, np.float32)), c, 1000, bug)
print("finished")
"""


def sanitized(flavour: str, kind: str, bug: str) -> subprocess.CompletedProcess[str]:
    build.build(flavour)
    return subprocess.run(
        [sys.executable, "-c", PROBE, flavour, kind, bug],
        env=build.sanitized_environment(flavour),
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("flavour", ["asan", "tsan"])
@pytest.mark.parametrize("kind", ["gemm", "transpose", "sum"])
def test_sanitizers_pass_right_kernels(flavour: str, kind: str) -> None:
    done = sanitized(flavour, kind, "none")
    assert (done.returncode, done.stdout) == (0, "finished\n"), done.stderr[-3000:]


@pytest.mark.parametrize(
    ("flavour", "kind", "bug", "report"),
    [
        ("asan", "gemm", "store_overflow", "heap-buffer-overflow"),
        ("asan", "gemm", "shared_overflow", "heap-buffer-overflow"),
        ("tsan", "gemm", "missing_barrier", "data race"),
        ("tsan", "gemm", "missing_trail_barrier", "data race"),
        ("tsan", "transpose", "missing_warp_barrier", "data race"),
        ("tsan", "sum", "block_race", "data race"),
    ],
)
def test_sanitizers_report_bugs_whose_result_is_right(flavour: str, kind: str, bug: str, report: str) -> None:
    done = sanitized(flavour, kind, bug)
    assert done.returncode == 66, done.stdout + done.stderr[-3000:]
    assert report in done.stderr
