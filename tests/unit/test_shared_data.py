"""Workers share a dataset's pages, and cannot write into them."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from crossvit_core.data import load_dataset

_WORKER = """
import sys
from pathlib import Path
from crossvit_core.data import load_dataset

data = load_dataset(sys.argv[1], cache_dir=Path(sys.argv[2]))
int(data.images.sum())
print("read", flush=True)
sys.stdin.readline()
sizes, ours = {}, False
for line in open("/proc/self/smaps"):
    name, _, rest = line.partition(":")
    if "-" in name.split()[0]:
        ours = sys.argv[2] in line
    elif ours and name in ("Pss", "Private_Dirty"):
        sizes[name] = sizes.get(name, 0) + int(rest.split()[0])
try:
    data.images[0] = 0
except ValueError:
    print(sizes["Pss"], sizes["Private_Dirty"], flush=True)
sys.stdin.readline()
"""


def _write_images(folder: Path, count: int, side: int) -> None:
    encoded = []
    for index in range(count):
        memory = io.BytesIO()
        Image.new("RGB", (side, side), (index % 256, 7, 9)).save(memory, "png", compress_level=1)
        encoded.append({"bytes": memory.getvalue()})
    pq.write_table(pa.table({"image": encoded, "label": [index % 2 for index in range(count)]}), folder / "all.parquet")


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc/self/smaps")
def test_workers_share_the_pages_of_a_dataset(tmp_path: Path) -> None:
    """Of 30 MB each of three processes is charged a third, and none has a page of its own."""
    _write_images(tmp_path, count=640, side=128)
    cache = tmp_path / "cache"
    size_kb = load_dataset(str(tmp_path / "all.parquet"), cache_dir=cache).images.nbytes / 1024
    command = [sys.executable, "-c", _WORKER, str(tmp_path / "all.parquet"), str(cache)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    try:
        assert [worker.stdout.readline() for worker in workers] == ["read\n"] * 3
        for worker in workers:
            worker.stdin.write("\n")
            worker.stdin.flush()
            share_kb, own_kb = map(int, worker.stdout.readline().split())
            assert share_kb < 0.4 * size_kb
            assert own_kb == 0
    finally:
        for worker in workers:
            worker.communicate("\n", timeout=30)
