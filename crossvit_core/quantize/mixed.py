"""Greedy MP: bit widths layer by layer, weights and activations apart, by what a bit less costs and what it saves.

Reconstruction from the abstract of MPTQ-ViT ("performance and compressibility"); how the paper weighs the two is not
known.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from crossvit_core.quantize.network import Bits, Slot, mean_bits
from crossvit_core.quantize.settings import MAX_BITS, MIN_BITS


class Reached(NamedTuple):
    """The first assignment whose mean bits, weights and activations together, are at most ``target``."""

    target: float
    bits: dict[str, int]
    mean_bits: float
    loss: float


def greedy(
    slots: Mapping[str, Slot], loss: Callable[[Bits], float], targets: Sequence[float], *, rho: float = 1.0
) -> Iterator[Reached]:
    """Lower one tensor by one bit at a time from 8, yielding an assignment for every target, largest first.

    ``loss`` maps an assignment to a loss on calibration data. Next is the tensor with the least rise of the loss per
    ``numel^rho`` saved bits. A rise is measured again only when its tensor is about to be chosen (a lazy queue): those
    further back keep what was measured when fewer bits had gone. Edges stay at 8 bits. A target that cannot be reached
    ends the descent. The same losses give the same assignments.
    """
    everything = list(slots.values())
    bits = {slot.name: MAX_BITS for slot in everything}
    current = loss(bits)
    queue = _Queue(slots, loss, rho)
    queue.fill(bits, current)
    for target in sorted(set(targets), reverse=True):
        while mean_bits(everything, bits) > target:
            chosen = queue.pop(bits, current)
            if chosen is None:
                return
            name, current = chosen
            bits[name] -= 1
            queue.push(name, bits, current)
        yield Reached(target, dict(bits), mean_bits(everything, bits), current)


class _Queue:
    """Tensors by the price of their next bit, cheapest first; ties by name."""

    def __init__(self, slots: Mapping[str, Slot], loss: Callable[[Bits], float], rho: float) -> None:
        self.slots, self.loss, self.rho = slots, loss, rho
        self.heap: list[tuple[float, str]] = []

    def fill(self, bits: Bits, current: float) -> None:
        for name, slot in self.slots.items():
            if not slot.is_edge:
                self.push(name, bits, current)

    def push(self, name: str, bits: Bits, current: float) -> None:
        if bits[name] > MIN_BITS:
            heapq.heappush(self.heap, (self._price(name, self._lowered(name, bits), current), name))

    def pop(self, bits: Bits, current: float) -> tuple[str, float] | None:
        """The cheapest tensor by a fresh price, and the loss without its bit; None if no bit is left to take."""
        while self.heap:
            _, name = heapq.heappop(self.heap)
            lowered = self._lowered(name, bits)
            price = self._price(name, lowered, current)
            if not self.heap or (price, name) <= self.heap[0]:
                return name, lowered
            heapq.heappush(self.heap, (price, name))
        return None

    def _lowered(self, name: str, bits: Bits) -> float:
        return self.loss({**bits, name: bits[name] - 1})

    def _price(self, name: str, lowered: float, current: float) -> float:
        return (lowered - current) / self.slots[name].numel ** self.rho
