"""One piece of work that the session hands out, and the seeds that make it repeatable."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from crossvit_core.config import ArchConfig


@dataclass(frozen=True)
class Trial:
    """Train this architecture with this seed.

    ``attempt`` counts from 1 and grows each time that this driver hands the trial out again. ``alone``: nothing of ours
    may run beside it on its device, since it has run out of memory there.
    """

    number: int
    arch: ArchConfig
    arch_key: str
    seed: int
    attempt: int = 1
    alone: bool = False


def derive_seed(*parts: object) -> int:
    """A 31-bit seed from anything printable: equal on every machine and in every process."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
