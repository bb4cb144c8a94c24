"""Ctrl-C: the first ends things in order, the second at once. Either way no process of ours is left."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

EXIT_INTERRUPTED = 130


def arm() -> None:
    """From here on SIGINT and SIGTERM raise KeyboardInterrupt, once; another one kills what we started, and us."""
    signal.signal(signal.SIGINT, _end_in_order)
    signal.signal(signal.SIGTERM, _end_in_order)


def _end_in_order(*_: object) -> NoReturn:
    signal.signal(signal.SIGINT, _end_at_once)
    signal.signal(signal.SIGTERM, _end_at_once)
    raise KeyboardInterrupt


def _end_at_once(*_: object) -> NoReturn:
    """Nothing is lost by it: the ledger is on the disk, and unfinished trials come again."""
    kill_descendants()
    os._exit(EXIT_INTERRUPTED)


def kill_descendants(but: Collection[int] = ()) -> None:
    """The processes that this one started, and so on, children first; those of ``but`` are left alone."""
    for pid in reversed(descendants(os.getpid())):
        if pid not in but:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Processes that this one started, those that they started, and so on; parents first. Empty without /proc."""
    found = [pid]
    for parent in found:
        found.extend(_children(parent))
    return found[1:]


def _children(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children.extend(int(child) for child in task.read_text().split())
    return children
