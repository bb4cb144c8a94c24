"""What a study runs on: machine, versions, commit. Asked of the system and of package metadata; imports no torch."""

from __future__ import annotations

import glob
import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from crossvit_core.machine import count_cores, cpu_name, visible_device
from results.store import DEFAULT_RUNS_DIR

_PACKAGES = ("torch", "timm", "optuna", "ray", "numpy", "moocore", "crossvit-search")


def describe_environment() -> dict[str, Any]:
    """Machine, Python, package versions, commit and the command that was given, as JSON data."""
    return {
        "command": command_line(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": count_cores(),
        "memory_gb": round(_memory_bytes() / 1e9, 1),
        "gpus": _gpu_names(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def command_line(trials: int | None = None) -> str:
    """The command that goes on, with another budget if given: make's, if make started this; empty in a notebook."""
    words = _command_words(trials)
    cluster = os.environ.get("RAY_ADDRESS")
    where = f"RAY_ADDRESS={shlex.quote(cluster)} " if cluster and words and "--ray-address" not in words else ""
    return where + shlex.join(words)


def _command_words(trials: int | None) -> list[str]:
    from_make = os.environ.get("CROSSVIT_MAKE_COMMAND")
    if from_make:
        words = [word for word in shlex.split(from_make) if trials is None or not word.startswith("TRIALS=")]
        return [*words, *([f"TRIALS={trials}"] if trials else [])]
    if Path(sys.argv[0]).stem != "crossvit":
        return []
    arguments = sys.argv[1:]
    return [_called(), *([*_without_trials(arguments), "--trials", str(trials)] if trials else arguments)]


def _without_trials(arguments: list[str]) -> list[str]:
    if "--trials" in arguments:
        place = arguments.index("--trials")
        arguments = arguments[:place] + arguments[place + 2 :]
    return [word for word in arguments if not word.startswith("--trials=")]


def _called() -> str:
    """The command by its name where a shell finds it, else by the path that was typed: no ``.venv`` need be active."""
    found = shutil.which("crossvit")
    return "crossvit" if found and Path(found).resolve() == Path(sys.argv[0]).resolve() else sys.argv[0]


def in_runs_dir(command: str, runs_dir: Path) -> str:
    """A command of make's, for studies in that folder."""
    usual = runs_dir.absolute() == DEFAULT_RUNS_DIR.absolute()
    return command if usual else f"{command} RUNS_DIR={shlex.quote(str(runs_dir))}"


def on_moved(command: str, moved_to: str | None) -> str:
    """A command of make's that reads a study's images: where they are now, if they have moved."""
    return command if moved_to is None else f"{command} DATA={shlex.quote(moved_to)}"


def count_gpus() -> int:
    """CUDA devices that this process sees. Imports torch only where a device node says that it is worth it."""
    if not glob.glob("/dev/nvidia[0-9]*") and "torch" not in sys.modules:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def visible_gpus() -> list[str]:
    """An entry for CUDA_VISIBLE_DEVICES for each of the devices that this process sees."""
    return [visible_device(index) for index in range(count_gpus())]


def _gpu_names() -> list[str]:
    if not count_gpus():
        return []
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _commit() -> str:
    """Short commit of the checkout this code runs from, with '+' if files differ from it; empty outside one."""
    root = Path(__file__).parent.parent
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
