"""Which of a few candidates is the best, and how sure that is: the statistics of a choice. Numbers in, numbers out.

The search's own accuracies name the candidates and are then forgotten: whoever was picked for a high number was, on
average, lucky with it (the winner's curse). What is said of a candidate comes from fresh seeds alone. They meet the
validation images of the search again, so luck with the images themselves stays in; the test split is free of both.

A candidate's accuracy on images like the validation images is uncertain twice over: training again gives another
network, and other images would give another score. The first is the variance between seeds, pooled over the candidates
(few seeds each say little of their own) in proportion to p (1 - p): the nearer to perfect an accuracy p is, the less
room its seeds have (quasi-binomial: McCullagh and Nelder, Generalized Linear Models, section 4.5). The second is
binomial; all seeds meet the same images, so more seeds do not lessen it. The two overlap a little, and the candidates
share their images: both make the intervals wider than they need be, never narrower.

Intervals are of each candidate by itself. Who is the best is a question about all of them, and finalists are alike:
taken each by itself, the highest of several nearly equal would look like the best far too often. Their spread is
therefore learned from them too (``chances_of_best``), which draws them together until the runs say otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincinv, ndtr, ndtri

from results.frame import front
from results.metrics import ACCURACY, cost_metric
from results.units import percent

Floats = NDArray[np.float64]

CONFIDENCE = 0.95

_DRAWS = 40_000
_DRAWS_OF_A_POINT = 10  # an even point tells as much of the chances as these draws, or more
_STEPS = 64  # of the integral over the highest utility, from where it is not below to where it is not above
_WIDEST = 8.0  # beyond, no candidate's lead would be doubted on account of the others


class PreferenceError(ValueError):
    """A preference that cannot be followed."""


@dataclass(frozen=True)
class Judgement:
    """What fresh seeds say of the candidates, in the order they came in.

    ``means``, ``lows``, ``highs``: accuracies (fractions), the interval of CONFIDENCE. ``p_best`` sums to 1.
    ``leader`` is who has the highest mean utility; ``contenders`` the fewest candidates that hold the best one with
    CONFIDENCE; ``suggested`` the leader if it is alone in that, else the cheapest of them. Without a second seed
    anywhere, intervals and ``p_best`` are NaN; ``p_best`` also of a candidate that has no rival. ``dispersion`` is the
    pooled variance between seeds, over p (1 - p).
    """

    means: Floats
    lows: Floats
    highs: Floats
    p_best: Floats
    leader: int
    contenders: tuple[int, ...]
    suggested: int
    dispersion: float

    @property
    def is_clear(self) -> bool:
        return self.contenders == (self.leader,)


def judge(
    groups: Sequence[Sequence[float]],
    num_images: int,
    costs: Sequence[float],
    *,
    accuracy_weight: float = 1.0,
    handicaps: Sequence[float] | None = None,
    draws: int = _DRAWS,
    seed: int = 0,
) -> Judgement:
    """Judge candidates by their accuracies on fresh seeds, scored on ``num_images`` validation images.

    ``groups[i]`` has one accuracy a seed; ``costs[i]`` decides between the indistinguishable, lower is better. Utility
    is ``accuracy_weight`` times accuracy less ``handicaps[i]``. Equal input gives equal output, in whatever order the
    candidates and their runs come. Raises ValueError for a candidate without a finite accuracy.
    """
    means = np.array([np.mean(group) if len(group) else math.nan for group in groups])
    if not len(means) or not np.isfinite(means).all() or num_images < 1:
        raise ValueError("each candidate needs at least one finite accuracy, on at least one image")
    candidates = [
        _Candidate(tuple(sorted(group)), float(handicap), cost)
        for group, handicap, cost in zip(groups, np.zeros(len(means)) if handicaps is None else handicaps, costs)
    ]
    # Draws depend on the order, and so do the last digits of sums: candidates are judged in one order of their own.
    order = sorted(range(len(candidates)), key=lambda index: candidates[index])
    found = _judge_sorted([candidates[index] for index in order], num_images, accuracy_weight, draws, seed)
    return _put_back(found, order)


class _Candidate(NamedTuple):
    group: tuple[float, ...]
    handicap: float
    cost: float


def _judge_sorted(
    candidates: Sequence[_Candidate], num_images: int, accuracy_weight: float, draws: int, seed: int
) -> Judgement:
    groups, costs = [each.group for each in candidates], [each.cost for each in candidates]
    handicaps = np.array([each.handicap for each in candidates])
    means = np.array([np.mean(group) for group in groups])
    leader = _first_best(accuracy_weight * means - handicaps, costs)
    dispersion, freedom = pooled_dispersion(groups, num_images)
    if not freedom:
        unknown = np.full(len(means), math.nan)
        everyone = tuple(range(len(means)))
        return Judgement(means, unknown, unknown, unknown, leader, everyone, leader, math.nan)
    sampled = draw_accuracies(groups, num_images, draws=draws, seed=seed)
    tail = 50 * (1 - CONFIDENCE)
    lows, highs = np.percentile(sampled, [tail, 100 - tail], axis=0)
    points = max(draws // _DRAWS_OF_A_POINT, 1)
    p_best = chances_of_best(groups, num_images, accuracy_weight=accuracy_weight, handicaps=handicaps, points=points)
    contenders = _credible_set(p_best, leader)
    suggested = min(contenders, key=lambda index: (costs[index], -p_best[index]))
    if len(groups) == 1:
        p_best = np.full(1, math.nan)  # whoever is alone is not the best of any
    return Judgement(means, lows, highs, p_best, leader, contenders, suggested, dispersion)


def _put_back(found: Judgement, order: Sequence[int]) -> Judgement:
    """The judgement with candidate ``order[i]`` where candidate i was."""
    place = np.argsort(order)
    return Judgement(
        means=found.means[place],
        lows=found.lows[place],
        highs=found.highs[place],
        p_best=found.p_best[place],
        leader=order[found.leader],
        contenders=tuple(order[index] for index in found.contenders),
        suggested=order[found.suggested],
        dispersion=found.dispersion,
    )


def pooled_dispersion(groups: Sequence[Sequence[float]], num_images: int) -> tuple[float, int]:
    """The variance within groups over p (1 - p), and its degrees of freedom: (0, 0) where no group has two members."""
    freedom = sum(len(group) - 1 for group in groups)
    squares = np.array([np.sum((np.asarray(group) - np.mean(group)) ** 2) for group in groups])
    scaled = squares / _room(np.array([np.mean(group) for group in groups]), num_images)
    return (float(scaled.sum()) / freedom if freedom else 0.0), freedom


def draw_accuracies(groups: Sequence[Sequence[float]], num_images: int, *, draws: int, seed: int = 0) -> Floats:
    """Draws of each candidate's accuracy, from its posterior under flat priors: (draws, num_candidates).

    The dispersion is drawn from its scaled inverse chi-square, one for all candidates; then the mean over
    all seeds on these images is normal; then the accuracy over all images is beta (Jeffreys' prior).
    """
    rng = np.random.default_rng(seed)
    means = np.array([np.mean(group) for group in groups])
    freedom = pooled_dispersion(groups, num_images)[1]
    spread = np.sqrt(_seed_variances(groups, num_images, rng.chisquare(freedom, size=(draws, 1))))
    on_images = means + spread * rng.standard_normal(spread.shape)
    hits = num_images * np.clip(on_images, 0.0, 1.0)
    return rng.beta(hits + 0.5, num_images - hits + 0.5)


def chances_of_best(
    groups: Sequence[Sequence[float]],
    num_images: int,
    *,
    accuracy_weight: float = 1.0,
    handicaps: ArrayLike = 0.0,
    points: int = _DRAWS // _DRAWS_OF_A_POINT,
) -> Floats:
    """The probability of each candidate that its true utility is the highest; they sum to 1.

    The hierarchical normal model of Gelman et al., Bayesian Data Analysis, section 5.4: utilities spread around a
    common center, and any spread from none to ``_WIDEST`` times the noise of one candidate is as likely as another.
    What the candidates share (the variance between seeds, the spread, the center) is integrated over ``points`` even
    points of their priors, each weighted by how well it explains what was seen; what is left is each candidate's own.
    """
    of_dispersion, of_spread, of_center = np.hsplit(_even_points(points), 3)
    rates = np.array([np.mean(group) for group in groups])
    seen = accuracy_weight * rates - np.asarray(handicaps, dtype=float)
    freedom = pooled_dispersion(groups, num_images)[1]
    seeds = _seed_variances(groups, num_images, 2 * gammaincinv(freedom / 2, of_dispersion))
    noise = accuracy_weight**2 * (seeds + _image_variance(rates, num_images))
    spread = noise.mean(axis=1, keepdims=True) * (_WIDEST * of_spread) ** 2  # a variance, as the noise
    precision = 1 / (noise + spread)
    of_mean = 1 / precision.sum(axis=1, keepdims=True)
    mean = of_mean * (precision * seen).sum(axis=1, keepdims=True)
    fit = np.log(precision).sum(axis=1) + np.log(of_mean[:, 0]) - (precision * (seen - mean) ** 2).sum(axis=1)
    center = mean + np.sqrt(of_mean) * ndtri(of_center)
    kept = spread * precision  # the share of a candidate's distance from the center that is taken to be real
    highest = _chances_of_highest(center + kept * (seen - center), np.sqrt(kept * noise))
    chances = np.exp((fit - fit.max()) / 2) @ highest
    return np.asarray(chances / chances.sum())


def _even_points(count: int) -> Floats:
    """Points that fill the unit cube evenly, none on its faces: (count, 3).

    Steps of the inverse powers of the root of x^4 = x + 1 (Roberts' R3 sequence).
    """
    steps = 1.2207440846057596 ** -np.arange(1.0, 4.0)
    return np.asarray((0.5 + np.arange(1, count + 1)[:, None] * steps) % 1)


def _chances_of_highest(means: Floats, deviations: Floats) -> Floats:
    """In each row, the chance of each of independent normals to be the highest: (rows, num_candidates).

    The integral over x of the density of one at x and of all others being below; evenly spaced x do for normals.
    """
    # The highest is neither below `low` nor above `high`, but for one chance in a million.
    low, high = ((means + side * deviations).max(axis=1, keepdims=True) for side in (-5, 5))
    chances = np.zeros_like(means)
    for share in np.linspace(0, 1, _STEPS):
        away = (low + share * (high - low) - means) / deviations
        below = ndtr(away)
        chances += below.prod(axis=1, keepdims=True) * np.exp(-(away**2) / 2) / (deviations * below)
    return np.asarray(chances / chances.sum(axis=1, keepdims=True))


def could_be_best(utilities: Floats, accuracies: Floats, num_images: int, accuracy_weight: float = 1.0) -> NDArray:
    """True where one run's accuracy may hide the best candidate: no worse than the top by more than validation noise.

    The bound is the one-sided CONFIDENCE for the difference of two binomials. Seeds add noise that one run says nothing
    about, so it is not too wide.
    """
    variances = _image_variance(accuracies, num_images)
    top = int(np.argmax(utilities))
    allowed = 1.645 * accuracy_weight * np.sqrt(variances + variances[top])
    return np.asarray(utilities >= utilities[top] - allowed)


def preference_weights(text: str, members: pd.DataFrame) -> dict[str, float]:
    """What 'accuracy', 'knee' or 'weighted:accuracy=1,macs=0.2' weighs: the accuracy, and costs in factors of ten.

    With macs=0.2, ten times the FLOPs must earn 0.2 (20 points) of accuracy. The knee of the members' front weighs
    accuracy and FLOPs by the inverse of the front's spans (``picks.pick_members``). Raises PreferenceError.
    """
    if text == "accuracy":
        return {ACCURACY: 1.0}
    if text == "knee":
        return _knee_weights(members)
    kind, _, terms = text.partition(":")
    if kind != "weighted" or not terms:
        raise PreferenceError(f"unknown preference {text!r}; use accuracy, knee or weighted:accuracy=1,macs=0.2")
    return _parse_weights(text, terms)


def utility(rows: pd.DataFrame, weights: Mapping[str, float]) -> Floats:
    """The utility of each row, higher is better; NaN where a metric is missing. A constant apart it has no meaning."""
    return weights[ACCURACY] * rows[ACCURACY].to_numpy(dtype=float) - handicap(rows, weights)


def handicap(rows: pd.DataFrame, weights: Mapping[str, float]) -> Floats:
    """What the costs of each row take off its utility."""
    total = np.zeros(len(rows))
    for name, weight in weights.items():
        if name != ACCURACY:
            total += weight * np.array([cost_metric(name).log_cost(value) for value in rows[name]])
    return total


def describe_judgement(judgement: Judgement, names: Sequence[str]) -> str:
    """The verdict in one sentence; ``names[i]`` is what candidate i is called."""
    leader = names[judgement.leader]
    if len(names) == 1:
        alone = "; one seed, so no interval" if math.isnan(judgement.dispersion) else ""
        return f"{leader} is the only candidate{alone}"
    if math.isnan(judgement.dispersion):
        return f"one seed each: no interval and no probability; {leader} scored highest, which may be luck"
    if judgement.is_clear:
        return f"{leader} is the best with a probability of {percent(judgement.p_best[judgement.leader])}"
    chance = _percent_under(float(judgement.p_best[judgement.leader]), CONFIDENCE)
    rivals = ", ".join(names[index] for index in judgement.contenders)
    gap = "" if judgement.suggested == judgement.leader else f", {_describe_gap(judgement)} {leader} in these runs"
    return (
        f"too close to call: {leader} leads with a probability of {chance} of being the best, under "
        f"{100 * CONFIDENCE:.0f} %; {names[judgement.suggested]} is the cheapest of the indistinguishable "
        f"({rivals}){gap}"
    )


def _percent_under(fraction: float, bound: float) -> str:
    """As ``percent`` writes it, with as many more decimals as it takes not to read as the bound that it is under."""
    for decimals in range(1, 10):
        text = f"{100 * fraction:.{decimals}f}"
        if float(text) < 100 * bound:
            return f"{text} %"
    return percent(fraction)


def _describe_gap(judgement: Judgement) -> str:
    """How far the suggestion's accuracy is from the leader's, who leads in utility: not always the lower one."""
    points = 100 * float(judgement.means[judgement.suggested] - judgement.means[judgement.leader])
    if abs(points) < 0.05:
        return "as accurate as"
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"


def _seed_variances(groups: Sequence[Sequence[float]], num_images: int, chisquares: Floats) -> Floats:
    """The variance of each candidate's mean over its seeds, by quantities that are chi-square with as many degrees of
    freedom as the pooled dispersion has: (len(chisquares), num_candidates) from (len(chisquares), 1).
    """
    dispersion, freedom = pooled_dispersion(groups, num_images)
    room = _room(np.array([np.mean(group) for group in groups]), num_images)
    return np.asarray(dispersion * freedom / chisquares * room / np.array([len(group) for group in groups]))


def _image_variance(rates: Floats, num_images: int) -> Floats:
    return _room(rates, num_images) / (num_images + 4)


def _room(rates: Floats, num_images: int) -> Floats:
    """p (1 - p), with p after Agresti and Coull: not zero for a perfect score."""
    smoothed = (rates * num_images + 2) / (num_images + 4)
    return smoothed * (1 - smoothed)


def _first_best(utilities: Floats, costs: Sequence[float]) -> int:
    """The highest utility; of equals the cheapest."""
    return max(range(len(utilities)), key=lambda index: (utilities[index], -costs[index]))


def _credible_set(p_best: Floats, leader: int) -> tuple[int, ...]:
    """The fewest candidates whose chances sum to CONFIDENCE, the leader first among them."""
    order = sorted(range(len(p_best)), key=lambda index: (index != leader, -p_best[index]))
    reached = np.cumsum(p_best[order]) >= CONFIDENCE - 1e-12
    return tuple(order[: int(np.argmax(reached)) + 1])


def _knee_weights(members: pd.DataFrame) -> dict[str, float]:
    line = front(members, "macs")
    if len(line.drop_duplicates([ACCURACY, "macs"])) < 3:
        raise PreferenceError(f"a front of {len(line)} has no knee; use PREFER=accuracy, or looser limits")
    gained = float(line[ACCURACY].max() - line[ACCURACY].min())
    decades = math.log10(line["macs"].max() / line["macs"].min())
    return {ACCURACY: 1 / gained, "macs": 1 / decades}


def _parse_weights(text: str, terms: str) -> dict[str, float]:
    weights: dict[str, float] = {ACCURACY: 1.0}
    for term in terms.split(","):
        name, _, number = term.partition("=")
        name = ACCURACY if name.strip() == "accuracy" else name.strip()
        try:
            weights[name] = float(number)
            if name != ACCURACY:
                cost_metric(name)
        except ValueError as error:
            raise PreferenceError(f"preference {text!r}: {error}; write weighted:accuracy=1,macs=0.2") from error
        if not (math.isfinite(weights[name]) and weights[name] >= 0):
            raise PreferenceError(f"preference {text!r}: a weight must be a number of at least 0, got {number}")
    if not weights[ACCURACY] > 0:
        raise PreferenceError(f"preference {text!r}: without any weight on accuracy nothing needs to be trained")
    return weights
