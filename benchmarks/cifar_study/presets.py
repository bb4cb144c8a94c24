"""What the presets that come with weights reach, from the choices that opened the test split.

    python benchmarks/cifar_study/presets.py crossvit_cifar_s=results/runs/cifar-cpu-all:29 ... --out presets.csv

Each argument names a preset and the trial of a study it is from, retrained (``crossvit retrain``) and tested
(``crossvit select --open-test``). One row each: means over the seeds and every seed's accuracies, in one order, on
validation and test images; ``weights_*`` are those of the seed whose weights ``crossvit export`` takes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from crossvit_core.cost import count_cost
from results.repeats import retrain_dir
from results.store import StudyStore
from search.trained import find_trained


def describe_preset(name: str, study_dir: Path, trial: int) -> dict[str, Any]:
    """The row of one preset. Raises ValueError for a trial that was not retrained and tested."""
    choice = json.loads((study_dir / "selection.json").read_text(encoding="utf-8"))
    finalists = {finalist["trial"]: finalist for finalist in choice["finalists"]}
    tested = choice.get("test") or {}
    if trial not in finalists or not tested:
        raise ValueError(
            f"{study_dir}: trial {trial} is no finalist whose test accuracies are known; retrain and select"
        )
    finalist = finalists[trial]
    runs = [run for run in finalist["runs"] if run["status"] == "ok"]
    val, test = [run["accuracy"] for run in runs], [tested[str(run["run"])] for run in runs]
    exported = find_trained(study_dir, trial)
    cost = count_cost(exported.arch)
    return {
        "name": name,
        "architecture": finalist["architecture"],
        "macs": cost.macs,
        "params": cost.params,
        "epochs": StudyStore.open_readonly(retrain_dir(study_dir)).study["recipe"]["epochs"],
        "seeds": len(runs),
        "val_accuracy": round(mean(val), 4),
        "test_accuracy": round(mean(test), 4),
        "weights_val_accuracy": exported.val_accuracy,
        "weights_test_accuracy": tested[str(exported.trial)],
        "val_accuracies": " ".join(map(str, val)),
        "test_accuracies": " ".join(map(str, test)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="+", help="NAME=path/to/study:TRIAL")
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    options = parser.parse_args()
    try:
        rows = []
        for asked in options.presets:
            name, _, place = asked.partition("=")
            study, _, trial = place.rpartition(":")
            rows.append(describe_preset(name, Path(study), int(trial)))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    if options.out is not None:
        table.to_csv(options.out, index=False, lineterminator="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
