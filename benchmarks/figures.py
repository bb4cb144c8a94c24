"""What a benchmark measured, as a file: the command, what it ran on, what was asked for, the figures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch

from crossvit_core.device_info import describe_device


def write_figures(
    path: Path, options: argparse.Namespace, figures: Mapping[str, Any], about: Mapping[str, Any] | None = None
) -> None:
    """Write ``figures`` as JSON with all that they depend on; ``about`` adds to what is known of the machine.

    ``options`` need a ``device``; ``json``, where the file goes, is no part of what was asked.
    """
    environment = {"timm": timm.__version__, "threads": torch.get_num_threads(), **(about or {})}
    found = {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "environment": describe_device(options.device) | environment,
        "options": {name: value for name, value in vars(options).items() if name != "json"},
        **figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
