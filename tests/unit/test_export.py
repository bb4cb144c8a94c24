"""Exported files compute what the network computes, say what they are, and load where this project is not."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from crossvit_core.artefact import KEY, ExportError, MismatchError, describe
from crossvit_core.config import FUSION_NAMES, ArchConfig
from crossvit_core.cost import count_cost
from crossvit_core.data import load_dataset
from crossvit_core.export import FORMATS, TOLERANCE, compare, export_model, find_format
from crossvit_core.export_onnx import example
from crossvit_core.export_snippets import snippet
from crossvit_core.export_torch import open_weights, write_weights
from crossvit_core.model import CrossViT, build_model
from crossvit_core.presets import PRESETS
from crossvit_core.weights import save_weights
from results.records import Asked, Finished, Status
from results.repeats import retrain_dir
from results.store import StoreError, StudyStore
from search import interrupt
from search.cli import main
from search.commands.export import show_export
from search.exporting import TrialExport, export_trial, validation_images
from search.trained import find_trained

ROOT = Path(__file__).parents[2]
# To export, to import torch anew and to time take seconds each: the default suite has one format go all the way.
NAMES = [pytest.param(name, marks=() if name == "onnx" else pytest.mark.slow) for name in FORMATS]
ARCH = PRESETS["crossvit_nano_16"].replace(in_channels=1)

# What a snippet must do without, as in an environment that has its runtime alone.
OURS = ("crossvit_core", "space", "search", "results", "optuna", "ray", "pandas")
HIDDEN = {
    "onnx": (*OURS, "torch", "timm", "safetensors", "onnx", "onnxscript"),
    "torch_export": (*OURS, "timm", "safetensors", "onnx", "onnxscript", "onnxruntime", "torchvision"),
    "safetensors": ("search", "space", "results", "timm", "onnx", "ray"),
    "timm": ("search", "space", "results", "onnx", "ray"),
}
HIDE = "import sys; sys.modules.update(dict.fromkeys({hidden!r}))\n"  # as if they were not installed


def with_fusion(arch: ArchConfig, fusion: str) -> ArchConfig:
    return arch.replace(encoders=tuple(dataclasses.replace(each, fusion=fusion) for each in arch.encoders))


def with_stem(arch: ArchConfig, stem: str) -> ArchConfig:
    return arch.replace(branches=tuple(dataclasses.replace(each, stem=stem) for each in arch.branches))


def with_three_branches(arch: ArchConfig) -> ArchConfig:
    narrow = dataclasses.replace(arch.branches[1], embed_dim=24)
    encoders = tuple(dataclasses.replace(each, depths=(1, 1, 1)) for each in arch.encoders)
    return arch.replace(branches=(*arch.branches, narrow), encoders=encoders)


def trained_looking(arch: ArchConfig, seed: int = 0) -> CrossViT:
    """A network whose positions, norms and biases are as far from their start as training takes them."""
    torch.manual_seed(seed)
    model = build_model(arch).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


class Studies:
    """Studies on the digits, written through the store."""

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir
        self.data = load_dataset("digits", image_size=16)

    def create(self, name: str, **changes: Any) -> Path:
        measure = {"batch_size": 32}
        StudyStore.create(self.runs_dir / name, {"data": self.data.describe(), "measure": measure, **changes}).close()
        return self.runs_dir / name

    def add(
        self, study: Path, trial: int, *, accuracy: float = 0.9, status: Status = "ok", weights: bool = True
    ) -> None:
        about: dict[str, Any] = {"trial": trial, "arch_key": ARCH.key(), "arch": ARCH.to_dict(), "seed": trial}
        with StudyStore.open(study) as store:
            store.append(Asked(**about, source="tpe"))
            metrics = {"val_accuracy": accuracy}
            store.append(Finished(**about, status=status, seconds=1.0, device="cpu", metrics=metrics, error=""))
            if weights:
                store.trial_dir(trial).mkdir(parents=True)
                save_weights(store.trial_dir(trial) / "weights.safetensors", trained_looking(ARCH, trial))


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return Studies(tmp_path)


class Exports(dict[str, TrialExport]):
    """One trial in the formats that are asked for."""

    def __init__(self, runs_dir: Path) -> None:
        writer = Studies(runs_dir)
        self.study = writer.create("digits-1")
        writer.add(self.study, 3)

    def __missing__(self, name: str) -> TrialExport:
        self[name] = export_trial(self.study, 3, name, pairs=10)
        return self[name]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("runs"))


def run_isolated(code: str, folder: Path) -> str:
    """The output of a script in a process that has neither this folder nor the user's settings."""
    run = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=folder)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("name", NAMES)
def test_the_file_computes_what_the_network_computes(exports: Exports, name: str) -> None:
    exported = exports[name].exported
    assert [each.batch_size for each in exported.agreements] == [1, 3, 32, 128]
    assert all(each.images >= 64 and each.same_decision == 1.0 for each in exported.agreements)
    network = trained_looking(ARCH, 3)
    images = torch.randn(5, 1, 16, 16)
    with torch.inference_mode():
        difference = (FORMATS[name].open(exported.path)(images) - network(images)).abs().max()
    assert difference < exported.tolerance


@pytest.mark.parametrize("name", NAMES)
def test_the_printed_snippet_runs_with_its_runtime_alone(exports: Exports, name: str, tmp_path: Path) -> None:
    path = exports[name].exported.path
    printed = run_isolated(HIDE.format(hidden=HIDDEN[name]) + snippet(name, path), tmp_path)
    source = load_dataset("digits", image_size=16)
    blank = torch.full((1, 1, 16, 16), -source.mean[0] / source.std[0])
    with torch.inference_mode():
        decision = trained_looking(ARCH, 3)(blank).argmax(1)
    assert printed.split("\n")[0] == f"(1, 10) [{int(decision)}]"


def test_the_file_says_what_it_is(exports: Exports) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exports["onnx"].exported.path), providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
    data = load_dataset("digits", image_size=16)
    assert ArchConfig.from_dict(about["architecture"]).key() == about["arch_key"] == ARCH.key()
    assert about["preprocessing"]["mean"] == list(data.mean)
    assert about["preprocessing"]["input_size"] == [1, 16, 16]
    assert about["class_names"] == [str(digit) for digit in range(10)]
    assert (about["source"]["study"], about["source"]["trial"]) == ("digits-1", 3)
    assert about["opset"] >= 18
    assert about["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert session.get_inputs()[0].shape == ["batch", 1, 16, 16]


@pytest.mark.slow
def test_timm_is_told_how_images_were_normalised(exports: Exports) -> None:
    network = FORMATS["timm"].open(exports["timm"].exported.path)
    assert network.pretrained_cfg["mean"] == load_dataset("digits", image_size=16).mean  # type: ignore[attr-defined]


def test_no_path_of_this_machine_travels(exports: Exports) -> None:
    check_has_no_path("onnx", exports["onnx"].exported.path.read_bytes())


@pytest.mark.slow
def test_no_path_of_this_machine_travels_in_a_program(exports: Exports) -> None:
    with zipfile.ZipFile(exports["torch_export"].exported.path) as archive:
        assert len(archive.namelist()) > 10
        for name in archive.namelist():
            check_has_no_path(name, archive.read(name))


def check_has_no_path(name: str, content: bytes) -> None:
    assert str(ROOT).encode() not in content, name
    assert b"site-packages" not in content, name


@pytest.mark.slow
def test_the_graph_computes_no_more_than_the_network(exports: Exports) -> None:
    program = torch.export.load(exports["torch_export"].exported.path)
    network = trained_looking(ARCH, 3)
    assert not [node for node in program.graph.nodes if "tensor_split" in str(node.target)]
    run = macs_of(program.module(), example(network))
    assert run == macs_of(network, example(network)) < 2 * count_cost(ARCH).macs


def macs_of(network: Callable[[Tensor], Tensor], images: Tensor) -> int:
    """Multiply-adds of matrix products and convolutions, by torch's own count."""
    with FlopCounterMode(display=False) as counter:
        network(images)
    return counter.get_total_flops() // 2


def test_the_command_shows_every_number_with_its_spread(exports: Exports) -> None:
    outcome, lines = exports["onnx"], io.StringIO()
    with contextlib.redirect_stdout(lines):
        show_export(outcome, Console(file=lines, width=200))
    shown = lines.getvalue()
    assert f"weights: trial 3 of study digits-1, {outcome.trained.why}; validation accuracy 90.0 %" in shown
    assert re.search(r"onnx \(opset \d+\) agrees with the network on validation images", shown)
    assert len(re.findall(r"batches of +\d+: \d+ images, largest difference \S+, same decision 100.0 %", shown)) == 4
    assert len(re.findall(r"[\d,]+ ±[\d.]+% images/s, ratio [\d.]+ ±[\d.]+%, flags: ", shown)) == 2
    assert re.search(r"the file runs at [\d.]+ ±[\d.]+% x the network's speed", shown)
    assert shown.endswith(snippet("onnx", outcome.exported.path))


def test_what_was_measured_is_written_down(exports: Exports) -> None:
    outcome = exports["onnx"]
    written = json.loads(outcome.exported.path.with_name(f"{outcome.exported.path.name}.json").read_text())
    assert written["throughput"]["ips"] == outcome.speed.ips > 0
    assert written["agreements"][0]["max_difference"] <= written["tolerance"]


def test_a_file_that_differs_is_not_kept(tmp_path: Path) -> None:
    def write_others(model: CrossViT, path: Path, about: dict[str, Any]) -> dict[str, Any]:
        return write_weights(trained_looking(ARCH, seed=1), path, about)

    about = describe(ARCH, mean=(0.5,), std=(0.5,))
    wrong = dataclasses.replace(FORMATS["safetensors"], write=write_others)
    out, kept = tmp_path / "new" / "a.safetensors", tmp_path / "b.safetensors"
    kept.write_bytes(b"before")
    for target in (out, kept):
        with pytest.raises(MismatchError, match="differs from the network by"):
            export_model(trained_looking(ARCH), target, wrong, about, torch.randn(8, 1, 16, 16), force=True)
    assert list(out.parent.iterdir()) == []
    assert kept.read_bytes() == b"before"


def test_logits_that_are_not_numbers_agree_with_nothing() -> None:
    network = trained_looking(ARCH)
    with pytest.raises(MismatchError):
        compare(network, lambda images: network(images) * float("nan"), torch.randn(4, 1, 16, 16))


def test_a_difference_within_tolerance_that_turns_a_clear_decision_cannot_be() -> None:
    network = trained_looking(ARCH)
    agreements, tolerance = compare(network, lambda x: network(x) + 0.5 * TOLERANCE, torch.randn(4, 1, 16, 16))
    assert all(0 < each.max_difference <= tolerance for each in agreements)


def test_a_large_data_set_is_sampled_over_all_of_the_split() -> None:
    data = load_dataset("digits", image_size=16)
    assert validation_images(data).shape == (len(data.splits["val"]), 1, 16, 16)
    many = dataclasses.replace(data, splits={**data.splits, "val": data.splits["train"]})
    assert 256 < len(validation_images(many)) <= 512


def test_the_best_retrained_seed_goes_before_the_search(studies: Studies) -> None:
    study = studies.create("s")
    studies.add(study, 0, accuracy=0.99)
    assert find_trained(study, 0).study == "s"
    with pytest.raises(ExportError, match="make retrain STUDY=s TRIALS=0"):
        find_trained(study, 0, "retrain")
    again = studies.create(retrain_dir(study).name, retrain_of="s")
    for trial, accuracy in enumerate((0.9, 0.95, 0.95, 0.99)):
        studies.add(again, trial, accuracy=accuracy, weights=trial != 3)
    found = find_trained(study, 0)
    assert (found.study, found.trial) == ("s-retrain", 1)
    assert "highest validation accuracy of 3" in found.why
    assert "93.3 %" in found.why
    assert find_trained(study, 0, "search").study == "s"


def test_weights_of_a_study_that_is_no_retraining_are_not_taken_and_that_is_said(studies: Studies) -> None:
    study = studies.create("s")
    studies.add(study, 0, accuracy=0.9)
    studies.add(studies.create("s-retrain"), 0, accuracy=0.99)
    found = find_trained(study, 0)
    assert found.study == "s"
    assert found.why.startswith("the trial's own, from the search (study 's-retrain' is no retraining of 's' but")
    assert find_trained(study, 0, "search").why == "the trial's own, from the search"
    with pytest.raises(ExportError, match=r"has no retrained weights; study 's-retrain' is no retraining of 's' but"):
        find_trained(study, 0, "retrain")


def test_a_stopped_trial_can_be_exported_once_it_is_retrained(studies: Studies) -> None:
    study = studies.create("s")
    studies.add(study, 0, status="stopped", weights=False)
    studies.add(study, 1)
    with pytest.raises(ExportError, match=r"ended 'stopped' and left no trained weights; choose .* such as 1"):
        find_trained(study, 0)
    studies.add(studies.create("s-retrain", retrain_of="s"), 0)
    assert find_trained(study, 0).study == "s-retrain"


def test_what_cannot_be_exported_is_said_in_one_sentence(studies: Studies, tmp_path: Path) -> None:
    study = studies.create("s")
    studies.add(study, 0, weights=False)
    studies.add(study, 1)
    with pytest.raises(ExportError, match=r"kept no weights .*make retrain STUDY=s TRIALS=0"):
        export_trial(study, 0, "safetensors")
    with pytest.raises(ExportError, match="has no trial 7; it has trials 0 to 1"):
        export_trial(study, 7, "safetensors")
    with pytest.raises(ExportError, match="did you mean 'onnx'"):
        export_trial(study, 1, "onx")
    with pytest.raises(ExportError, match=r"should end in \.safetensors"):
        export_trial(study, 1, "safetensors", tmp_path / "network.bin")
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot write to"):
        export_trial(study, 1, "safetensors", tmp_path / "file" / "network.safetensors")
    assert not (study / "export").exists()


def test_without_a_name_the_file_goes_into_the_study(exports: Exports) -> None:
    assert exports["onnx"].exported.path == exports.study / "export" / "digits-1-00003.onnx"


def test_a_name_without_a_suffix_gets_the_one_of_the_format(tmp_path: Path) -> None:
    about, form = describe(ARCH, mean=(0.5,), std=(0.5,)), FORMATS["safetensors"]
    images = torch.randn(2, 1, 16, 16)
    exported = export_model(trained_looking(ARCH), tmp_path / "network", form, about, images)
    assert exported.path == tmp_path / "network.safetensors"
    assert list(tmp_path.iterdir()) == [exported.path]
    with pytest.raises(ExportError, match=r"network\.safetensors exists already"):
        export_model(trained_looking(ARCH), tmp_path / "network", form, about, images)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ExportError, match="folder is a folder; name a file in it"):
        export_model(trained_looking(ARCH), tmp_path / "folder", form, about, images)
    for other in ("network.onnx", "network.v2"):
        with pytest.raises(ExportError, match=r"should end in \.safetensors, .*: network\.safetensors$"):
            export_model(trained_looking(ARCH), tmp_path / other, form, about, images)


def test_a_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "network.safetensors"
    images = torch.randn(2, 1, 16, 16)
    about = describe(ARCH, mean=(0.5,), std=(0.5,))

    def export(seed: int, force: bool = False) -> Tensor:
        export_model(trained_looking(ARCH, seed), out, FORMATS["safetensors"], about, images, force=force)
        with torch.inference_mode():
            return open_weights(out)(images)

    first = export(0)
    with pytest.raises(ExportError, match=r"exists already; name another file, or replace it with --force"):
        export(1)
    with torch.inference_mode():
        assert torch.equal(open_weights(out)(images), first)
    assert not torch.equal(export(1, force=True), first)
    assert list(tmp_path.iterdir()) == [out]


def test_other_data_than_the_study_saw_is_refused(studies: Studies) -> None:
    study = studies.create("s")
    studies.add(study, 0)
    about = json.loads((study / "study.json").read_text())
    about["data"]["fingerprint"] = "0" * 16
    (study / "study.json").write_text(json.dumps(about))
    with pytest.raises(StoreError, match="is not what study 's' was run on"):
        export_trial(study, 0, "safetensors")


def test_missing_packages_are_named_with_the_command_that_installs_them() -> None:
    form = dataclasses.replace(FORMATS["onnx"], packages=("onnx", "onnx_of_tomorrow"))
    with pytest.raises(
        ExportError,
        match=r"needs onnx_of_tomorrow, not installed here; install with: pip install onnx onnx_of_tomorrow$",
    ):
        form.check()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("s 0 --format onyx", 2, "unknown format 'onyx'; did you mean 'onnx'"),
        ("s ten", 2, "trial 'ten' is no number of a trial; give one, as 14 (make: TRIAL=14)"),
        ("s 0 --format safetensors --out network.bin", 2, "network.bin should end in .safetensors"),
    ],
)
def test_the_command_fails_in_one_line(
    studies: Studies,
    arguments: str,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    studies.add(studies.create("s"), 0)
    command = ["crossvit", "export", *arguments.split(), "--runs-dir", str(studies.runs_dir)]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(interrupt, "arm", lambda: None)  # the signals are pytest's here
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == code
    written = capsys.readouterr().err
    assert written.startswith(f"crossvit: {words}")
    assert written.count("\n") == 1


def test_whoever_the_umask_lets_may_read_the_file(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    form, out = FORMATS["safetensors"], tmp_path / "network.safetensors"
    export_model(trained_looking(ARCH), out, form, describe(ARCH, mean=(0.5,), std=(0.5,)), torch.randn(2, 1, 16, 16))
    assert out.stat().st_mode == usual.stat().st_mode


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["linear", "conv"])
@pytest.mark.parametrize("branches", [2, 3])
@pytest.mark.parametrize("fusion", FUSION_NAMES)
def test_every_kind_of_network_can_be_exported(fusion: str, branches: int, stem: str, tmp_path: Path) -> None:
    arch = with_stem(with_fusion(ARCH if branches == 2 else with_three_branches(ARCH), fusion), stem)
    about = describe(arch, mean=(0.5,), std=(0.5,))
    for name in ("onnx", "torch_export"):
        form = find_format(name)
        images = torch.randn(9, 1, 16, 16)
        exported = export_model(trained_looking(arch), tmp_path / f"network{form.suffix}", form, about, images)
        assert {each.same_decision for each in exported.agreements} == {1.0}


@pytest.mark.slow
def test_branches_that_rescale_can_be_exported(tmp_path: Path) -> None:
    arch = PRESETS["crossvit_9_dagger_240"]
    about = describe(arch, mean=(0.5,) * 3, std=(0.5,) * 3)
    torch.manual_seed(0)
    network = build_model(arch)
    exported = export_model(network, tmp_path / "network.onnx", FORMATS["onnx"], about, torch.randn(4, 3, 240, 240))
    assert max(each.max_difference for each in exported.agreements) < exported.tolerance


def test_weights_read_back_are_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    network = trained_looking(ARCH)
    write_weights(network, path, describe(ARCH, mean=(0.5,), std=(0.5,)))
    images = torch.randn(2, 1, 16, 16)
    with torch.inference_mode():
        assert torch.equal(open_weights(path)(images), network(images))
