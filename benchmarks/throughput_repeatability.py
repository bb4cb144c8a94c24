"""How well a throughput repeats: the spread of the ratio to the reference network over fresh processes.

Prints the standard deviation over the mean and the range over the median, alone and beside a process that loads a core.

    python benchmarks/throughput_repeatability.py [--processes 6] [--pairs 60]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

ONE = """
import sys, torch
from crossvit_core import PRESETS
from crossvit_core.measure import measure_throughput
from crossvit_core.model import build_model
torch.manual_seed(0)
arch = PRESETS[sys.argv[1]]
found = measure_throughput(build_model(arch), size=arch.size, in_channels=3, pairs=int(sys.argv[2]))
print(found.ratio, found.ips)
"""
LOAD = "import torch\ntorch.set_num_threads(1)\nx = torch.rand(512, 512)\nwhile True: x = (x @ x).tanh()"


def measure_all(preset: str, processes: int, pairs: int) -> list[tuple[float, float]]:
    """(ratio, images per second) from each of some fresh processes, one after the other."""
    found = []
    for _ in range(processes):
        command = [sys.executable, "-c", ONE, preset, str(pairs)]
        ratio, ips = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        found.append((float(ratio), float(ips)))
    return found


def summarise(values: list[float]) -> dict[str, float]:
    middle = statistics.median(values)
    spread = statistics.stdev(values) / statistics.mean(values)
    return {"median": round(middle, 5), "sd": round(spread, 4), "range": round((max(values) - min(values)) / middle, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--presets", default="crossvit_nano_16,crossvit_micro_32")
    options = parser.parse_args()
    for preset in options.presets.split(","):
        for condition in ("alone", "beside load"):
            load = None if condition == "alone" else subprocess.Popen([sys.executable, "-c", LOAD])
            try:
                found = measure_all(preset, options.processes, options.pairs)
            finally:
                if load is not None:
                    load.kill()
                    load.wait()
            ratios, speeds = (summarise(list(values)) for values in zip(*found))
            print(json.dumps({"preset": preset, "condition": condition, "ratio": ratios, "images_per_s": speeds}))


if __name__ == "__main__":
    main()
