"""How a study stands: counts, pace, end; while it is written, when it is dead, and when it cannot be read."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from results.frame import load_frame, progress
from results.records import Asked, Ended, Event, Finished, Rung, Started, encode_event
from results.store import StoreError, StudyStore
from search.status import StudyStatus, describe_status, is_being_written, read_status, show_status, watch_status

CROSSVIT = str(Path(sys.executable).with_name("crossvit"))


def asked(trial: int, time: float) -> Asked:
    return Asked(trial=trial, arch_key=f"key{trial}", arch={}, seed=0, source="tpe", time=time)


def finished(trial: int, time: float, status: str = "ok", **metrics: float) -> Finished:
    about: dict = {"arch_key": f"key{trial}", "arch": {}, "seed": 0, "seconds": 1.0, "device": "cpu"}
    return Finished(trial=trial, status=status, metrics=metrics, time=time, **about)  # type: ignore[arg-type]


def write_study(path: Path, events: list[Event], trials: int = 10, command: str = "crossvit search --study s") -> Path:
    limits = {"macs": {"min": None, "max": 1_000_000}}
    with StudyStore.create(path, {"trials": trials, "space": {"limits": limits}}) as store:
        store.write_json("environment.json", {"command": command})
        for event in events:
            store.append(event)
    return path


def test_counts_best_volume_and_age(tmp_path: Path) -> None:
    events: list[Event] = [Started(time=100.0)]
    events += [asked(0, 100.0), finished(0, 110.0, val_accuracy=0.9, macs=10_000.0)]
    events += [asked(1, 110.0), Rung(trial=1, epoch=1, metrics={"val_accuracy": 0.99}, decision="stop", time=112.0)]
    events += [finished(1, 112.0, "stopped", val_accuracy=0.99, macs=1000.0)]
    events += [asked(2, 112.0), finished(2, 113.0, "failed"), asked(3, 113.0), finished(3, 114.0, "infeasible")]
    events += [asked(4, 115.0)]
    status = read_status(write_study(tmp_path / "s", events), clock=120.0)
    assert status.counts == {"ok": 1, "stopped": 1, "infeasible": 1, "failed": 1, "lost": 0}
    assert (status.done, status.open_trials, status.budget) == (4, 1, 10)
    # 0.9 of accuracy over the two decades from 10 k to the limit of 1 M; what was stopped counts for nothing.
    assert (status.best_accuracy, status.hypervolume) == (0.9, pytest.approx(1.8))
    assert status.age_seconds == 5.0


def test_pauses_between_runs_are_no_pace(tmp_path: Path) -> None:
    """One trial every ten seconds, a night in between."""
    events: list[Event] = [Started(time=0.0)]
    for trial in range(6):
        start = 10.0 * trial + (30_000.0 if trial >= 3 else 0.0)
        events += [Started(time=start)] if trial == 3 else []
        events += [asked(trial, start), finished(trial, start + 10.0)]
    status = read_status(write_study(tmp_path / "s", events))
    assert status.rate == pytest.approx(0.1)
    assert status.seconds_left is None  # nobody is at it
    assert status.is_interrupted


def test_trials_that_end_together_have_the_pace_of_the_time_that_they_took(tmp_path: Path) -> None:
    """Two workers, ready after 14 seconds, 26 seconds a trial."""
    events: list[Event] = [Started(time=0.0), asked(0, 1.0), asked(1, 1.0)]
    events += [finished(0, 40.0), asked(2, 40.0), finished(1, 40.02), asked(3, 40.02)]
    path = write_study(tmp_path / "s", events, trials=4)
    with StudyStore.open(path) as store:
        lines = describe_status(read_status(path))
        assert "  pace: 3 trials a minute, 40 s left" in lines
        for event in (finished(2, 66.0), finished(3, 66.1), Ended(reason="its 4 trials are done", time=66.2)):
            store.append(event)
    assert "  pace: 3.63 trials a minute" in describe_status(read_status(path))


def test_no_pace_is_told_by_the_first_of_several_that_began_together(tmp_path: Path) -> None:
    events: list[Event] = [Started(time=0.0), *(asked(trial, 0.0) for trial in range(4))]
    events += [e for trial in range(3) for e in (finished(trial, 30.0 + trial), asked(4 + trial, 30.0 + trial))]
    assert read_status(write_study(tmp_path / "s", events)).rate is None
    with StudyStore.open(tmp_path / "s") as store:
        store.append(finished(3, 40.0))
    assert read_status(tmp_path / "s").rate == pytest.approx(0.1)


def test_what_an_earlier_process_had_stopped_is_no_pace(tmp_path: Path) -> None:
    """It died between decision and outcome, so that the next process writes the outcome as soon as it starts."""
    events: list[Event] = [Started(time=0.0), asked(0, 0.0), Started(time=99.0)]
    settled = dataclasses.replace(finished(0, 99.001, "stopped"), device="")
    path = write_study(tmp_path / "s", [*events, settled, asked(1, 99.1)])
    assert read_status(path).rate is None
    with StudyStore.open(path) as store:
        store.append(finished(1, 109.0))
    assert read_status(path).rate == pytest.approx(0.1)


def test_a_live_study_has_time_left_and_is_not_disturbed(tmp_path: Path) -> None:
    events: list[Event] = [Started(time=0.0)]
    events += [e for t in range(4) for e in (asked(t, 10.0 * t), finished(t, 10.0 * t + 10.0))]
    path = write_study(tmp_path / "s", [*events, asked(4, 40.0)])
    with StudyStore.open(path) as store:
        status = read_status(path)
        assert status.alive
        assert not status.is_interrupted
        assert status.seconds_left == pytest.approx(60.0)
        assert "1 running" in describe_status(status)[1]
        with open(path / "ledger.jsonl", "ab") as ledger:
            ledger.write(b'{"event": "finis')  # being written at this moment
        assert read_status(path).done == 4
        assert store.study["trials"] == 10
    assert not is_being_written(path)


def test_networks_enqueued_beyond_the_budget_are_counted_in_it(tmp_path: Path) -> None:
    """Four trials planned and done, two more enqueued, of which one is done."""
    events: list[Event] = [Started(time=0.0)]
    events += [e for t in range(5) for e in (asked(t, 10.0 * t), finished(t, 10.0 * t + 10.0))]
    path = write_study(tmp_path / "s", [*events, asked(5, 50.0)], trials=4)
    with StudyStore.open(path) as store:
        status = read_status(path)
        assert describe_status(status)[0] == "study s: 5 of 6 trials done, running"
        assert status.seconds_left == pytest.approx(10.0)
        store.append(finished(5, 60.0))
    assert describe_status(read_status(path))[0] == "study s: 6 of 6 trials done, complete"


def test_a_dead_driver_is_noticed_and_the_command_given(tmp_path: Path) -> None:
    status = read_status(write_study(tmp_path / "s", [Started(time=1.0), asked(0, 1.0), asked(1, 1.0)]))
    lines = describe_status(status)
    assert lines[0] == "study s: 0 of 10 trials done, interrupted"
    assert lines[1] == "  trials: 2 open"
    assert lines[-1] == (
        "its driver is gone with 2 trials open; what finished is kept. To go on:\n  crossvit search --study s"
    )


def test_an_end_is_an_end_until_it_goes_on(tmp_path: Path) -> None:
    events: list[Event] = [asked(0, 1.0), finished(0, 2.0), Ended(reason="the space is exhausted", time=3.0)]
    status = read_status(write_study(tmp_path / "s", events))
    assert not status.is_interrupted
    assert describe_status(status)[0] == "study s: 1 of 10 trials done, ended: the space is exhausted"
    with StudyStore.open(tmp_path / "s") as store:
        store.append(Started(time=4.0))
    assert read_status(tmp_path / "s").is_interrupted


def test_a_study_without_events(tmp_path: Path) -> None:
    status = read_status(write_study(tmp_path / "s", []))
    assert (status.rate, status.best_accuracy, status.hypervolume, status.age_seconds) == (None, None, None, None)
    assert describe_status(status)[1] == "  trials: none yet"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("study.json", "{", "study.json is damaged"),
        ("study.json", '{"format": 1, "trials": "x"}', "study.json is damaged: trials is 'x'"),
        ("ledger.jsonl", "nonsense\n", "ledger.jsonl, line 1 is not an event of a ledger"),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = write_study(tmp_path / "s", [asked(0, 1.0)])
    (path / name).write_text(text)
    with pytest.raises(StoreError, match=message):
        read_status(path)


def test_watching_ends_with_the_search(tmp_path: Path) -> None:
    path = write_study(tmp_path / "s", [asked(0, 1.0)], trials=1)
    store = StudyStore.open(path)
    seen = []
    for status in watch_status(path):
        seen.append((status.alive, status.done))
        if status.alive:
            store.append(finished(0, 2.0, val_accuracy=0.5, macs=10.0))
            store.close()
    assert seen == [(True, 0), (False, 1)]


def standing(**changes: object) -> StudyStatus:
    fields: dict = {
        "name": "s",
        "budget": 4,
        "counts": {"ok": 1},
        "open_trials": 0,
        "best_accuracy": 0.5,
        "hypervolume": 1.0,
        "rate": 0.1,
        "age_seconds": 1.0,
        "alive": True,
        "end": "",
        "resume": "",
    }
    return StudyStatus(**{**fields, **changes})


def test_in_a_log_only_news_are_printed() -> None:
    console = Console(file=io.StringIO(), width=100)
    show_status([standing(), standing(age_seconds=3.0), standing(counts={"ok": 2})], console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("study s") == 2
    assert "1 of 4 trials done, running" in text
    assert "2 of 4 trials done, running" in text
    assert "6 trials a minute, 20 s left" in text


def test_a_fast_pace_is_a_plain_number() -> None:
    assert "  pace: 1,206 trials a minute, 0 s left" in describe_status(standing(rate=20.1))


def test_a_driver_that_is_silent_for_long_is_pointed_out() -> None:
    assert "nothing has been heard" in describe_status(standing(age_seconds=3600.0))[-1]


def test_ten_thousand_trials_are_told_at_once(tmp_path: Path, measure_cpu: Callable[[str, str], float]) -> None:
    """40,000 events of realistic size: little more is done with them than to read them, whatever the machine."""
    path = write_study(tmp_path / "s", [])
    arch = {"branches": [{"image_size": 16, "patch_size": 4, "embed_dim": 16, "num_heads": 2, "mlp_ratio": 2.0}] * 2}
    with open(path / "ledger.jsonl", "w", encoding="utf-8") as ledger:
        for trial in range(10_000):
            question, answer = asked(trial, trial), finished(trial, trial + 0.5, val_accuracy=0.5, macs=1e5 + trial)
            rungs = [Rung(trial=trial, epoch=e, metrics={"val_accuracy": 0.4}, decision="continue") for e in (1, 2)]
            for event in (question, *rungs, answer):
                ledger.write(json.dumps({**encode_event(event), "arch": arch}) + "\n")
    write_study(tmp_path / "empty", [])
    begin = time.process_time()
    assert sum(1 for _ in StudyStore.open_readonly(path).events()) == 40_000
    reading = time.process_time() - begin
    assert measure_cpu("s", "10,000 of 10,000 trials done") - measure_cpu("empty", "0 of ") < 4 * reading


@pytest.fixture
def measure_cpu(tmp_path: Path) -> Callable[[str, str], float]:
    """CPU seconds of the command for a study, its start included."""

    def measure(name: str, says: str) -> float:
        import resource

        command = [CROSSVIT, "status", name, "--runs-dir", str(tmp_path)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert says in run.stdout
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return measure


@pytest.mark.parametrize("arguments", [("status", "nothing"), ("dashboard", "a/b")])
def test_the_command_answers_bad_names_in_one_sentence(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    run = subprocess.run([CROSSVIT, *arguments, "--runs-dir", str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith("crossvit: ")
    assert "Traceback" not in run.stderr


def test_the_hypervolume_is_the_reports_whatever_the_cost(new_study: Any) -> None:
    named = [{"metric": "val_accuracy", "direction": "max"}, {"metric": "latency_ms", "direction": "min"}]
    study = new_study(objectives=named)
    for accuracy, macs, latency_ms in ((0.5, 100_000, 4.0), (0.7, 300_000, 2.0), (0.9, 200_000, 3.0)):
        study.add(accuracy, macs, latency_ms=latency_ms)
    volumes, _ = progress(load_frame(study.path), "latency_ms")
    assert read_status(study.path).hypervolume == pytest.approx(volumes[-1])
    assert volumes[-1] > 0
