"""A part of CIFAR-10 for machines without a GPU: as many images of each class for training, and for validation.

    python benchmarks/cifar_study/subset.py path/to/cifar10 path/to/write --train 4000 --val 2000

Takes the first images of each class in the file's order, so that the same figures give the same images anywhere. The
test images are all kept: only the final opening of a study looks at them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder with train*.parquet and test*.parquet")
    parser.add_argument("target", type=Path)
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--val", type=int, default=2000)
    options = parser.parse_args()
    try:
        write_subset(options.source, options.target, options.train, options.val)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write_subset(source: Path, target: Path, train: int, val: int) -> None:
    """Writes train, val and test as parquet into ``target``. Raises ValueError for sizes that cannot be."""
    whole, test = read_split(source, "train"), read_split(source, "test")
    of_class = rows_of_classes(whole)
    per_train, per_val = share(train, len(of_class), "--train"), share(val, len(of_class), "--val")
    fewest = min(map(len, of_class))
    if per_train + per_val > fewest:
        raise ValueError(f"--train {train} and --val {val} ask {per_train + per_val} images of a class; {fewest} exist")
    chosen = {
        "train": [row for rows in of_class for row in rows[:per_train]],
        "val": [row for rows in of_class for row in rows[per_train : per_train + per_val]],
    }
    target.mkdir(parents=True, exist_ok=True)
    for name, rows in chosen.items():
        pq.write_table(whole.take(sorted(rows)), target / f"{name}.parquet")
    pq.write_table(test, target / "test.parquet")
    print(f"{target}: {train} training, {val} validation, {test.num_rows} test images")


def read_split(folder: Path, split: str) -> pa.Table:
    files = sorted(folder.glob(f"{split}*.parquet"))
    if not files:
        raise ValueError(f"no {split}*.parquet in {folder}")
    return pa.concat_tables([pq.read_table(file) for file in files])


def rows_of_classes(table: pa.Table) -> list[list[int]]:
    """The rows of every class, in the file's order."""
    rows: dict[int, list[int]] = {}
    for row, label in enumerate(table["label"].to_pylist()):
        rows.setdefault(label, []).append(row)
    return [rows[label] for label in sorted(rows)]


def share(images: int, classes: int, option: str) -> int:
    each, rest = divmod(images, classes)
    if rest or each < 1:
        raise ValueError(f"{option} {images} is no multiple of {classes} classes; use {max(each, 1) * classes}")
    return each


if __name__ == "__main__":
    sys.exit(main())
