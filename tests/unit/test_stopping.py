"""Early stopping: what each rule does, that a resumed study decides alike, and that the front is not killed."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import pytest
from scipy.stats import binom

from results.pareto import pareto_mask
from results.records import Finished, Rung
from search.objectives import find_objectives
from search.stopping import RULES, Hyperband, Stopping, StoppingRule, Verdict, make_rule

EPOCHS = 16
RUNGS = (2, 4, 8)
BOTH = ("val_accuracy", "macs")
ALL = (*BOTH, "throughput_ips")


def rule_of(name: str, objectives: tuple[str, ...] = BOTH, **settings: object) -> StoppingRule:
    return make_rule(Stopping(name, **settings), find_objectives(objectives), EPOCHS)  # type: ignore[arg-type]


def rung(trial: int, accuracy: float, epoch: int = 2, macs: float = 1e6, **metrics: float) -> Rung:
    known = {"val_accuracy": accuracy, "macs": macs, **metrics}
    return Rung(trial=trial, epoch=epoch, metrics=known, decision="continue")


def finished(trial: int, accuracy: float, macs: float = 1e6, status: str = "ok", **metrics: float) -> Finished:
    return Finished(
        trial=trial,
        status=status,  # type: ignore[arg-type]
        arch_key=str(trial),
        arch={},
        seed=0,
        seconds=1.0,
        device="cpu",
        metrics={"val_accuracy": accuracy, "macs": macs, **metrics},
    )


def arrive(rule: StoppingRule, event: Rung) -> str:
    """Decide and observe, as the session does."""
    verdict = rule.decide(event)
    rule.observe(dataclasses.replace(event, decision=verdict.decision))
    return verdict.decision


def train(rule: StoppingRule, trial: int, final: float, macs: float, **metrics: float) -> None:
    """A trial that is trained to its end, whatever the rule says: at the rungs it has an eighth, a quarter, a half."""
    for epoch in RUNGS:
        rule.observe(rung(trial, final * epoch / EPOCHS, epoch, macs, **metrics))
    rule.observe(finished(trial, final, macs, **metrics))


def experienced(objectives: tuple[str, ...] = BOTH, count: int = 60) -> StoppingRule:
    """Has seen trials of 0.1 to 10 M FLOPs that end at 0.5 to 0.9, the larger the better, and half as fast each."""
    rule = rule_of("optimistic", objectives)
    for trial, size in enumerate(np.random.default_rng(0).permutation(np.linspace(0, 1, count))):
        jitter = 0.08 * math.sin(37 * trial)
        train(rule, trial, 0.5 + 0.4 * size + jitter, 10 ** (5 + 2 * size), throughput_ips=10 ** (4 - size))
    return rule


# The rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_without_anything_to_compare_with_every_trial_goes_on(name: str) -> None:
    rule = rule_of(name)
    assert [rule.decide(rung(0, accuracy)).decision for accuracy in (0.0, 0.5, 1.0, math.nan)] == ["continue"] * 4


@pytest.mark.parametrize("name", RULES)
def test_a_trial_without_an_accuracy_goes_on_and_counts_for_nothing(name: str) -> None:
    """That it fails is for its training to say."""
    seen, blind = rule_of(name), rule_of(name)
    for trial, accuracy in enumerate((0.5, math.nan, 0.6, math.nan, 0.7, 0.1, 0.65)):
        if math.isnan(accuracy):
            assert arrive(seen, rung(trial, accuracy)) == "continue"
        else:
            assert arrive(seen, rung(trial, accuracy)) == arrive(blind, rung(trial, accuracy))


def test_asha_keeps_the_best_third_and_ties() -> None:
    rule = rule_of("asha")
    answers = [arrive(rule, rung(trial, accuracy)) for trial, accuracy in enumerate((0.5, 0.4, 0.5, 0.45, 0.9, 0.5))]
    assert answers == ["continue", "continue", "continue", "stop", "continue", "continue"]
    assert arrive(rule, rung(6, 0.1, epoch=4)) == "continue"  # the first at its rung
    assert arrive(rule, rung(7, 0.1, epoch=3)) == "continue"  # no rung


def test_hyperband_compares_within_brackets_and_its_last_bracket_goes_on() -> None:
    rule = rule_of("hyperband")
    assert isinstance(rule, Hyperband)
    brackets = [rule.bracket(trial) for trial in range(300)]
    shares = [brackets.count(bracket) / 300 for bracket in range(4)]
    assert shares == pytest.approx([8 / 15, 4 / 15, 2 / 15, 1 / 15], abs=0.02)
    for trial, bracket in enumerate(brackets):
        rule.observe(rung(trial, 0.9, epoch=RUNGS[0]))
        rule.observe(rung(trial, 0.9, epoch=RUNGS[2]))
        first, third = (rule.decide(rung(trial, 0.1, epoch=epoch)).decision for epoch in (RUNGS[0], RUNGS[2]))
        seen = brackets[: trial + 1].count(bracket) + 1
        assert (first == "stop") == (bracket == 0 and seen >= 3)
        assert (third == "stop") == (bracket < 3 and seen >= 3)


def test_pareto_rank_keeps_what_is_cheap_and_stops_what_is_beaten_in_everything() -> None:
    rank, asha = rule_of("pareto_rank"), rule_of("asha")
    for trial in range(8):
        event = rung(trial, 0.5 + 0.04 * trial, macs=1e6 * (trial + 1))
        assert arrive(rank, event) == "continue"
        arrive(asha, event)
    cheap, beaten = rung(8, 0.2, macs=1e5), rung(9, 0.45, macs=5e6)
    assert (arrive(rank, cheap), arrive(asha, cheap)) == ("continue", "stop")
    assert arrive(rank, beaten) == "stop"


def test_pareto_rank_counts_every_cost_among_the_objectives() -> None:
    two, three = rule_of("pareto_rank"), rule_of("pareto_rank", ALL)
    for trial in range(8):
        event = rung(trial, 0.8, macs=1e6, throughput_ips=1000.0)
        arrive(two, event)
        arrive(three, event)
    fast = rung(8, 0.7, macs=2e6, throughput_ips=3000.0)
    assert (two.decide(fast).decision, three.decide(fast).decision) == ("stop", "continue")


def test_optimistic_stops_what_cannot_reach_those_that_cost_no_more() -> None:
    rule = experienced()
    hopeless = rule.decide(rung(100, 0.7 / 8 - 0.05, macs=3e6))
    assert hopeless.decision == "stop"
    assert hopeless.why["expected_accuracy"] <= hopeless.why["optimistic_accuracy"] < 0.7
    assert rule.decide(rung(101, 0.95 / 8, macs=3e6)).decision == "continue"


def test_optimistic_never_stops_the_cheapest_nor_the_fastest() -> None:
    rule = experienced(ALL)
    slow = rung(100, 0.02, macs=3e6, throughput_ips=1500.0)
    assert rule.decide(slow).decision == "stop"
    assert rule.decide(rung(101, 0.02, macs=9e4, throughput_ips=1500.0)).decision == "continue"
    assert rule.decide(rung(102, 0.02, macs=3e6, throughput_ips=2e4)).decision == "continue"


def test_optimistic_waits_until_its_promise_can_be_kept() -> None:
    """A chance of one in twenty needs nineteen to have been seen; unfinished and failed trials do not count."""
    rule = rule_of("optimistic", max_killed=0.05)
    for trial in range(18):
        train(rule, trial, 0.9, 1e6 + trial)
    rule.observe(finished(50, 0.9, status="failed"))
    rule.observe(finished(51, 0.9, status="ok"))  # came by no rung
    rule.observe(rung(52, 0.1))
    assert rule.decide(rung(60, 0.0, macs=2e6)) == Verdict()
    train(rule, 18, 0.9, 1e6)
    assert rule.decide(rung(60, 0.0, macs=2e6)).decision == "stop"


def test_optimistic_needs_the_costs_of_a_trial() -> None:
    rule = experienced(ALL)
    assert rule.decide(rung(100, 0.0, macs=1e7)).decision == "continue"  # no throughput measured
    assert rule.decide(rung(100, 0.0, macs=math.nan, throughput_ips=1.0)).decision == "continue"


def test_a_rung_that_was_passed_by_is_not_guessed() -> None:
    rule = experienced()
    assert rule.decide(rung(100, 0.0, epoch=4, macs=9e6)).decision == "continue"
    rule.observe(rung(100, 0.0, epoch=2, macs=9e6))
    assert rule.decide(rung(100, 0.0, epoch=4, macs=9e6)).decision == "stop"


def test_equal_curves_are_no_trouble() -> None:
    rule = rule_of("optimistic")
    for trial in range(40):
        train(rule, trial, 0.8, 1e6)
    assert rule.decide(rung(100, 0.1, macs=1e6)).decision == "continue"  # like all others: ends where they did
    assert rule.decide(rung(101, 0.0, macs=1e6)).decision == "stop"


# What is promised ----------------------------------------------------------------------------------------------------


def crossing_curves(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accuracies at the rungs and the end with noise, the final ones without, FLOPs: the large learn longer."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(0, 1, count)
    ceiling = 1 / (1 + np.exp(-(0.5 + 2.0 * size + rng.normal(0, 0.35, count))))
    pace = EPOCHS * (0.1 + 0.3 * size) * np.exp(rng.normal(0, 0.3, count))
    epochs = np.array([*RUNGS, EPOCHS])
    clean = 0.1 + (ceiling[:, None] - 0.1) * -np.expm1(-((epochs / pace[:, None]) ** 1.2))
    return np.clip(clean + rng.normal(0, 0.008, clean.shape), 0, 1), clean[:, -1], 10 ** (5 + 2 * size)


def killed_front_members(rule: StoppingRule, count: int, seed: int) -> tuple[int, int, float]:
    """(members of the true front that were stopped, members, share of the epochs saved)."""
    curves, truth, macs = crossing_curves(count, seed)
    stopped_at = np.full(count, EPOCHS)
    for trial in range(count):
        for place, epoch in enumerate(RUNGS):
            if arrive(rule, rung(trial, float(curves[trial, place]), epoch, float(macs[trial]))) == "stop":
                stopped_at[trial] = epoch
                break
        else:
            rule.observe(finished(trial, float(curves[trial, -1]), float(macs[trial])))
    members = pareto_mask(np.column_stack([-truth, macs]))
    return int((members & (stopped_at < EPOCHS)).sum()), int(members.sum()), 1 - stopped_at.mean() / EPOCHS


@pytest.mark.parametrize("max_killed", [0.05, 0.2])
def test_no_more_of_the_front_is_killed_than_allowed(max_killed: float) -> None:
    runs = [killed_front_members(rule_of("optimistic", max_killed=max_killed), 150, seed) for seed in range(8)]
    killed, members, saved = sum(run[0] for run in runs), sum(run[1] for run in runs), np.mean([run[2] for run in runs])
    assert members > 60
    assert saved > 0.25
    # At the chance allowed, more than this would be seen once in a thousand test suites.
    assert killed <= binom.ppf(0.999, members, max_killed)


def test_rules_that_compare_at_a_rung_do_kill_the_front() -> None:
    """The measure of the test above is not blind."""
    runs = [killed_front_members(rule_of("asha"), 150, seed) for seed in range(3)]
    assert sum(run[0] for run in runs) > 0.3 * sum(run[1] for run in runs)


def test_a_decision_after_ten_thousand_trials_takes_milliseconds() -> None:
    rule = rule_of("optimistic")
    curves, _, macs = crossing_curves(10_000, 0)
    for trial in range(10_000):
        for place, epoch in enumerate(RUNGS):
            rule.observe(rung(trial, float(curves[trial, place]), epoch, float(macs[trial])))
        rule.observe(finished(trial, float(curves[trial, -1]), float(macs[trial])))
    seconds = []
    for trial in range(9):
        start = time.process_time()
        verdict = rule.decide(rung(20_000, 0.3, 2, 2e6 + trial))
        seconds.append(time.process_time() - start)
    assert "optimistic_accuracy" in verdict.why
    assert min(seconds) < 0.020


@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_is_shown_the_ledger_again_decides_as_it_did(name: str) -> None:
    rng = np.random.default_rng(1)
    live, ledger = rule_of(name, max_killed=0.2), []
    for trial in range(60):
        final, macs = float(rng.uniform(0.2, 0.95)), 10 ** float(rng.uniform(5, 7))
        decision = "continue"
        for epoch in RUNGS:
            event = rung(trial, final * (epoch / EPOCHS) ** 0.5, epoch, macs)
            again = rule_of(name, max_killed=0.2)
            for earlier in ledger if trial % 10 == 0 else ():
                again.observe(earlier)
            verdict = live.decide(event)
            assert trial % 10 or again.decide(event) == verdict
            ledger.append(dataclasses.replace(event, decision=verdict.decision))
            live.observe(ledger[-1])
            decision = verdict.decision
            if decision == "stop":
                break
        ledger.append(finished(trial, final, macs, "stopped" if decision == "stop" else "ok"))
        live.observe(ledger[-1])
    assert name == "none" or any(isinstance(event, Finished) and event.status == "stopped" for event in ledger)
