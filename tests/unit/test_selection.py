"""Choosing: limits, preferences and finalists on hand-written studies; the statistics against a truth that is known."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from results.frame import front, load_frame
from results.picks import pick_members
from results.records import Asked, Finished
from results.repeats import describe_stranger, retrain_dir
from results.selection import (
    PreferenceError,
    describe_judgement,
    draw_accuracies,
    judge,
    pooled_dispersion,
    preference_weights,
    utility,
)
from results.store import StoreError, StudyStore
from results.test_ledger import add_score, open_look
from search.final_test import look_at_test
from search.finalists import SelectionError, Wish
from search.selection import Selection, select
from search.selection_report import next_command, selection_rows, write_selection
from space import Limit

Studies = Callable[..., "object"]


def add_fresh(study_dir: Path, accuracies: dict[int, list[float]]) -> None:
    """A retraining of these trials, written by hand: their accuracies on fresh seeds. Repeated, it is gone on with."""
    asked = {e.trial: e for e in StudyStore.open_readonly(study_dir).events() if isinstance(e, Asked)}
    keys = [asked[trial].arch_key for trial in accuracies]
    with open_retraining(study_dir, keys) as store:
        run = sum(isinstance(event, Asked) for event in store.events())
        for trial, scores in accuracies.items():
            about = {"arch_key": asked[trial].arch_key, "arch": asked[trial].arch}
            for score in scores:
                store.append(Asked(trial=run, seed=900 + run, source=f"trial:{trial}", **about))
                ok = math.isfinite(score)
                metrics = {"val_accuracy": score} if ok else {}
                store.append(
                    Finished(
                        trial=run,
                        status="ok" if ok else "failed",
                        seed=900 + run,
                        seconds=1.0,
                        device="cpu",
                        metrics=metrics,
                        error="" if ok else f"DivergedError: run {run}",
                        **about,
                    )
                )
                run += 1


def open_retraining(study_dir: Path, keys: list[str]) -> StudyStore:
    path = retrain_dir(study_dir)
    if not StudyStore.exists(path):
        return StudyStore.create(path, {"retrain_of": study_dir.name, "finalists": keys})
    store = StudyStore.open(path)
    store.write_json("study.json", {**store.study, "finalists": [*store.study["finalists"], *keys]})
    return store


def trials_of(selection: Selection) -> list[int]:
    return [finalist.trial for finalist in selection.finalists]


# Limits, preferences, finalists


def test_finalists_are_those_that_noise_may_hide_and_stopped_trials_are_none(typical_study) -> None:  # type: ignore[no-untyped-def]
    selection = select(typical_study.path, Wish())
    # 0.95 of 200 images: 0.90 could be as good, 0.80 could not; ties go to the cheaper.
    assert trials_of(selection) == [3, 4, 2]
    assert selection.suggested is None
    assert "train them again on fresh seeds" in selection.verdict
    assert next_command(selection) == "make retrain STUDY=s TRIALS=3,4,2 SEEDS=3"
    assert any("1 trial of the search without an outcome yet" in note for note in selection.notes)


def test_a_limit_on_latency_is_seen_to_be_kept(new_study: Any) -> None:
    study = new_study()
    for accuracy, latency_ms in ((0.9, 2.5), (0.8, 1.25), (0.95, 4.0)):
        study.add(accuracy, 1_000, latency_ms=latency_ms)
    for limits, shown in (((Limit("latency_ms", maximum=3.0),), [1.25, 2.5]), ((), [])):
        rows = selection_rows(select(study.path, Wish(limits=limits)), None)
        assert sorted(row.latency_ms for row in rows if math.isfinite(row.latency_ms)) == shown


def test_a_trial_that_is_named_keeps_to_the_limits_too(typical_study) -> None:  # type: ignore[no-untyped-def]
    tight = (Limit("macs", maximum=1_000),)
    with pytest.raises(
        SelectionError, match=r"trial \d of study 's' is not within macs at most 1 k: it has .*leave one"
    ):
        select(typical_study.path, Wish(limits=tight, trials=(3, 2)))
    with pytest.raises(SelectionError, match="has no latency_ms on record"):
        select(typical_study.path, Wish(limits=(Limit("latency_ms", maximum=5.0),), trials=(3,)))
    wide = (Limit("macs", maximum=1_000_000_000),)
    assert trials_of(select(typical_study.path, Wish(limits=wide, trials=(3, 2)))) == [2, 3]


def test_a_retraining_is_no_study_to_choose_in(typical_study) -> None:  # type: ignore[no-untyped-def]
    """Its own choice would open the test split a second time."""
    open_retraining(typical_study.path, ["a"]).close()
    with pytest.raises(SelectionError, match="'s-retrain' is the retraining of 's': choose, retrain and test there"):
        select(retrain_dir(typical_study.path), Wish())


def test_there_are_at_least_three_and_at_most_as_many_as_asked(new_study) -> None:  # type: ignore[no-untyped-def]
    study = new_study()
    for index, accuracy in enumerate((0.99, 0.60, 0.50, 0.40)):
        study.add(accuracy, 1000 * (index + 1))
    assert trials_of(select(study.path, Wish())) == [0, 1, 2]
    study = new_study("close")
    for index in range(9):
        study.add(0.90, 1000 * (9 - index))
    selection = select(study.path, Wish(max_finalists=4))
    assert trials_of(selection) == [8, 7, 6, 5]
    assert "5 more could be the best" in selection.notes[0]


def test_whoever_may_be_the_best_is_a_finalist_before_those_who_cannot(new_study) -> None:  # type: ignore[no-untyped-def]
    # Trials 1 to 4 are behind by more than luck, of which 99.9 % leave little. Trials 5 to 8 rank below them, and may
    # be better than trial 0 for all that 269 images can tell.
    study = new_study(data={"name": "digits", "splits": {"val": 269}})
    for accuracy, lost in [(0.5, 0.0), *[(0.999, 0.060)] * 4, *[(0.5, 0.065)] * 4]:
        study.add(accuracy, 1e5 * 10 ** ((accuracy - 0.5 + lost) / 0.2))
    wish = Wish(prefer="weighted:accuracy=1,macs=0.2")
    assert sorted(trials_of(select(study.path, wish))) == [0, 5, 6, 7, 8]
    assert select(study.path, wish).notes == ()


def test_limits_come_first(typical_study) -> None:  # type: ignore[no-untyped-def]
    wish = Wish(limits=(Limit("macs", maximum=150_000),))
    assert trials_of(select(typical_study.path, wish)) == [0, 1]
    assert select(typical_study.path, wish).members == 2


def test_without_a_member_the_limit_that_binds_and_the_nearest_are_named(typical_study) -> None:  # type: ignore[no-untyped-def]
    small, fast = Limit("macs", maximum=90_000), Limit("throughput_ips", minimum=9200)
    with pytest.raises(SelectionError, match=r"has macs at most 90 k; the nearest is trial 0 with 100 k \(80\.0 %"):
        select(typical_study.path, Wish(limits=(small,)))
    # Trial 1 is fast enough and 33 % too big; nobody is small enough: macs binds, and of the fast ones 1 is nearest.
    with pytest.raises(SelectionError, match=r"macs at most 90 k of those within the other limits; .* trial 1 with"):
        select(typical_study.path, Wish(limits=(small, fast)))
    both = (Limit("macs", maximum=10), Limit("throughput_ips", minimum=1e9))
    with pytest.raises(SelectionError, match=r"the nearest is trial \d"):
        select(typical_study.path, Wish(limits=both))
    with pytest.raises(SelectionError, match="has no latency_ms on record"):
        select(typical_study.path, Wish(limits=(Limit("latency_ms", maximum=5.0),)))


def test_a_limit_and_a_cost_beyond_it_that_agree_in_three_figures_are_written_in_full(new_study) -> None:  # type: ignore[no-untyped-def]
    study = new_study()
    study.add(0.9, 91_424)
    limits = (Limit("macs", maximum=91_400),)
    with pytest.raises(SelectionError, match=r"macs at most 91,400; the nearest is trial 0 with 91,424 \(90"):
        select(study.path, Wish(limits=limits))
    with pytest.raises(SelectionError, match=r"is not within macs at most 91,400: it has 91,424; leave one out"):
        select(study.path, Wish(limits=limits, trials=(0,)))


def test_studies_without_a_choice_say_why_in_one_sentence(new_study, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SelectionError, match="nothing to choose from: it has no trials yet"):
        select(new_study("empty").path, Wish())
    failed = new_study("failed")
    failed.add(status="failed", error="DivergedError: no number")
    failed.add(math.nan, 1000)
    with pytest.raises(SelectionError, match=r"none of its 2 trials .*\(.*1 failed.*\); .* said: DivergedError"):
        select(failed.path, Wish())
    old = new_study("old", data={"name": "digits"})
    old.add(0.5, 1000)
    with pytest.raises(SelectionError, match="how many validation images"):
        select(old.path, Wish())
    with pytest.raises(StoreError, match="no study 'none'"):
        select(tmp_path / "none", Wish())
    older = tmp_path / "older"
    older.mkdir()
    (older / "study.json").write_text('{"format": 0}')
    with pytest.raises(StoreError, match="has format 0"):
        select(older, Wish())


def test_one_trial_is_a_choice(new_study) -> None:  # type: ignore[no-untyped-def]
    study = new_study()
    study.add(0.9, 1000)
    assert trials_of(select(study.path, Wish())) == [0]
    add_fresh(study.path, {0: [0.88, 0.90]})
    selection = select(study.path, Wish())
    assert selection.verdict == "trial 0 is the only candidate"
    assert selection.judgement is not None and np.isnan(selection.judgement.p_best).all()
    assert next_command(selection) == "make export STUDY=s TRIAL=0"


def test_one_trial_of_one_seed_has_no_interval(new_study) -> None:  # type: ignore[no-untyped-def]
    study = new_study()
    study.add(0.9, 1000)
    add_fresh(study.path, {0: [0.88]})
    selection = select(study.path, Wish())
    assert selection.verdict == "trial 0 is the only candidate; one seed, so no interval"
    assert selection_rows(selection, None)[0].again.texts() == ("88.0 %", "-")


def test_an_architecture_that_was_tried_twice_is_one_candidate(new_study) -> None:  # type: ignore[no-untyped-def]
    study = new_study()
    for accuracy in (0.80, 0.95):
        study.add(accuracy, 1000, key="same")
    study.add(0.90, 2000)
    assert trials_of(select(study.path, Wish())) == [2, 0]
    assert trials_of(select(study.path, Wish(trials=(0, 1, 2)))) == [0, 2]


def test_trials_can_be_named_stopped_ones_too_but_no_failed_one(typical_study) -> None:  # type: ignore[no-untyped-def]
    selection = select(typical_study.path, Wish(trials=(5, 1)))
    assert trials_of(selection) == [1, 5]
    assert math.isnan(selection.finalists[1].search_accuracy)  # 0.99 at a rung is no result
    with pytest.raises(SelectionError, match=r"trial 7 of study 's' is failed \(DivergedError"):
        select(typical_study.path, Wish(trials=(7,)))
    with pytest.raises(SelectionError, match="no trial 42; it has trials 0 to 9"):
        select(typical_study.path, Wish(trials=(42,)))


def test_the_knee_is_that_of_the_report_and_weights_count_in_factors_of_ten(typical_study) -> None:  # type: ignore[no-untyped-def]
    members = front(load_frame(typical_study.path))
    weights = preference_weights("knee", members)
    knee = next(pick.trial for pick in pick_members(members) if pick.wish == "Knee")
    assert members["trial"].iloc[int(np.argmax(utility(members, weights)))] == knee
    weights = preference_weights("weighted:accuracy=1,macs=0.2", members)
    scores = dict(zip(members["trial"], utility(members, weights)))
    assert scores[2] - scores[0] == pytest.approx(0.1 - 0.2 * math.log10(2))
    assert trials_of(select(typical_study.path, Wish(prefer="weighted:accuracy=1,macs=0.5")))[0] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kneee", "unknown preference 'kneee'; use accuracy, knee or weighted"),
        ("weighted:", "unknown preference"),
        ("weighted:accuracy=1,mac=2", "no front over the cost 'mac'; known: activations"),
        ("weighted:accuracy=x", "could not convert"),
        ("weighted:macs=-1", "at least 0, got -1"),
        ("weighted:accuracy=0,macs=1", "without any weight on accuracy"),
    ],
)
def test_preferences_that_make_no_sense_are_refused(typical_study, text: str, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PreferenceError, match=message):
        preference_weights(text, load_frame(typical_study.path))
    with pytest.raises(SelectionError, match=message):
        select(typical_study.path, Wish(prefer=text))


def test_a_front_of_two_has_no_knee(new_study) -> None:  # type: ignore[no-untyped-def]
    study = new_study()
    study.add(0.5, 1000)
    study.add(0.9, 2000)
    with pytest.raises(SelectionError, match="a front of 2 has no knee"):
        select(study.path, Wish(prefer="knee"))


# Fresh seeds


def test_fresh_seeds_decide_and_the_files_say_so(typical_study) -> None:  # type: ignore[no-untyped-def]
    add_fresh(typical_study.path, {3: [0.70, 0.71, 0.70], 2: [0.93, 0.94, 0.93], 4: [0.6, math.nan, 0.6], 5: []})
    selection = select(typical_study.path, Wish())
    assert trials_of(selection) == [2, 3, 4, 5]
    assert selection.verdict.startswith("trial 2 is the best with a probability of")
    assert selection.suggested is not None
    assert selection.suggested.trial == 2
    assert any(note.endswith("not judged: trial 5") for note in selection.notes)
    assert any("1 fresh run came to nothing" in note for note in selection.notes)
    write_selection(typical_study.path, selection, None)
    data = json.loads((typical_study.path / "selection.json").read_text())
    following = f"make export STUDY=s TRIAL=2 RUNS_DIR={typical_study.path.parent}"
    assert (data["suggested"], data["next"], data["test"]) == (2, following, None)
    first = data["finalists"][0]
    assert first["low"] < first["mean"] < first["high"]
    text = (typical_study.path / "selection.md").read_text()
    [suggested] = [line for line in text.splitlines() if line.startswith("| ->")]
    assert [cell.strip() for cell in suggested.split("|")][1:5] == ["->", "2", "90.0 %", "93.3 %"]
    assert f"Next: `{following}`" in text
    write_selection(typical_study.path, select(typical_study.path, Wish(limits=(Limit("macs", None, 1e6),))), None)
    assert "Choice of study s (macs at most 1 M)" in (typical_study.path / "selection.md").read_text()
    assert [row.num_seeds for row in selection_rows(selection, None)] == [3, 3, 2, 0]


def test_a_finalist_that_failed_on_all_its_seeds_is_said_to_have_failed_and_gets_a_new_one(new_study) -> None:  # type: ignore[no-untyped-def]
    study = new_study()
    for index, accuracy in enumerate((0.90, 0.91, 0.92, 0.93)):
        study.add(accuracy, 1000 + index)
    add_fresh(study.path, {0: [0.88, 0.89], 1: [0.89, 0.90], 2: [math.nan, math.nan]})
    told = "trial 2 was trained again 2 times and came to nothing (last error: DivergedError: run 5)"
    selection = select(study.path, Wish(trials=(0, 1, 2)))
    assert selection.notes == (f"{told}, so not judged: SEEDS=3 trains it on another seed, TRIALS=0,1 leaves it out",)
    assert next_command(selection) == "make retrain STUDY=s TRIALS=0,1,2 SEEDS=3"
    with pytest.raises(SelectionError) as refused:
        look_at_test(study.path, selection)
    assert str(refused.value) == (
        "the test split stays closed until every finalist was trained again; "
        f"{told} (make retrain STUDY=s TRIALS=0,1,2 SEEDS=3 RUNS_DIR={study.path.parent}; TRIALS=0,1 leaves it out)"
    )

    # Together with one that nobody asked for yet; and once it is left out, nothing is to do.
    selection = select(study.path, Wish())
    assert selection.notes[0] == "not trained again yet, so not judged: trial 3"
    assert selection.notes[1].startswith(told)
    both = r"; still to do: trial 3; trial 2 was .* \(make .*; TRIALS=0,1 leaves them out"
    with pytest.raises(SelectionError, match=both):
        look_at_test(study.path, selection)
    assert next_command(select(study.path, Wish(trials=(0, 1)))).startswith("make export")

    # One of its seeds at last came to something; those that did not are counted.
    add_fresh(study.path, {2: [0.9]})
    assert select(study.path, Wish(trials=(0, 1, 2))).notes == ("2 fresh runs came to nothing and are left out",)


def test_when_all_finalists_failed_nobody_can_be_left_out(new_study) -> None:  # type: ignore[no-untyped-def]
    study = new_study()
    study.add(0.90, 1000)
    add_fresh(study.path, {0: [math.nan]})
    selection = select(study.path, Wish())
    assert selection.notes == (
        "trial 0 was trained again 1 time and came to nothing (last error: DivergedError: run 0), so not judged: "
        "SEEDS=2 trains it on another seed",
    )
    assert next_command(selection) == "make retrain STUDY=s TRIALS=0 SEEDS=2"


def test_limits_hold_for_the_retrained_as_well(typical_study) -> None:  # type: ignore[no-untyped-def]
    add_fresh(typical_study.path, {3: [0.9, 0.9], 2: [0.8, 0.8]})
    selection = select(typical_study.path, Wish(limits=(Limit("macs", maximum=500_000),)))
    assert trials_of(selection) == [2]
    assert any("only 1 of the 3 trials" in note for note in selection.notes)


def test_what_a_search_finds_after_a_retraining_is_to_be_trained_again_as_well(new_study) -> None:  # type: ignore[no-untyped-def]
    study = new_study()
    for index, accuracy in enumerate((0.90, 0.91, 0.92, 0.70, 0.60)):
        study.add(accuracy, 1000 + index)
    add_fresh(study.path, {0: [0.88, 0.89], 1: [0.89, 0.90], 2: [0.90, 0.91]})
    for index, accuracy in enumerate((0.985, 0.65, 0.990, 0.980)):
        study.add(accuracy, 2000 + index)
    selection = select(study.path, Wish())
    assert trials_of(selection) == [0, 1, 2, 7, 5, 8]
    assert selection.notes == ("not trained again yet, so not judged: trial 7, 5, 8",)
    assert next_command(selection) == "make retrain STUDY=s TRIALS=0,1,2,7,5,8 SEEDS=2"
    with pytest.raises(SelectionError, match=r"still to do: trial 7, 5, 8 \(make retrain .*; TRIALS=0,1,2 leaves"):
        look_at_test(study.path, selection)

    add_fresh(study.path, {7: [0.97, 0.97], 5: [0.98, 0.98], 8: [0.96, 0.96]})
    selection = select(study.path, Wish())
    assert trials_of(selection) == [0, 1, 2, 5, 7, 8]
    assert selection.notes == ()
    assert selection.suggested is not None
    assert selection.suggested.trial in (5, 7, 8)
    assert next_command(selection) == f"make export STUDY=s TRIAL={selection.suggested.trial}"


def test_what_was_seen_of_the_test_split_is_shown_again_when_the_search_has_gone_on(new_study) -> None:  # type: ignore[no-untyped-def]
    study = new_study()
    study.add(0.90, 1000)
    add_fresh(study.path, {0: [0.88, 0.89]})
    seen = open_look(study.path, select(study.path, Wish()).tested_runs, "ab", 200)
    for run in seen.runs:
        add_score(study.path, run.run, 0.87)
    study.add(0.99, 2000)
    selection = select(study.path, Wish())
    assert trials_of(selection) == [0, 1]
    assert look_at_test(study.path, selection).accuracies == {0: 0.87, 1: 0.87}


def test_no_more_than_the_finalists_asked_for_join_those_that_were_trained_again(new_study) -> None:  # type: ignore[no-untyped-def]
    study = new_study()
    for index in range(3):
        study.add(0.90, 1000 + index)
    add_fresh(study.path, {0: [0.88, 0.89], 1: [0.89, 0.90], 2: [0.90, 0.91]})
    for index in range(7):
        study.add(0.99, 2000 + index)
    selection = select(study.path, Wish(max_finalists=4))
    assert trials_of(selection) == [0, 1, 2, 3, 4, 5, 6]
    assert "3 more could be the best for all that 200 validation images can tell (FINALISTS=7" in selection.notes[0]


@pytest.mark.parametrize("prefer", ["accuracy", "knee", "weighted:accuracy=1,macs=0.1"])
@pytest.mark.parametrize("limits", [(), (Limit("macs", maximum=1900),)])
def test_a_search_that_did_not_go_on_names_nobody_new_whatever_fresh_seeds_say(
    new_study, prefer: str, limits: tuple[Limit, ...]
) -> None:  # type: ignore[no-untyped-def]
    # Many more than four could be the best, and the four turn out to be worse than all others were in the search.
    study = new_study()
    for index in range(12):
        study.add(0.80 + 0.01 * (index % 5), 1000 + 100 * index)
    wish = Wish(limits=limits, prefer=prefer, max_finalists=4)
    before = select(study.path, wish)
    assert len(before.finalists) == 4
    assert any("more could be the best" in note for note in before.notes)
    add_fresh(study.path, {trial: [0.5, 0.51, 0.52] for trial in trials_of(before)})
    selection = select(study.path, wish)
    assert sorted(trials_of(selection)) == sorted(trials_of(before))
    assert selection.judged == selection.finalists
    assert selection.notes == ()


def test_a_trial_that_ended_well_is_the_finalist_and_not_an_earlier_one_of_its_architecture_that_was_stopped(
    new_study,
) -> None:  # type: ignore[no-untyped-def]
    study = new_study()
    study.add(None, 1000, key="twice", status="stopped", rung=0.5)
    study.add(0.90, 1000, key="twice")
    assert trials_of(select(study.path, Wish())) == [1]
    add_fresh(study.path, {1: [0.88, 0.89]})
    selection = select(study.path, Wish())
    assert [(finalist.trial, finalist.search_accuracy) for finalist in selection.finalists] == [(1, 0.90)]


def test_a_search_that_bears_the_name_of_the_retraining_decides_nothing(new_study) -> None:  # type: ignore[no-untyped-def]
    study, search = new_study(), new_study("s-retrain")
    for index, accuracy in enumerate((0.90, 0.92, 0.95)):
        study.add(accuracy, 1000 + index, key=f"key{index}")
        search.add(1 - accuracy, 1000 + index, key=f"key{index}")
    search.ask()
    selection = select(study.path, Wish())
    assert selection.judged == ()
    assert selection.unfinished is None
    assert selection.notes == (describe_stranger(study.path),)


def test_a_study_that_was_renamed_with_its_retraining_keeps_its_fresh_seeds(new_study, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    study = new_study()
    study.add(0.90, 1000)
    add_fresh(study.path, {0: [0.88, 0.89]})
    for name in ("s", "s-retrain"):
        (tmp_path / name).rename(tmp_path / name.replace("s", "t", 1))
    selection = select(tmp_path / "t", Wish())
    assert [run.accuracy for run in selection.judged[0].fresh] == [0.88, 0.89]
    assert selection.notes == ()


def test_other_limits_after_a_retraining_name_whoever_could_be_the_best_within_them(new_study) -> None:  # type: ignore[no-untyped-def]
    study = new_study()
    for accuracy, macs in ((0.90, 1000), (0.99, 5000), (0.985, 6000), (0.98, 7000), (0.96, 1500), (0.95, 1600)):
        study.add(accuracy, macs)
    add_fresh(study.path, {trial: [0.9, 0.91] for trial in (0, 1, 2, 3)})
    small = Wish(limits=(Limit("macs", maximum=2000),))
    selection = select(study.path, small)
    assert trials_of(selection) == [0, 4, 5]
    assert selection.notes == ("not trained again yet, so not judged: trial 4, 5",)
    assert trials_of(select(study.path, Wish(trials=(0, 1)))) == [0, 1]
    assert select(study.path, Wish(trials=(0, 1))).notes == ()


def test_too_close_to_call_takes_the_cheapest_of_the_indistinguishable() -> None:
    judgement = judge([[0.90, 0.91], [0.905, 0.905], [0.5, 0.5]], 300, costs=[9.0, 5.0, 1.0])
    assert not judgement.is_clear
    assert set(judgement.contenders) == {0, 1}
    assert judgement.suggested == 1
    sentence = describe_judgement(judgement, ["trial 7", "trial 8", "trial 9"])
    assert sentence.startswith("too close to call: trial 8 leads")
    assert "trial 8 is the cheapest of the indistinguishable (trial 8, trial 7)" in sentence
    assert judgement.p_best.sum() == pytest.approx(1)


@pytest.mark.parametrize(("p_best", "told"), [(0.9496, "94.96 %"), (0.949996, "94.9996 %"), (0.94, "94.0 %")])
def test_a_probability_under_the_bound_does_not_read_as_the_bound(p_best: float, told: str) -> None:
    judgement = judge([[0.90, 0.91], [0.905, 0.905]], 300, costs=[9.0, 5.0])
    found = dataclasses.replace(judgement, p_best=np.array([1 - p_best, p_best]), leader=1, contenders=(1, 0))
    sentence = describe_judgement(found, ["trial 7", "trial 8"])
    assert f"trial 8 leads with a probability of {told} of being the best, under 95 %;" in sentence


@pytest.mark.parametrize(
    ("of_cheaper", "words"),
    [
        ([0.986, 0.991, 0.990], "0.1 points above trial 7 in these runs"),
        ([0.983, 0.990, 0.987], "0.1 points below trial 7 in these runs"),
        ([0.985, 0.990, 0.9881], "as accurate as trial 7 in these runs"),
    ],
)
def test_how_far_the_suggestion_is_from_the_leader_is_said_with_its_side(of_cheaper: list[float], words: str) -> None:
    # The cheaper in FLOPs lags in what else was asked for, by more than what it may have ahead in accuracy.
    groups = [[0.985, 0.990, 0.988], of_cheaper]
    judgement = judge(groups, 269, costs=[2.0, 1.0], handicaps=[0.0, 0.02])
    assert (judgement.leader, judgement.suggested) == (0, 1)
    assert describe_judgement(judgement, ["trial 7", "trial 8"]).endswith(f"(trial 7, trial 8), {words}")


def test_ties_are_even_and_the_same_input_says_the_same() -> None:
    groups = [[0.9, 0.9], [0.9, 0.9]]
    judgement = judge(groups, 300, costs=[2.0, 1.0])
    assert judgement.p_best == pytest.approx([0.5, 0.5], abs=0.02)
    assert (judgement.leader, judgement.suggested) == (1, 1)
    again = judge(groups, 300, costs=[2.0, 1.0])
    assert (again.lows == judgement.lows).all()


CLOSE = [[0.944238, 0.94052, 0.936803], [0.947955, 0.944238, 0.95539], [0.959108, 0.959108, 0.966543]]


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_the_order_of_candidates_and_of_their_runs_says_nothing(order: tuple[int, ...]) -> None:
    judgement = judge(CLOSE, 269, costs=[3.0, 2.0, 1.0], handicaps=[0.0, 0.01, 0.02])
    other = judge(
        [CLOSE[index][::-1] for index in order],
        269,
        costs=[3.0 - index for index in order],
        handicaps=[0.01 * index for index in order],
    )
    for name in ("means", "lows", "highs", "p_best"):
        assert getattr(other, name).tolist() == [getattr(judgement, name)[index] for index in order], name
    assert [order[index] for index in other.contenders] == list(judgement.contenders)
    assert (order[other.leader], order[other.suggested]) == (judgement.leader, judgement.suggested)
    assert other.dispersion == judgement.dispersion


@pytest.mark.parametrize(
    ("groups", "num_images", "expected"),  # what four million draws of the same model say
    [
        (CLOSE, 269, [0.1714, 0.2655, 0.5631]),
        ([[0.90, 0.91], [0.905], [0.88]], 5000, [0.4898, 0.4606, 0.0496]),
        ([[0.92, 0.88] * 200, [0.91], [0.88]], 10**6, [0.3106, 0.5152, 0.1743]),
    ],
)
def test_the_chances_are_right_to_a_tenth_of_a_percent(
    groups: list[list[float]], num_images: int, expected: list[float]
) -> None:
    judgement = judge(groups, num_images, costs=[0.0] * len(groups))
    assert judgement.p_best == pytest.approx(expected, abs=0.0015)


def test_one_seed_each_says_that_there_is_no_interval() -> None:
    judgement = judge([[0.9], [0.8]], 300, costs=[2.0, 1.0])
    assert np.isnan(judgement.lows).all()
    assert np.isnan(judgement.p_best).all()
    assert not judgement.is_clear
    assert describe_judgement(judgement, ["a", "b"]).startswith("one seed each: no interval and no probability; a ")


def test_perfect_scores_are_not_certain_and_intervals_stay_within_all_images() -> None:
    judgement = judge([[1.0, 1.0, 1.0]], 100, costs=[1.0])
    assert judgement.highs[0] <= 1.0
    assert 0.95 < judgement.lows[0] < 0.99
    for groups in ([], [[]], [[math.nan, 1.0]]):
        with pytest.raises(ValueError, match="at least one finite accuracy"):
            judge(groups, 100, costs=[1.0] * len(groups))


def test_the_variance_is_pooled_over_the_candidates_in_proportion_to_their_room() -> None:
    # 0.02 and 0 are the variances of two seeds each; p (1 - p) is 0.25 and 0.09, and no image is few enough to matter.
    dispersion, freedom = pooled_dispersion([[0.4, 0.6], [0.9, 0.9], [0.3]], 10**9)
    assert (dispersion, freedom) == (pytest.approx(0.02 / 0.25 / 2), 2)
    assert pooled_dispersion([[0.1], [0.2]], 100) == (0.0, 0)


def test_an_unsteady_rival_does_not_make_the_steady_leader_doubtful() -> None:
    # Fifteen real runs on 269 images of digits; the test split said 89.3, 99.0, 91.0, 98.4 and 95.9 % later.
    groups = [[0.933, 0.851, 0.937], [0.989, 0.985, 0.993], [0.914, 0.978, 0.937], [0.985, 0.981, 0.981]]
    judgement = judge([*groups, [0.952, 0.944, 0.948]], 269, costs=[2.34, 1.64, 0.39, 0.49, 0.59])
    assert judgement.contenders == (1, 3, 4)
    assert judgement.suggested == 3


# Against a truth that is known

IMAGES, SEED_SD = 400, 0.01


def world(rng: np.random.Generator, truth: np.ndarray, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """What one set of validation images makes of true accuracies, and its scores on fresh seeds: (..., seeds)."""
    on_images = rng.binomial(IMAGES, truth) / IMAGES
    return on_images, on_images[..., None] + SEED_SD * rng.standard_normal((*truth.shape, seeds))


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.75, 0.95, size=(500, 4))
    _, fresh = world(rng, truth, seeds=3)
    judged = [judge(list(scores), IMAGES, costs=[0] * 4, draws=1500, seed=index) for index, scores in enumerate(fresh)]
    lows, highs = np.array([of.lows for of in judged]), np.array([of.highs for of in judged])
    coverage = float(np.mean((lows <= truth) & (truth <= highs)))
    # 2,000 intervals: the standard error is 0.5 %; three of them, and what 1,500 draws blur at the ends.
    assert coverage == pytest.approx(0.95, abs=0.02)


def unlike(rng: np.random.Generator, worlds: int) -> np.ndarray:
    return rng.uniform(0.80, 0.92, size=(worlds, 4))


def alike(rng: np.random.Generator, worlds: int) -> np.ndarray:
    """The four of a world differ by anything from nothing to twice the noise."""
    return 0.85 + rng.uniform(0, 0.035, size=(worlds, 1)) * rng.standard_normal((worlds, 4))


@pytest.mark.parametrize("make_truth", [unlike, alike])
def test_the_chance_of_being_the_best_comes_true_as_often_as_it_says(
    make_truth: Callable[[np.random.Generator, int], np.ndarray],
) -> None:
    rng = np.random.default_rng(1)
    truth = make_truth(rng, 800)
    _, fresh = world(rng, truth, seeds=3)
    judged = [judge(list(scores), IMAGES, costs=[0] * 4, draws=1000, seed=index) for index, scores in enumerate(fresh)]
    said = np.array([of.p_best for of in judged]).ravel()
    came_true = (truth == truth.max(axis=1, keepdims=True)).ravel()
    for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 1.01)):
        there = (said >= low) & (said < high)
        assert there.sum() > 50
        error = 3 * math.sqrt(0.25 / there.sum())
        assert came_true[there].mean() == pytest.approx(said[there].mean(), abs=error), (low, high)


def test_fresh_seeds_regret_less_than_the_argmax_of_the_search_and_flatter_less() -> None:
    rng = np.random.default_rng(2)
    worlds, candidates = 400, 30
    truth = rng.normal(0.85, 0.01, size=(worlds, candidates))
    on_images, searched = world(rng, truth, seeds=1)
    searched = searched[..., 0]
    best, rows = truth.max(axis=1), np.arange(worlds)
    finalists = np.argsort(-searched, axis=1)[:, :5]
    fresh = np.take_along_axis(on_images, finalists, 1)[..., None] + SEED_SD * rng.standard_normal((worlds, 5, 3))
    judged = [judge(list(scores), IMAGES, costs=[0] * 5, draws=500, seed=index) for index, scores in enumerate(fresh)]
    leaders = np.array([finalists[row, of.leader] for row, of in zip(rows, judged)])
    naive = searched.argmax(axis=1)
    regret, naive_regret = best - truth[rows, leaders], best - truth[rows, naive]
    assert regret.mean() <= naive_regret.mean()
    said = np.array([of.means[of.leader] for of in judged])
    flattery = (said - on_images[rows, leaders]).mean()
    naive_flattery = (searched[rows, naive] - on_images[rows, naive]).mean()
    assert abs(flattery) < naive_flattery / 2


def test_draws_have_the_spread_that_they_should() -> None:
    groups = [list(0.8 + 0.02 * np.random.default_rng(3).standard_normal(60))]
    drawn = draw_accuracies(groups, 500, draws=20_000)
    expected = math.sqrt(0.02**2 / 60 + 0.8 * 0.2 / 500)
    assert drawn.std() == pytest.approx(expected, rel=0.05)
