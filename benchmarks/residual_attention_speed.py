"""The speed of residual attention's equal forms against plain attention: which form a chain should run in.

Times chains of attentions, without projections, in every form of ``crossvit_core.residual_attention`` and as plain
attention, fused and explicit; all in turns whose order changes, so that a machine that changes its speed changes it for
all. Prints per chain the plain fused time and, for every form, plain time over its own, the median of the rounds with
their quartiles: 0.8 is a chain that takes 1.25 times as long as plain attention. A star marks what
``suited_form`` chooses.

    python benchmarks/residual_attention_speed.py [--chains 64x2x17x16,...] [--lengths 2,3,6] [--device cpu]

Chains are images x heads x tokens x head size. On a CPU one thread is timed by the process's own time, on a GPU by the
device's events.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from crossvit_core.device_info import device_name
from crossvit_core.residual_attention import FORMS, Carried, Link, attend, explicit_attention, suited_form

CHAINS = "64x2x17x16,64x2x65x16,32x3x65x32,8x3x197x64,4x3x401x32"
WARM_UPS = 2

Part = tuple[Tensor, Tensor, Tensor]
Work = Callable[[], object]


def parts_of(shape: tuple[int, ...], length: int, train: bool, device: str) -> list[Part]:
    """Queries, keys and values of a chain."""
    return [(draw(shape, train, device), draw(shape, train, device), draw(shape, train, device)) for _ in range(length)]


def draw(shape: tuple[int, ...], train: bool, device: str) -> Tensor:
    return torch.randn(shape, device=device, requires_grad=train)


def run_form(form: str, parts: list[Part], alpha: Tensor) -> list[Tensor]:
    found, before = [], None
    for index, (q, k, v) in enumerate(parts):
        link = Link(before, alpha if index else None, form, last=index == len(parts) - 1)
        out, before = attend(q, k, v, q.shape[-1] ** -0.5, link)
        found.append(out)
    return found


def run_plain(parts: list[Part]) -> list[Tensor]:
    return [F.scaled_dot_product_attention(*part) for part in parts]


def run_plain_explicit(parts: list[Part]) -> list[Tensor]:
    unlinked: list[tuple[Tensor, Carried | None]] = [
        explicit_attention(q, k, v, q.shape[-1] ** -0.5, Link()) for q, k, v in parts
    ]
    return [out for out, _ in unlinked]


def works_of(parts: list[Part], alpha: Tensor, train: bool) -> dict[str, Work]:
    """What is timed, by name."""
    runs: dict[str, Callable[[], list[Tensor]]] = {
        "plain": lambda: run_plain(parts),
        "plain explicit": lambda: run_plain_explicit(parts),
    }
    for form in FORMS:
        runs[form] = lambda form=form: run_form(form, parts, alpha)  # type: ignore[misc]
    return {name: _with_backward(run) if train else run for name, run in runs.items()}


def _with_backward(run: Callable[[], list[Tensor]]) -> Work:
    return lambda: torch.stack([out.sum() for out in run()]).sum().backward()


def timed_ms(work: Work, device: str) -> float:
    if not device.startswith("cuda"):
        start = time.process_time()
        work()
        return (time.process_time() - start) * 1e3
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with torch.cuda.device(device):  # events are recorded on the current one
        first.record()
        work()
        last.record()
    last.synchronize()
    return first.elapsed_time(last)


def times_of(works: dict[str, Work], rounds: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of every round, all works in turns."""
    for _ in range(WARM_UPS):
        for work in works.values():
            work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name in list(works) if number % 2 else reversed(list(works)):
            times[name].append(timed_ms(works[name], device))
    return times


def line_of(times: dict[str, list[float]], chosen: str) -> str:
    cells = []
    for name, own in times.items():
        if name != "plain":
            ratios = [plain / other for plain, other in zip(times["plain"], own)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            cells.append(f"{name}{'*' if name == chosen else ''} {middle:.2f} ({low:.2f}-{high:.2f})")
    return f"{statistics.median(times['plain']):9.2f} ms  " + "  ".join(cells)


def measure(shape: tuple[int, ...], length: int, train: bool, options: argparse.Namespace) -> str:
    with torch.set_grad_enabled(train):
        parts = parts_of(shape, length, train, options.device)
        alpha = torch.full((1,), 0.5, device=options.device, requires_grad=train)
        chosen = suited_form(shape[2], length - 1, torch.empty(1, device=options.device))
        return line_of(times_of(works_of(parts, alpha, train), options.rounds, options.device), chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chains", default=CHAINS, help=f"images x heads x tokens x head size, by default {CHAINS}")
    parser.add_argument("--lengths", default="2,3,6", help="attentions in a chain")
    parser.add_argument("--rounds", type=int, default=15, help="at least 2")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = f"{device_name(options.device)}, torch {torch.__version__}"
    print(f"{about}, one thread; images x heads x tokens x head size, plain attention, plain over each form")
    for text in options.chains.split(","):
        shape = tuple(int(size) for size in text.split("x"))
        for length in map(int, options.lengths.split(",")):
            for train in (False, True):
                line = measure(shape, length, train, options)
                print(f"{text:>14} x{length} {'train' if train else 'eval':5} {line}", flush=True)


if __name__ == "__main__":
    main()
