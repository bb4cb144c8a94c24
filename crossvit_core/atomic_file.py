"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside ``path``, flush to the disk, rename: a reader sees the old file or the whole new one.

    OSError passes through and leaves the old file. A writer that is killed leaves ``.<name>.*.tmp`` behind.
    """
    # Not tempfile's: its files are for their owner alone, and keep that mode under their new name.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
