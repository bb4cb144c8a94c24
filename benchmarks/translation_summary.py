"""What the benchmark of translation robustness makes of its outcomes: means, differences and their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from crossvit_core.config import ArchConfig
from results.statistics import paired_test

RESAMPLES = 2000
MEASURES = ("top1", "lost", "same")
GROUPS = {
    "s": "whole small patches",
    "l": "whole large patches",
    "sl": "whole patches of both",
    "-": "no whole patches",
}


@dataclass(frozen=True)
class Outcome:
    """Of one network, by image: shares of the directions of one shift in which it is right, and in which it stays."""

    right: np.ndarray
    stays: np.ndarray


Outcomes = dict[int, Outcome]  # by size of shift, 0 among them
Pair = tuple[Outcomes, Outcomes]  # of the plain network and of the one with residual attention, of one seed


def bootstrap(difference: np.ndarray) -> tuple[float, float, float]:
    """Mean of a paired difference over images, and its 95 % interval."""
    rng = np.random.default_rng(0)
    means = [difference[rng.integers(len(difference), size=len(difference))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(difference.mean()), float(low), float(high)


def group_of(size: int, arch: ArchConfig) -> str:
    """Which branches a shift moves by whole patches: 's', 'l', 'sl' or '-'."""
    whole = [size * b.size[0] / arch.size[0] % b.patch_size == 0 for b in arch.branches]
    return "".join(name for name, is_whole in zip("sl", whole) if is_whole) or "-"


def measured(outcomes: Outcomes, sizes: Sequence[int], measure: str) -> np.ndarray:
    """A measure of every image, the mean over sizes of shifts."""
    if measure == "same":
        return np.mean([outcomes[size].stays for size in sizes], axis=0)
    right = np.mean([outcomes[size].right for size in sizes], axis=0)
    return right if measure == "top1" else outcomes[0].right - right


def compared(pairs: Sequence[Pair], sizes: Sequence[int], measure: str) -> dict[str, float]:
    """Both networks' means over seeds and images, and their difference with its intervals."""
    plain, residual = (np.array([measured(pair[index], sizes, measure) for pair in pairs]) for index in (0, 1))
    difference, low, high = bootstrap((residual - plain).mean(axis=0))
    found = {"plain": plain.mean(), "residual": residual.mean(), "difference": difference}
    found |= {"images_low": low, "images_high": high}
    if len(pairs) > 1:
        test = paired_test((residual - plain).mean(axis=1))
        found |= {"seeds_low": float(test.low), "seeds_high": float(test.high), "p": float(test.p)}
    return found


def rows_of(sizes: Sequence[int], arch: ArchConfig) -> Iterator[tuple[str, str, list[int]]]:
    """What is compared: every size, every group of sizes, and all of them; by label, patches and sizes."""
    for size in sizes:
        yield f"{size} px", group_of(size, arch), [size]
    shifts = [size for size in sizes if size]
    for group, label in GROUPS.items():
        members = [size for size in shifts if group_of(size, arch) == group]
        if members:
            yield label, group, members
    yield "all shifts", "", shifts


def summary(pairs: Sequence[Pair], arch: ArchConfig) -> pd.DataFrame:
    """A row for every measure of every line of ``rows_of``."""
    rows = [
        {"shift": label, "patches": patches, "measure": measure, "seeds": len(pairs), **compared(pairs, sizes, measure)}
        for label, patches, sizes in rows_of(sorted(pairs[0][0]), arch)
        for measure in (MEASURES if any(sizes) else MEASURES[:1])
    ]
    return pd.DataFrame(rows)


def show_summary(table: pd.DataFrame) -> None:
    """In points of a hundred."""
    print(f"{'shift':<22} {'measure':<7} {'plain':>6} {'resid.':>6}  difference, 95 % over images, over seeds (points)")
    for row in (100 * table.set_index(["shift", "measure"]).select_dtypes("number")).reset_index().to_dict("records"):
        seeds = f", {row['seeds_low']:+.2f} to {row['seeds_high']:+.2f}" if "seeds_low" in row else ""
        images = f"{row['images_low']:+.2f} to {row['images_high']:+.2f}"
        means = f"{row['plain']:6.2f} {row['residual']:6.2f}  {row['difference']:+.2f}"
        print(f"{row['shift']:<22} {row['measure']:<7} {means}, {images}{seeds}", flush=True)


def show_similarities(table: pd.DataFrame) -> None:
    print("mean cosine similarity of patch tokens after every block, mean over seeds")
    for (branch, name), rows in table.groupby(["branch", "network"], sort=True):
        means = rows.groupby("block")["similarity"].mean()
        print(f"  branch {branch} {name:9}" + " ".join(f"{value:+.3f}" for value in means))
