"""Finalists trained again, for real and small: killed, gone on with, judged, and shown the test split once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossvit_core import PRESETS
from crossvit_core.recipe import RecipeError
from crossvit_core.train import open_split, score
from crossvit_core.weights import load_model
from results.records import Asked, Event, Finished, Rung
from results.repeats import retrain_dir
from results.store import StoreError, StudyStore
from results.test_ledger import LEDGER_NAME, SecondLookError, TestedRun, open_look, read_look
from search.commands import select as select_command
from search.executors.local import InProcessExecutor
from search.final_test import look_at_test
from search.finalists import SelectionError, Wish
from search.list_searcher import ListedTrial, ListSearcher
from search.plan import Plan
from search.retrain import RetrainConfig, fresh_seed, resolve_retraining, run_retraining
from search.selection import select
from search.selection_report import describe_test, next_command, selection_rows, write_selection
from search.session import StudyFailedError
from search.study import resolve_study
from search.study_config import StudyConfig
from search.study_data import open_study_data
from search.trained import find_trained
from search.trial import Trial

BASE = PRESETS["crossvit_nano_16"].replace(num_classes=10, in_channels=1)
WIDER = BASE.replace(branches=tuple(dataclasses.replace(branch, mlp_ratio=1.0) for branch in BASE.branches))

# Trains the finalists, and kills itself when the first run is on record.
DRIVER = """\
import os, signal, sys
from pathlib import Path
from results.records import Finished
from search.executors.local import InProcessExecutor
from search.retrain import RetrainConfig, resolve_retraining, run_retraining

def die(event):
    if isinstance(event, Finished):
        os.kill(os.getpid(), signal.SIGKILL)

config = RetrainConfig(study_dir=Path(sys.argv[1]), trials=(0, 1), seeds=2)
run_retraining(resolve_retraining(config), InProcessExecutor(), listeners=[die])
"""


def write_study(runs_dir: Path, keys: tuple[str, ...] = ("", "", "")) -> Path:
    """A finished search of two architectures and one that was stopped, with digits and one epoch.

    ``keys``: what it calls them, where that is not what they are called today.
    """
    asked = resolve_study(StudyConfig(space="smoke", runs_dir=runs_dir, settings={"epochs": 1}))
    described = {**asked.describe(), "measure": {"batch_size": 2, "pairs": 10, "window_ms": 1.0}}
    with StudyStore.create(runs_dir / "s", described) as store:
        for trial, (arch, status) in enumerate([(BASE, "ok"), (WIDER, "ok"), (BASE.replace(num_classes=9), "stopped")]):
            about = {"trial": trial, "arch_key": keys[trial] or arch.key(), "arch": arch.to_dict(), "seed": trial}
            store.append(Asked(source="tpe", **about))
            metrics = {"val_accuracy": 0.9, "macs": 1000 + trial, "params": 100}
            store.append(Finished(status=status, seconds=1.0, device="cpu", metrics=metrics, **about))  # type: ignore[arg-type]
    return runs_dir / "s"


def asked_in(path: Path) -> list[tuple[int, str, int]]:
    events = StudyStore.open_readonly(path).events()
    return [(event.trial, event.source, event.seed) for event in events if isinstance(event, Asked)]


def finished_in(path: Path) -> dict[int, Finished]:
    events = StudyStore.open_readonly(path).events()
    return {event.trial: event for event in events if isinstance(event, Finished)}


def stop(event: Event) -> None:
    if isinstance(event, Finished):
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def retrained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with study 's' whose two finalists were trained twice each; the first driver was stopped under way."""
    runs_dir = tmp_path_factory.mktemp("runs")
    study_dir = write_study(runs_dir)
    retraining = resolve_retraining(RetrainConfig(study_dir=study_dir, trials=(0, 1), seeds=2))
    with pytest.raises(KeyboardInterrupt):
        run_retraining(retraining, InProcessExecutor(), listeners=[stop])
    go_on(study_dir)
    return runs_dir


def go_on(study_dir: Path) -> None:
    """Finish a retraining of which one run is on record; what it found stays as it is."""
    first = finished_in(retrain_dir(study_dir))
    assert list(first) == [0]
    # Nobody was trained a second time yet; both are finalists all the same.
    begun = select(study_dir, Wish())
    assert [finalist.trial for finalist in begun.finalists] == [0, 1]
    assert any("has 1 of its 4 runs" in note for note in begun.notes)
    assert next_command(begun) == "make retrain STUDY=s TRIALS=0,1 SEEDS=2"
    retraining = resolve_retraining(RetrainConfig(study_dir=study_dir, trials=(0, 1), seeds=2))
    session = run_retraining(retraining, InProcessExecutor())
    assert session.is_over()
    assert finished_in(retrain_dir(study_dir))[0] == first[0]


@pytest.fixture
def study_dir(retrained_runs: Path, tmp_path: Path) -> Path:
    shutil.copytree(retrained_runs, tmp_path / "runs")
    return tmp_path / "runs" / "s"


@pytest.mark.slow
def test_a_driver_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    study_dir = write_study(tmp_path)
    killed = subprocess.run([sys.executable, "-c", DRIVER, str(study_dir)], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    go_on(study_dir)


def test_what_is_said_of_a_finalist_that_failed_leads_to_another_seed_of_it(tmp_path: Path) -> None:
    study_dir = write_study(tmp_path)
    begun = resolve_retraining(RetrainConfig(study_dir=study_dir, trials=(0, 1), seeds=2))
    with StudyStore.create(begun.path, begun.described) as store:
        for run, item in enumerate(begun.items):
            about = {"trial": run, "arch_key": item.arch.key(), "arch": item.arch.to_dict(), "seed": item.seed}
            store.append(Asked(source=item.source, **about))
            ended = {"status": "failed", "error": "no memory"} if item.arch == WIDER else {"status": "ok"}
            metrics = {} if item.arch == WIDER else {"val_accuracy": 0.9}
            store.append(Finished(seconds=1.0, device="cpu", metrics=metrics, **about, **ended))  # type: ignore[arg-type]
    seeds = int(next_command(select(study_dir, Wish())).partition("SEEDS=")[2])
    again = resolve_retraining(RetrainConfig(study_dir=study_dir, trials=(0, 1), seeds=seeds))
    assert WIDER in [item.arch for item in again.items[len(begun.items) :]]


@pytest.fixture
def kept_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("kept_signals")
def test_a_search_that_knows_its_architectures_by_other_keys_is_retrained_and_judged(tmp_path: Path) -> None:
    study_dir = write_study(tmp_path, keys=("0123456789ab", "", ""))
    config = RetrainConfig(study_dir=study_dir, trials=(0,), seeds=1)
    run_retraining(resolve_retraining(config), InProcessExecutor())
    again = resolve_retraining(config)
    assert len(again.items) == 1 and again.described["finalists"] == ["0123456789ab"]
    [judged] = [finalist for finalist in select(study_dir, Wish()).finalists if finalist.trial == 0]
    assert len(judged.runs) == 1
    assert find_trained(study_dir, 0, "retrain").trial == 0


def test_after_ctrl_c_another_one_does_not_cut_off_how_to_go_on(
    study_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def press_ctrl_c(trial: Trial, plan: Plan) -> Iterator[Rung | Finished]:
        raise KeyboardInterrupt
        yield

    retraining = resolve_retraining(RetrainConfig(study_dir=study_dir, trials=(0, 1), seeds=3))
    with pytest.raises(SystemExit) as ended:
        select_command._run(retraining, InProcessExecutor(press_ctrl_c))
    assert ended.value.code == 130
    assert "interrupted; what finished is kept. To go on:" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_every_finalist_has_its_fresh_seeds_and_its_weights(study_dir: Path) -> None:
    path = retrain_dir(study_dir)
    asked = asked_in(path)
    assert [(number, source) for number, source, _ in asked] == [
        (0, "trial:0"),
        (1, "trial:1"),
        (2, "trial:0"),
        (3, "trial:1"),
    ]
    seeds = {seed for *_, seed in asked}
    assert len(seeds) == 4
    assert not seeds & {0, 1, 2}
    outcomes = finished_in(path)
    data = open_study_data(study_dir)
    for number, *_ in asked:
        assert outcomes[number].status == "ok"
        model = load_model(StudyStore.open_readonly(path).trial_dir(number) / "weights.safetensors")
        _, accuracy = score(model, open_split(data, "val", "cpu"), device="cpu")
        assert accuracy == pytest.approx(outcomes[number].metrics["val_accuracy"], abs=1e-6)


def test_judging_takes_the_fresh_numbers_alone(study_dir: Path) -> None:
    selection = select(study_dir, Wish())
    assert selection.judgement is not None
    means = selection.judgement.means
    outcomes = finished_in(retrain_dir(study_dir))
    accuracy = {number: outcomes[number].metrics["val_accuracy"] for number in outcomes}
    assert means == pytest.approx([(accuracy[0] + accuracy[2]) / 2, (accuracy[1] + accuracy[3]) / 2])
    assert all(mean < 0.9 for mean in means)  # what the search's records say


def test_training_one_of_them_again_leaves_the_choice_among_all(study_dir: Path) -> None:
    command = [str(Path(sys.executable).with_name("crossvit")), "retrain", "s", "--runs-dir", str(study_dir.parent)]
    words = ["--trials", "0", "--seeds", "2", "--executor", "local"]
    result = subprocess.run([*command, *words], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    chosen = json.loads((study_dir / "selection.json").read_text())
    assert [(each["trial"], len(each["runs"])) for each in chosen["finalists"]] == [(0, 2), (1, 2)]


def test_the_split_stays_closed_until_the_retraining_is_done(study_dir: Path) -> None:
    ledger = retrain_dir(study_dir) / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    last = next(number for number, line in enumerate(lines) if '"finished"' in line and json.loads(line)["trial"] == 3)
    ledger.write_text("".join(lines[:last]))
    with pytest.raises(SelectionError, match=r"1 run of 4 to do: make retrain STUDY=s TRIALS=0,1 SEEDS=2"):
        look_at_test(study_dir, select(study_dir, Wish()))
    assert read_look(study_dir) is None


def test_a_retraining_in_which_nothing_worked_has_failed(study_dir: Path) -> None:
    shutil.rmtree(retrain_dir(study_dir))
    retraining = resolve_retraining(RetrainConfig(study_dir=study_dir, trials=(0,), seeds=1))
    broken = dataclasses.replace(retraining, plan=dataclasses.replace(retraining.plan, data_path=study_dir / "none"))
    with pytest.raises(StudyFailedError, match=r"none of 1 fresh run succeeded; the last one said: .*none"):
        run_retraining(broken, InProcessExecutor())
    told = "trial 0 was trained again 1 time and came to nothing (last error: "
    assert any(told in note for note in select(study_dir, Wish(trials=(0,))).notes)


def test_more_seeds_and_more_finalists_come_after_what_is_there(study_dir: Path) -> None:
    before = asked_in(retrain_dir(study_dir))
    retraining = resolve_retraining(RetrainConfig(study_dir=study_dir, trials=(0, 1, 2), seeds=3))
    done = [(number, item.source, item.seed) for number, item in enumerate(retraining.items)]
    assert done[:4] == before
    assert [source for _, source, _ in done[4:]] == ["trial:2", "trial:2", "trial:0", "trial:1", "trial:2"]
    assert len({(item.arch.key(), item.seed) for item in retraining.items}) == 9


def test_what_could_not_be_compared_is_refused(study_dir: Path) -> None:
    with pytest.raises(StoreError, match=r"was begun with epochs 1, not 5"):
        resolve_retraining(RetrainConfig(study_dir=study_dir, trials=(0,), settings={"epochs": 5}))
    with pytest.raises(RecipeError, match="unknown training setting 'epoch'"):
        resolve_retraining(RetrainConfig(study_dir=study_dir, trials=(0,), settings={"epoch": 5}))
    with pytest.raises(SelectionError, match="seeds must be at least 1"):
        resolve_retraining(RetrainConfig(study_dir=study_dir, trials=(0,), seeds=0))
    text = (study_dir / "study.json").read_text()
    study = json.loads(text)
    study["data"]["fingerprint"] = "other"
    (study_dir / "study.json").write_text(json.dumps(study))
    with pytest.raises(StoreError, match="is not what study 's' was run on"):
        resolve_retraining(RetrainConfig(study_dir=study_dir, trials=(0,)))


def test_a_study_of_ones_own_is_not_gone_on_with_as_a_retraining(study_dir: Path) -> None:
    record = retrain_dir(study_dir) / "study.json"
    selection = select(study_dir, Wish())
    study = json.loads(record.read_text())
    del study["retrain_of"], study["recipe"]
    record.write_text(json.dumps(study))
    with pytest.raises(StoreError, match="study 's-retrain' is no retraining of 's' but a study of its own"):
        resolve_retraining(RetrainConfig(study_dir=study_dir, trials=(0,)))
    with pytest.raises(StoreError, match="study 's-retrain' is no retraining of 's' but a study of its own"):
        look_at_test(study_dir, selection)
    assert read_look(study_dir) is None


def test_a_retraining_that_was_renamed_with_its_study_is_gone_on_with(study_dir: Path) -> None:
    runs_dir, began_as = study_dir.parent, json.loads((study_dir / "study.json").read_text())["name"]
    record = retrain_dir(study_dir) / "study.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "retrain_of": began_as}))
    study_dir.rename(runs_dir / "t")
    (runs_dir / "s-retrain").rename(runs_dir / "t-retrain")
    retraining = resolve_retraining(RetrainConfig(study_dir=runs_dir / "t", trials=(0, 1), seeds=2))
    assert run_retraining(retraining, InProcessExecutor()).is_over()
    assert json.loads((runs_dir / "t-retrain" / "study.json").read_text())["retrain_of"] == began_as


def test_the_test_split_is_opened_once_for_the_named(study_dir: Path) -> None:
    selection = select(study_dir, Wish())
    assert describe_test(selection, read_look(study_dir)).startswith("the test split is closed")
    look = look_at_test(study_dir, selection)
    assert not look.missing
    data = open_study_data(study_dir)
    weights = StudyStore.open_readonly(retrain_dir(study_dir)).trial_dir(3) / "weights.safetensors"
    _, accuracy = score(load_model(weights), open_split(data, "test", "cpu"), device="cpu")
    assert look.accuracies[3] == pytest.approx(accuracy, abs=1e-6)

    ledger = (study_dir / LEDGER_NAME).read_bytes()
    shutil.rmtree(retrain_dir(study_dir) / "trials")  # to show it again takes neither weights nor images
    assert look_at_test(study_dir, select(study_dir, Wish())) == look
    rows = selection_rows(selection, look)
    assert rows[0].test.low < rows[0].test.mean < rows[0].test.high
    write_selection(study_dir, selection, look)
    assert json.loads((study_dir / "selection.json").read_text())["test"]["3"] == look.accuracies[3]
    assert (study_dir / LEDGER_NAME).read_bytes() == ledger


def test_another_set_of_finalists_gets_no_look(study_dir: Path) -> None:
    look_at_test(study_dir, select(study_dir, Wish()))
    one = select(study_dir, Wish(trials=(0,)))
    with pytest.raises(SecondLookError, match=r"stays closed: opened on .* for trial 0 \(.* %\), trial 1 \("):
        look_at_test(study_dir, one)
    assert "stays closed for any other choice" in describe_test(one, read_look(study_dir))
    assert selection_rows(one, read_look(study_dir))[0].test.texts() == ("-", "-")
    write_selection(study_dir, one, read_look(study_dir))
    assert json.loads((study_dir / "selection.json").read_text())["test"] is None


def test_a_look_that_was_cut_short_is_finished_for_the_same_weights_only(study_dir: Path) -> None:
    selection = select(study_dir, Wish())
    trials = StudyStore.open_readonly(retrain_dir(study_dir))
    runs = []
    for run in selection.tested_runs:
        digest = hashlib.sha256((trials.trial_dir(run.run) / "weights.safetensors").read_bytes()).hexdigest()
        runs.append(TestedRun(run.trial, run.arch_key, run.run, run.seed, digest))
    # As if killed between the line in the ledger and the first image.
    open_look(study_dir, runs, open_study_data(study_dir).fingerprint, 269)
    assert "--open-test (OPEN_TEST=1) finishes that" in describe_test(selection, read_look(study_dir))
    folders = [trials.trial_dir(number) / "weights.safetensors" for number in (0, 2)]
    kept = folders[0].read_bytes()
    folders[0].write_bytes(folders[1].read_bytes())
    with pytest.raises(SecondLookError):
        look_at_test(study_dir, selection)
    folders[0].write_bytes(kept)
    assert not look_at_test(study_dir, selection).missing


def test_the_split_stays_closed_while_something_is_missing(study_dir: Path) -> None:
    with pytest.raises(SelectionError, match="still to do: trial 2"):
        look_at_test(study_dir, select(study_dir, Wish(trials=(0, 2))))
    (StudyStore.open_readonly(retrain_dir(study_dir)).trial_dir(3) / "weights.safetensors").unlink()
    with pytest.raises(SelectionError, match="the weights of run 3 do not load"):
        look_at_test(study_dir, select(study_dir, Wish()))
    assert read_look(study_dir) is None


def test_fresh_seeds_avoid_those_of_the_search() -> None:
    plain = fresh_seed(0, "key", 1, set())
    assert plain == fresh_seed(0, "key", 1, {plain + 1})
    other = fresh_seed(0, "key", 1, {plain})
    assert other not in (plain, fresh_seed(0, "key", 2, set()))


def test_a_list_is_walked_in_order_one_architecture_with_several_seeds() -> None:
    searcher = ListSearcher([ListedTrial(BASE, 5, "a"), ListedTrial(BASE, 6, "b")])
    proposals = [searcher.ask(number, {BASE.key()}) for number in range(3)]
    assert [(p.seed, p.source) for p in proposals if p is not None] == [(5, "a"), (6, "b")]
    assert proposals[2] is None


def test_the_command_says_what_cannot_be_in_one_sentence(study_dir: Path) -> None:
    command = [str(Path(sys.executable).with_name("crossvit")), "select", "s", "--runs-dir", str(study_dir.parent)]
    result = subprocess.run([*command, "--max-flops", "500"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    nearest = "the nearest is trial 0 with 1 k (90.0 % validation accuracy)"
    assert result.stderr == f"crossvit: no trial of study 's' has macs at most 500; {nearest}\n"
