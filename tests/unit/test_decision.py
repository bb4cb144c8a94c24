"""A report after the finalists were trained again: what fresh seeds, the choice and the test split say comes first."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from results.findings import load_findings
from results.report import write_report
from results.test_ledger import TestedRun, add_score, open_look
from search.finalists import Wish
from search.selection import select
from search.selection_report import write_selection
from space import Limit

FRESH = {"key00003": (0.90, 0.92, 0.91), "key00002": (0.70, 0.71, 0.72)}


@pytest.fixture
def retrained(typical_study: Any, new_study: Any) -> Any:
    """The typical study with its trials 3 and 2 trained again on three fresh seeds each."""
    retraining = new_study("s-retrain", retrain_of="s", trials=6)
    for key, accuracies in FRESH.items():
        for accuracy in accuracies:
            retraining.add(accuracy, 1000, key=key, source="retrain")
    return typical_study


def keep_choice(study_dir: Path, **changes: Any) -> None:
    """What ``select`` left of a choice among both finalists by accuracy less FLOPs."""
    finalists = [
        {"arch_key": "key00003", "handicap": 0.5, "runs": _runs(0, FRESH["key00003"])},
        {"arch_key": "key00002", "handicap": 0.1, "runs": _runs(3, FRESH["key00002"])},
    ]
    wish = {"limits": [], "prefer": "weighted:accuracy=1,macs=0.2", "trials": []}
    data = {"weights": {"val_accuracy": 1.0, "macs": 0.2}, "finalists": finalists, "wish": wish, **changes}
    (study_dir / "selection.json").write_text(json.dumps(data), encoding="utf-8")


def _runs(first: int, accuracies: tuple[float, ...]) -> list[dict[str, Any]]:
    return [{"run": run, "status": "ok", "accuracy": value} for run, value in enumerate(accuracies, start=first)]


def report_of(study_dir: Path) -> str:
    """The words of the report, without markup."""
    page = write_report(study_dir).read_text(encoding="utf-8").partition("<body>")[2]
    return " ".join(html.unescape(re.sub(r"<script.*?</script>|<[^>]+>", " ", page, flags=re.DOTALL)).split())


def test_without_a_retraining_there_is_no_decision(typical_study: Any) -> None:
    assert load_findings(typical_study.path).decision is None
    text = report_of(typical_study.path)
    assert "Retrain the finalists over several seeds before deciding." in text
    assert "Time the front on its own (make bench)" in text


def test_a_retraining_without_an_outcome_decides_nothing(typical_study: Any, new_study: Any) -> None:
    new_study("s-retrain", retrain_of="s").add(status="failed", key="key00003", error="no memory")
    assert load_findings(typical_study.path).decision is None


def test_a_study_that_only_has_the_name_of_the_retraining_decides_nothing(typical_study: Any, new_study: Any) -> None:
    new_study("s-retrain").add(0.9, 1000, key="key00003")
    assert load_findings(typical_study.path).decision is None


def test_the_report_leads_with_what_fresh_seeds_say(retrained: Any) -> None:
    text = report_of(retrained.path)
    lead = text[: text.index("What was found")]
    assert "The best reaches" not in lead
    assert "2 finalists were trained again" in lead
    assert "91.0 % validation accuracy" in lead and "3 fresh seeds, 95 % interval 86.2-94.6 %" in lead
    assert "trial 3" in lead
    # The search's own number is told as such, not as a result.
    assert "The search itself saw up to 95.0 %" in lead


def test_the_cards_are_of_the_finalists_and_those_of_the_search_are_folded(retrained: Any) -> None:
    text = report_of(retrained.path)
    cards = text[text.index("Which to take") : text.index("Trained again")]
    assert cards.index("91.0 %") < cards.index("71.0 %") < cards.index("By the search's own numbers")
    assert cards.index("By the search's own numbers") < cards.index("95.0 %")


def test_the_choice_that_select_kept_is_the_one_that_is_told(retrained: Any) -> None:
    keep_choice(retrained.path)
    decision = load_findings(retrained.path).decision
    assert decision is not None and decision.is_kept
    # Less what its FLOPs take off, trial 2 is ahead.
    assert decision.suggested.trial == 2
    text = report_of(retrained.path)
    assert "by the preference weighted:accuracy=1,macs=0.2" in text
    assert text.index("71.0 % validation accuracy") < text.index("What was found")


def test_the_report_and_the_choice_say_the_same_in_whatever_order_the_finalists_were_trained_again(
    new_study: Any,
) -> None:
    study = new_study(data={"name": "digits", "splits": {"val": 269}})
    for trial in range(3):
        study.add(0.95, 3000 - 1000 * trial, key=f"key{trial}")
    retraining = new_study("s-retrain", retrain_of="s", finalists=["key2", "key1", "key0"], trials=9)
    fresh = ((0.944238, 0.94052, 0.936803), (0.947955, 0.944238, 0.95539), (0.959108, 0.959108, 0.966543))
    for trial in (2, 1, 0):
        for accuracy in fresh[trial]:
            retraining.add(accuracy, 1000, key=f"key{trial}", source="retrain")
    selection = select(study.path, Wish())
    decision = load_findings(study.path).decision
    assert decision is not None and decision.verdict == selection.verdict
    assert selection.judgement is not None
    told = {candidate.trial: (*candidate.again, candidate.p_best) for candidate in decision.candidates}
    of = selection.judgement
    assert told == dict(enumerate(zip(of.means, of.lows, of.highs, of.p_best)))


@pytest.fixture
def six_retrained(new_study: Any) -> Any:
    """Six trials, of 100 k FLOPs to 600 k, and what two fresh seeds each say: 93 % of the first, 95 % of the last."""
    study = new_study()
    retraining = new_study("s-retrain", retrain_of="s", trials=12)
    for trial, accuracy in enumerate((0.93, 0.90, 0.91, 0.92, 0.94, 0.95)):
        study.add(accuracy, 100_000 * (trial + 1), key=f"key{trial}")
        for side in (-0.001, 0.001):
            retraining.add(accuracy + side, 1000, key=f"key{trial}", source="retrain")
    return study


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"limits": (Limit("macs", maximum=200_000),)}, "again, 2 of them within macs at most 200 k."),
        ({"limits": (Limit("macs", maximum=100_000),)}, "again, 1 of them within macs at most 100 k."),
        ({"limits": (Limit("macs", maximum=600_000),)}, "again, all of them within macs at most 600 k."),
        ({"trials": (0, 1)}, "again, 2 of them named for the choice (trial 0, 1)."),
        (
            {"trials": (0, 1), "limits": (Limit("macs", maximum=200_000),)},
            "again, 2 of them named for the choice (trial 0, 1), within macs at most 200 k.",
        ),
        ({"trials": (0, 1, 2, 3, 4, 5)}, "again."),
        ({}, "again."),
    ],
)
def test_a_choice_among_some_of_the_finalists_says_among_which(
    six_retrained: Any, asked: dict[str, Any], told: str
) -> None:
    write_selection(six_retrained.path, select(six_retrained.path, Wish(**asked)), None)
    text = report_of(six_retrained.path)
    lead = text[: text.index("What was found")]
    assert f"6 finalists were trained {told} Chosen by accuracy is trial " in lead
    # The table and the average are of all of them, whoever was chosen from.
    assert "on fresh seeds 6 finalists came to the same on average as in the search." in text


def test_a_kept_choice_that_has_no_words_for_its_limits_says_that_there_were_some(six_retrained: Any) -> None:
    write_selection(six_retrained.path, select(six_retrained.path, Wish(limits=(Limit("macs", maximum=2e5),))), None)
    path = six_retrained.path / "selection.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    del data["wish"]["within"]
    path.write_text(json.dumps(data), encoding="utf-8")
    assert "6 finalists were trained again, 2 of them within the limits asked for." in report_of(six_retrained.path)


def test_a_finalist_is_the_trial_of_its_architecture_that_ended_well(new_study: Any) -> None:
    study, retraining = new_study(), new_study("s-retrain", retrain_of="s")
    study.add(None, 1000, key="twice", status="stopped", rung=0.5)
    study.add(0.90, 1000, key="twice")
    retraining.add(0.89, 1000, key="twice")
    decision = load_findings(study.path).decision
    assert decision is not None and decision.suggested.trial == 1


@pytest.mark.parametrize("broken", [{"finalists": "none"}, {"finalists": []}, {"weights": None}])
def test_a_choice_that_cannot_be_read_is_left_out(retrained: Any, broken: dict[str, Any]) -> None:
    keep_choice(retrained.path, **broken)
    decision = load_findings(retrained.path).decision
    assert decision is not None and not decision.is_kept and decision.suggested.trial == 3


def test_a_choice_from_before_more_seeds_is_not_told_as_the_choice(retrained: Any) -> None:
    keep_choice(retrained.path, finalists=[{"arch_key": "key00002", "handicap": 0.0, "runs": _runs(3, (0.70,))}])
    decision = load_findings(retrained.path).decision
    assert decision is not None and not decision.is_kept
    assert [candidate.trial for candidate in decision.candidates] == [3, 2]


def test_advice_that_was_followed_is_not_given_again(retrained: Any) -> None:
    content = {"device": {}, "timings": [{"trial": trial, "ips": 10.0, "iqr": 1.0} for trial in (0, 2, 3)]}
    (retrained.path / "bench.json").write_text(json.dumps(content), encoding="utf-8")
    text = report_of(retrained.path)
    assert "Retrain the finalists" not in text
    assert "Time the front on its own" not in text
    assert "10 ±5.0%" in text[text.index("Read with care") :]


@pytest.mark.parametrize(
    ("flags", "advice"),
    [
        (((), (), ()), "Quote those."),
        (((), ("contended", "drift"), ()), "1 of 3 carry a sign of trouble"),
        ((("spread",),) * 3, "All of them carry a sign of trouble"),
    ],
)
def test_timings_with_a_sign_of_trouble_are_not_to_be_quoted(retrained: Any, flags: Any, advice: str) -> None:
    rows = [{"trial": t, "ips": 10.0, "iqr": 1.0, "flags": list(each)} for t, each in zip((0, 2, 3), flags)]
    (retrained.path / "bench.json").write_text(json.dumps({"device": {}, "timings": rows}), encoding="utf-8")
    text = report_of(retrained.path)
    assert advice in text
    assert ("Quote those." in text) is not any(flags)
    assert all(f"({', '.join(each)})" in text for each in flags if each)


def test_a_front_that_was_timed_in_part_is_still_to_be_timed(typical_study: Any) -> None:
    content = {"device": {}, "timings": [{"trial": 0, "ips": 10.0, "iqr": 1.0}]}
    (typical_study.path / "bench.json").write_text(json.dumps(content), encoding="utf-8")
    assert "Time the front on its own" in report_of(typical_study.path)


def test_one_fresh_seed_has_no_interval_and_asks_for_more(typical_study: Any, new_study: Any) -> None:
    new_study("s-retrain", retrain_of="s").add(0.9, 1000, key="key00003")
    text = report_of(typical_study.path)
    lead = text[: text.index("What was found")]
    assert "90.0 % validation accuracy" in lead and "95 % interval" not in lead
    assert "nan" not in text
    assert "more seeds" in text[text.index("Read with care") :]


def test_test_accuracies_are_told_first_once_the_split_is_opened(retrained: Any) -> None:
    runs = [TestedRun(3, "key00003", run, run, "ab") for run in range(3)]
    open_look(retrained.path, runs, "ab", 200, clock=lambda: 0.0)
    for run, accuracy in enumerate((0.85, 0.86, 0.87)):
        add_score(retrained.path, run, accuracy, clock=lambda: 1.0)
    text = report_of(retrained.path)
    lead = text[: text.index("What was found")]
    assert "and 86.0 % (95 % interval 80.1-90.9 %) on the test split" in lead


def test_a_study_that_does_not_count_its_images_has_means_only(new_study: Any) -> None:
    study, retraining = new_study(data={"name": "digits"}), new_study("s-retrain", retrain_of="s")
    study.add(0.95, 1000, key="one")
    retraining.add(0.9, 1000, key="one")
    retraining.add(0.8, 1000, key="one")
    text = report_of(study.path)
    lead = text[: text.index("What was found")]
    assert "85.0 % validation accuracy" in lead and "95 % interval" not in lead
