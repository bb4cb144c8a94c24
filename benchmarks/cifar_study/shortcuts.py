"""Which shortcuts rank networks as full training does: Kendall's tau with its interval.

    python benchmarks/cifar_study/shortcuts.py results/runs/cifar-shortcuts --out shortcuts.csv

Reads a study whose trials were all trained to the end (``crossvit search --sampler random --stopping none``) and, if
there is one, its retraining on another seed (``crossvit retrain --trials 0,1,... --seeds 1``). Accuracy after a share
of the epochs is compared with the final accuracy of the same run, which shares its luck, and with the other seed's,
which does not. FLOPs and parameters are the baseline that every shortcut must beat, two seeds of the same networks the
ceiling. Intervals are 95 %, by the jackknife over networks on the scale of Fisher's z.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, norm

from benchmarks.crossbench.make_table import curve_columns
from results.frame import load_frame
from results.repeats import find_retraining
from results.store import CURVE_FILE, TRIALS_FOLDER, StudyStore, trial_name

SHARES = (0.05, 0.10, 0.25)


def kendall(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Tau-b of paired values and its 95 % interval; NaN for fewer than four pairs, and where one side is constant.

    No interval where a side is constant once a single pair is left out: all that is known hangs on that pair.
    """
    left, right = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if len(left) < 4:
        return math.nan, math.nan, math.nan
    tau = float(kendalltau(left, right).statistic)
    kept = [np.arange(len(left)) != index for index in range(len(left))]
    without = np.array([_fisher(kendalltau(left[mask], right[mask]).statistic) for mask in kept])
    n = len(without)
    error = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    reach, middle = float(norm.ppf(0.975)) * error, _fisher(tau)
    return tau, math.tanh(middle - reach), math.tanh(middle + reach)


def _fisher(tau: float) -> float:
    if math.isnan(tau):
        return tau
    return math.atanh(max(-0.999999, min(0.999999, tau)))


def accuracies_after(study_dir: Path, trials: Sequence[int]) -> dict[float, list[float]]:
    """Validation accuracies of trials after each share of their epochs, at least one, from their curves."""
    epochs = int(StudyStore.open_readonly(study_dir).study["recipe"]["epochs"])
    curves = [curve_columns(study_dir / TRIALS_FOLDER / trial_name(trial) / CURVE_FILE) for trial in trials]
    places = {share: max(1, round(share * epochs)) - 1 for share in SHARES}
    return {share: [curve["curve_val_accuracy"][place] for curve in curves] for share, place in places.items()}


def compare(study_dir: Path) -> pd.DataFrame:
    """One row a pair of quantities: shortcut, compared with, tau, low, high, networks."""
    frame = load_frame(study_dir)
    frame = frame[frame["status"] == "ok"].reset_index(drop=True)
    trials, final = frame["trial"].tolist(), frame["val_accuracy"]
    rows = []

    def add(shortcut: str, truth: str, a: Sequence[float], b: Sequence[float]) -> None:
        tau, low, high = kendall(a, b)
        rows.append(
            {"shortcut": shortcut, "compared_with": truth, "tau": tau, "low": low, "high": high, "networks": len(a)}
        )

    early = accuracies_after(study_dir, trials)
    for share, values in early.items():
        add(f"accuracy after {share:.0%} of the epochs", "final accuracy, same run", values, final)
    for name, words in (("macs", "FLOPs"), ("params", "parameters")):
        add(words, "final accuracy", frame[name], final)
    add("FLOPs", "1 / throughput", frame["macs"], 1 / frame["throughput_ips"])
    again = find_retraining(study_dir)
    if again is not None:
        other = load_frame(again).query("status == 'ok'").groupby("arch_key")["val_accuracy"].first()
        both = frame["arch_key"].isin(other.index)
        truth = frame.loc[both, "arch_key"].map(other)
        add("final accuracy", "final accuracy, other seed", final[both], truth)
        for share, values in early.items():
            paired = pd.Series(values)[both]
            add(f"accuracy after {share:.0%} of the epochs", "final accuracy, other seed", paired, truth)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of the study")
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    options = parser.parse_args()
    table = compare(options.study)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.2f}"))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.out, index=False, float_format="%.4f", lineterminator="\n")


if __name__ == "__main__":
    main()
