"""How many architectures a second the closed form counts, on one core.

Samples feasible architectures of the built-in spaces and counts them in rounds, the spaces in turns, so that a machine
that changes its speed changes it for all. The first round meets cold caches, as every new space does, and is printed
apart. To compare two versions, ``--against`` names a checkout of the other one, which takes turns too.

    python benchmarks/count_cost_speed.py [--architectures 1000] [--rounds 9] [--against path/to/checkout]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from crossvit_core.config import ArchConfig
from crossvit_core.cost import count_cost
from space import list_spaces, load_space

HERE = Path(__file__).parents[1]


def sample(space: str, count: int) -> list[ArchConfig]:
    """Feasible architectures of a built-in space, from a fixed seed."""
    rng, found = np.random.default_rng(0), load_space(space).space
    return [found.sample(rng) for _ in range(count)]


def per_second(architectures: list[ArchConfig]) -> float:
    """Architectures counted per second of this process's own time."""
    start = time.process_time()
    for arch in architectures:
        count_cost(arch)
    return len(architectures) / (time.process_time() - start)


def serve(spaces: list[str], architectures: int) -> None:
    """One round for every line of the input: the rates of all spaces on one line."""
    samples = [sample(space, architectures) for space in spaces]
    # Sampling has counted too: cold caches are those of another process, or emptied ones.
    _empty_caches()
    for _ in sys.stdin:
        print(*(per_second(archs) for archs in samples), flush=True)


def _empty_caches() -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("crossvit_core."):
            for member in vars(module).values():
                if hasattr(member, "cache_clear"):
                    member.cache_clear()


class Version:
    """A process that counts with the code of one checkout, a round at a time."""

    def __init__(self, root: Path, options: argparse.Namespace) -> None:
        arguments = ["--serve", "--architectures", str(options.architectures), "--spaces", options.spaces]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(root)},
        )

    def round(self) -> list[float]:
        """Rates of all spaces, architectures a second."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        return [float(rate) for rate in self.process.stdout.readline().split()]


def report(name: str, rounds: list[list[float]], spaces: list[str]) -> None:
    print(f"  {name}")
    for space, (first, *later) in zip(spaces, zip(*rounds)):
        spread = f"{statistics.median(later):8,.0f}  ({min(later):,.0f} to {max(later):,.0f})"
        print(f"    {space:<8} {spread}  first round {first:,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=9, help="at least 2")
    parser.add_argument("--spaces", default=",".join(list_spaces()))
    parser.add_argument("--against", type=Path, help="checkout of another version")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    spaces = options.spaces.split(",")
    if options.serve:
        return serve(spaces, options.architectures)
    roots = {"this version": HERE} | ({str(options.against): options.against} if options.against else {})
    versions = {name: Version(root, options) for name, root in roots.items()}
    rounds: dict[str, list[list[float]]] = {name: [] for name in versions}
    for _ in range(options.rounds):
        for name, version in versions.items():
            rounds[name].append(version.round())
    print(f"architectures a second, {options.architectures} of each space, median (min to max) after the first round")
    for name in versions:
        report(name, rounds[name], spaces)
    return None


if __name__ == "__main__":
    main()
