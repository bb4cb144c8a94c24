"""Which dimensions of a space matter: the functional analysis of variance of a random forest.

Hutter, Hoos and Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance", ICML 2014. Every tree is
a sum of boxes, so the mean of its prediction over all other dimensions, and with it the variance that a dimension
explains alone or with another one, is a sum over leaves: nothing is sampled. All combinations of the values seen count
alike, whichever of them the searcher preferred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from results.architecture import read_field
from results.pareto import Array

if TYPE_CHECKING:
    from sklearn.tree import DecisionTreeRegressor

MIN_TRIALS = 24
MAX_TRIALS = 2000
_NUM_TREES = 64


class Importance(NamedTuple):
    """Shares of the variance over the space: of each dimension alone, and of each pair beyond its two parts.

    ``explained`` is the share of the variance between trials that the forest predicts for trials it was not given
    (out of bag, R squared): near zero, the shares say nothing.
    """

    alone: dict[str, float]
    pairs: dict[tuple[str, str], float]
    explained: float
    num_trials: int


def read_dimensions(arch: Mapping[str, Any], paths: Sequence[str]) -> tuple[Any, ...]:
    """The value of each dimension, such as ``branches.*.stem``, in an architecture's record."""
    return tuple(read_field(arch, path) for path in paths)


def assess_importance(settings: pd.DataFrame, target: Array) -> Importance | None:
    """Importance of the columns of ``settings`` for ``target``: (num_trials,), all finite.

    None for fewer than ``MIN_TRIALS`` trials, fewer than two dimensions that vary, or a target that does not. Of more
    than ``MAX_TRIALS``, an even sample. The same input gives the same output.
    """
    if len(settings) > MAX_TRIALS:
        chosen = np.linspace(0, len(settings) - 1, MAX_TRIALS).astype(int)
        settings, target = settings.iloc[chosen], target[chosen]
    varying = [str(name) for name in settings if settings[name].nunique() > 1]
    if len(settings) < MIN_TRIALS or len(varying) < 2 or np.ptp(target) == 0:
        return None
    # Only here: scikit-learn takes longer to import than a small report takes to write.
    from sklearn.ensemble import RandomForestRegressor

    codes = np.column_stack([_code(settings[name], target) for name in varying])
    forest = RandomForestRegressor(_NUM_TREES, oob_score=True, random_state=0).fit(codes, target)
    sizes = [int(column.max()) + 1 for column in codes.T]
    alone, pairs = _mean_shares([_tree_shares(tree, sizes) for tree in forest.estimators_])
    names = {(i, j): (varying[i], varying[j]) for i, j in pairs}
    return Importance(
        alone={varying[i]: share for i, share in alone.items()},
        pairs={names[pair]: share for pair, share in pairs.items()},
        explained=float(forest.oob_score_),
        num_trials=len(settings),
    )


def _code(values: pd.Series, target: Array) -> Array:
    """Whole numbers from 0 on: numbers in their order, words by the mean of the target, which suits a tree best."""
    numeric = all(isinstance(value, (int, float)) for value in values)
    order = sorted(set(values)) if numeric else _words_in_order(values, target)
    return values.map({value: index for index, value in enumerate(order)}).to_numpy(dtype=float)


def _words_in_order(values: pd.Series, target: Array) -> list[Any]:
    means = pd.Series(target, index=values.index).groupby(values.map(str)).mean()
    return sorted(set(values), key=lambda value: (means[str(value)], str(value)))


class _Leaves(NamedTuple):
    """The boxes of a tree: which values of each dimension lie in which leaf, the value and the share of each leaf."""

    inside: list[Array]
    values: Array
    shares: Array
    widths: Array


_Shares = tuple[dict[int, float], dict[tuple[int, int], float]]


def _tree_shares(tree: DecisionTreeRegressor, sizes: Sequence[int]) -> _Shares | None:
    leaves = _leaves(tree, sizes)
    mean = float(leaves.shares @ leaves.values)
    total = float(leaves.shares @ (leaves.values - mean) ** 2)
    if total <= 0:
        return None
    weighted = leaves.shares * (leaves.values - mean)
    single = [(weighted / leaves.widths[:, i]) @ leaves.inside[i] for i in range(len(sizes))]
    alone = {i: float(np.mean(effect**2)) / total for i, effect in enumerate(single)}
    pairs = {}
    for i in range(len(sizes)):
        for j in range(i + 1, len(sizes)):
            scale = weighted / (leaves.widths[:, i] * leaves.widths[:, j])
            joint = (leaves.inside[i] * scale[:, None]).T @ leaves.inside[j]
            pairs[i, j] = float(np.mean((joint - single[i][:, None] - single[j][None, :]) ** 2)) / total
    return alone, pairs


def _leaves(tree: DecisionTreeRegressor, sizes: Sequence[int]) -> _Leaves:
    nodes, found = tree.tree_, []
    todo = [(0, [(0, size) for size in sizes])]
    while todo:
        node, box = todo.pop()
        dimension = nodes.feature[node]
        if dimension < 0:
            found.append((nodes.value[node].item(), box))
            continue
        low, high = box[dimension]
        cut = int(np.floor(nodes.threshold[node])) + 1
        for child, part in ((nodes.children_left[node], (low, cut)), (nodes.children_right[node], (cut, high))):
            todo.append((child, [*box[:dimension], part, *box[dimension + 1 :]]))
    bounds = np.array([box for _, box in found])
    widths = (bounds[:, :, 1] - bounds[:, :, 0]) / np.array(sizes)
    inside = [
        ((np.arange(size) >= bounds[:, i, :1]) & (np.arange(size) < bounds[:, i, 1:])).astype(float)
        for i, size in enumerate(sizes)
    ]
    return _Leaves(inside, np.array([value for value, _ in found]), widths.prod(axis=1), widths)


def _mean_shares(trees: Sequence[_Shares | None]) -> _Shares:
    known = [tree for tree in trees if tree is not None]
    if not known:
        return {}, {}
    alone = {i: float(np.mean([tree[0][i] for tree in known])) for i in known[0][0]}
    pairs = {pair: float(np.mean([tree[1][pair] for tree in known])) for pair in known[0][1]}
    return alone, pairs
