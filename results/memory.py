"""Whether what is made of a ledger will fit into memory: said at once in one sentence, not by a killed process.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from results.store import StoreError
from results.units import human_count

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")

READ = 1.5
"""Bytes that a table of trials takes for a byte of the ledger, at most (benchmarks/report_scale.py)."""

REPLAYED = 5.0
"""The same of a search that goes on, which remembers every event."""

MIRRORED = 15.0
"""The same of a journal for a dashboard, which Optuna holds in memory."""


def check_fits(study_dir: Path, ratio: float, doing: str) -> None:
    """Raise StoreError if ``ratio`` times a study's ledger is more than the memory that is free.

    ``doing`` is what needs it, as the beginning of a sentence: "going on with a search".
    """
    ledger = study_dir / "ledger.jsonl"
    size = ledger.stat().st_size if ledger.exists() else 0
    free = free_bytes()
    if free is not None and ratio * size > free:
        raise StoreError(
            f"study {study_dir.name!r} is too large for this machine: {doing} takes about {_bytes(ratio * size)} of "
            f"memory for its ledger of {_bytes(size)}, and {_bytes(free)} are free; free some, or use a larger machine"
        )


def free_bytes() -> int | None:
    """Memory that this process may still take, within the limits of its container; None where nobody says."""
    return min((*_free_of_machine(), *_free_of_container()), default=None)


def _free_of_machine() -> Iterator[int]:
    """Where the system does not say what is free, all that there is."""
    try:
        fields = dict(line.split(":") for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        yield int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_of_container() -> Iterator[int]:
    """Of a control group (version 2) with a limit; pages of files that may be dropped count as free."""
    try:
        limit, used = (int((_CGROUP / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        fields = dict(line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        yield max(0, limit - used + int(fields.get("inactive_file", 0)))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return


def _bytes(count: float) -> str:
    return f"{human_count(count)}B"
