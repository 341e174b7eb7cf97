"""``python -m symconv_ext verify``: it checks everything, passes here, and reports whatever is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from symconv_ext import __main__, backends, gpu, ops, tolerances, verify
from symconv_ext.verify import arithmetic
from symconv_ext.verify.cases import Case, cases

DESIGN = Path(__file__).parents[1] / "docs" / "design.md"
FULL, QUICK = cases(), cases(quick=True)


def few(quick: bool = False) -> list[Case]:
    """One case of each rank."""
    return [next(c for c in QUICK if c.rank == rank and " mixed" in c.name) for rank in (1, 2, 3)]


def test_the_rule_is_the_designs() -> None:
    table = re.findall(r"^\| (float.*|half.*?) \| (.*) \| (.*) \| (.*) \|$", DESIGN.read_text(), re.MULTILINE)
    assert len(table) == 3
    operators = re.search(r"^\| arithmetic \| (\w+) \| (\w+) \| (\w+) \|$", DESIGN.read_text(), re.MULTILINE)
    assert operators is not None
    for (name, *bounds), dtype, in_half in zip(
        table, (torch.float64, torch.float32, torch.float16), (False, False, True), strict=True
    ):
        for operator, text in zip(operators.groups(), bounds, strict=True):
            e_dense = 3e-4
            allowed = eval(re.sub(r"([\d.]+) e_dense", r"\1 * e_dense", text), {"e_dense": e_dense})
            assert tolerances.bound(operator, dtype, e_dense, in_half) == pytest.approx(allowed), (name, text)


def test_not_a_number_is_infinitely_wrong() -> None:
    right = torch.ones(100, dtype=torch.float64)
    for wrong in (float("nan"), float("inf")):
        value = right.clone()
        value[3] = wrong
        assert tolerances.deviation("fprop", value, right).share == float("inf")
    assert tolerances.deviation("fprop", right, right).share == 0


def test_one_wrong_element_of_many_is_found() -> None:
    oracle = torch.randn(1000, 1000, dtype=torch.float64)
    value = oracle.float()
    assert tolerances.deviation("fprop", value, oracle, oracle.float()).share <= 1
    value[5, 5] += 1e-4
    found = tolerances.deviation("fprop", value, oracle, oracle.float())
    assert found.error < found.allowed
    assert found.share > 1


def test_every_mask_rank_side_and_format_is_there() -> None:
    for rank, masks in {1: "h", 2: "h v hv", 3: "h v z hv hz vz hvz"}.items():
        for transposed in (False, True):
            for channels_last in (False, True) if rank > 1 else (False,):
                of = [
                    case
                    for case in FULL
                    if (case.rank, case.problem.transposed, case.channels_last)
                    == (rank, transposed, channels_last)
                ]
                alone = {*masks.split()}
                assert {mask for c in of for mask in c.problem.symmetry.counts} == alone
                assert alone == {
                    m for c in of if len(c.problem.symmetry.counts) == 1 for m in c.problem.symmetry.counts
                }
                assert {c.problem.stride[0] for c in of} == {1, 2}
                assert {c.problem.dilation[0] for c in of} == {1, 2}
                assert {c.problem.groups for c in of} == {1, 2}
                assert {c.problem.kernel_size[0] for c in of} == {1, 3, 4}
    assert {case.name for case in QUICK} < {case.name for case in FULL}
    assert len({case.name for case in FULL}) == len(FULL)
    for rank in (1, 2, 3):
        names = {tuple(case.problem.symmetry.counts) for case in FULL if case.rank == rank}
        assert names == {tuple(case.problem.symmetry.counts) for case in QUICK if case.rank == rank}


def test_sizes_of_transposed_layers_are_what_the_layer_gives() -> None:
    for case in FULL:
        p = case.problem
        if p.transposed:
            assert p.output_size(case.a_size[2:]) == list(case.size)
        else:
            assert p.output_size(case.size) == case.a_size[2:]


@pytest.mark.usefixtures("native")
def test_the_command_passes_here_and_says_what_ran(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["verify", "--quick", "--device", "cpu", "--seed", "5"]) == 0
    text = capsys.readouterr().out
    for name in ("float32", "float64", "float16", "bfloat16"):
        for rank in (1, 2, 3):
            count = sum(case.rank == rank for case in QUICK)
            for what in ("fprop", "dgrad", "wgrad", "layer"):
                row = rf"\| {name} +\| {rank}-D +\| {what} +\| {count} +\| [01]\.\d\d +\| (.*) \|"
                found = re.search(row, text)
                assert found is not None, (name, rank, what)
                if what == "layer":
                    assert re.search(r"native \d", found[1])
                else:
                    assert f"{ops.cpu_capability()} " in found[1]
    assert f"ok: all {len(QUICK) * 4 * 4} results are within" in text
    assert f"torch {torch.__version__}" in text
    assert "extension  loaded" in text
    assert "checking   cpu: " in text


def one_wrong(value: torch.Tensor) -> torch.Tensor:
    value.view(-1)[-1] += 0.25 * value.abs().max()
    return value


SPOILED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "worst element": one_wrong,
    "error": lambda value: -value,
    "nan": lambda value: value * float("nan"),
    "shape": lambda value: value[..., :-1],
    "dtype": lambda value: value.double() if value.dtype != torch.float64 else value.float(),
    "strides": lambda value: value.transpose(0, -1).contiguous().transpose(0, -1),
}


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("operator", arithmetic.OPERATORS)
@pytest.mark.parametrize(
    "fault", ["worst element", "error", "nan", "shape", "dtype", "strides", "raises", "bits"]
)
def test_a_wrong_kernel_is_reported(
    fault: str, operator: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right, calls = getattr(ops, operator), []

    def broken(*args: object) -> torch.Tensor:
        if fault == "raises":
            raise RuntimeError("launch failed\nat length")
        value = right(*args).clone()
        calls.append(fault)
        if fault == "bits":
            # The second run of each pair has another last bit.
            return value if len(calls) % 2 else torch.nextafter(value, torch.full_like(value, 9e9))
        return SPOILED[fault](value)

    monkeypatch.setattr(ops, operator, broken)
    monkeypatch.setattr(verify, "cases", few)
    assert __main__.main(["verify", "--device", "cpu"]) == 1
    text = capsys.readouterr().out
    assert re.search(rf"\| {operator} +\| 1 +\| .*FAILED", text)
    others = "|".join(name for name in arithmetic.OPERATORS if name != operator)
    assert not re.search(rf"\| (?:{others}) +\| 1 +\| .*FAILED", text)
    said = {
        "nan": "error nan",
        "raises": "RuntimeError: launch failed",
        "bits": "a second run gives other bits",
    }
    assert re.search(
        rf"^WRONG \w+ {operator} \({ops.cpu_capability()}\), \dd .*{said.get(fault, fault)}", text, re.M
    )
    assert re.search(r"^FAILED: \d+ of \d+ results are wrong$", text, re.M)
    assert "launch failed\nat" not in text


def test_a_wrong_layer_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = arithmetic.layer

    def broken(case: Case, t: arithmetic.Tensors) -> dict[str, torch.Tensor]:
        values = right(case, t)
        return {**values, "wgrad": one_wrong(values["wgrad"])}

    monkeypatch.setattr(arithmetic, "layer", broken)
    monkeypatch.setattr(verify, "cases", few)
    assert verify.main(["--device", "cpu"]) == 1
    text = capsys.readouterr().out
    assert len(re.findall(r"^WRONG \w+ layer .*: wgrad: error", text, re.M)) == 12


def test_without_the_extension_the_layers_are_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ops, "LOADED", False)
    monkeypatch.setattr(ops, "WHY_NOT", "it was not built")
    monkeypatch.setattr(verify, "cases", few)
    assert verify.main(["--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "only the torch backend, since the native one cannot run: it was not built" in text
    assert "| fprop" not in text
    assert "ok: all 12 results" in text


def test_nothing_checked_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verify, "cases", lambda quick: [])
    assert verify.main(["--device", "cpu"]) == 1
    assert "NOTHING WAS CHECKED" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:x"])
def test_unknown_devices_are_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        verify.main(["--device", name])
    assert f"expected cpu, cuda or cuda:N, got '{name}'" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
class TestWithoutGpu:
    def test_the_reason_is_said(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(verify, "cases", few)
        for version, reason in ((None, "is built without CUDA"), ("13.0", "(CUDA 13.0) sees no GPU")):
            monkeypatch.setattr(torch.version, "cuda", version)
            with pytest.raises(SystemExit, match="2"):
                verify.main(["--device", "cuda"])
            assert reason in capsys.readouterr().err
            assert verify.main([]) == 0
            assert re.search(rf"CUDA       not used: .*{re.escape(reason)}", capsys.readouterr().out)

    def test_a_gpu_whose_kernels_cannot_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(backends, "why_not_native", lambda device, dtype: f"{device.type}: too old")
        assert verify.why_not_cuda() == "cuda: too old"

    def test_what_is_printed_of_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        properties = SimpleNamespace(name="NVIDIA A100", major=8, minor=0)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
        monkeypatch.setattr(gpu, "_driver_version", lambda: 13000)
        monkeypatch.setattr(backends, "why_not_native", lambda device, dtype: None)
        text = "\n".join(verify.environment(torch.device("cuda"), None))
        assert "driver     " in text
        assert "knows CUDA 13.0; torch was built with CUDA" in text
        assert "checking   cuda:0: NVIDIA A100, sm_80" in text

    def test_arithmetics_of_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for capability, names in (
            ((9, 0), {"float32", "float64", "float16", "bfloat16", "tf32"}),
            ((7, 5), {"float32", "float64", "float16"}),
        ):
            monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, of=capability: of)
            assert {a.name for a in arithmetic.arithmetics(torch.device("cuda"))} == names

    def test_tf32_is_switched_and_put_back(self) -> None:
        switches = torch.backends.cudnn.conv
        before = switches.fp32_precision
        for allowed, expected in ((True, "tf32"), (False, "ieee")):
            with arithmetic.tf32_switch(torch.device("cuda"), allowed):
                assert switches.fp32_precision == expected
            assert switches.fp32_precision == before

    def test_half_types_folded_on_tensor_cores_have_their_own_bounds(self) -> None:
        half, tf32 = arithmetic.Arithmetic("float16", torch.float16), arithmetic.TF32
        assert arithmetic._folded_in_half("tensor core", half)
        assert not arithmetic._folded_in_half("plain", half)
        assert not arithmetic._folded_in_half("tensor core", tf32)


def test_a_convolution_that_torch_cannot_do_is_a_failure_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(case: Case, t: arithmetic.Tensors) -> dict[str, torch.Tensor]:
        raise RuntimeError("cuDNN: not supported\nmore")

    monkeypatch.setattr(arithmetic, "dense", fails)
    findings = list(verify.run(torch.device("cpu"), few()))
    assert {finding.wrong for finding in findings} == {"torch: cuDNN: not supported"}
    assert len(findings) == 12


def test_the_same_seed_makes_the_same_numbers() -> None:
    case = QUICK[0]
    assert torch.equal(arithmetic.make(case, 3).a, arithmetic.make(case, 3).a)
    assert not torch.equal(arithmetic.make(case, 3).a, arithmetic.make(case, 4).a)
