"""Parquet files with an image column (encoded bytes, or Hugging Face's struct of bytes and path) and a label column."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from crossvit_core.data_source import POOL, SPLIT_SYNONYMS, Contents, DataError, Part, Source, list_files

if TYPE_CHECKING:
    import pyarrow as pa

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMN = "label"


@dataclass(frozen=True)
class _Shard:
    """One file: its image bytes as an arrow column of binary values."""

    path: Path
    images: Any
    labels: list[int] | list[str]
    class_names: tuple[str, ...] | None


class ParquetPart:
    """The rows of one or several files, in order."""

    def __init__(self, shards: Sequence[_Shard]) -> None:
        self._shards = shards
        self._ends = np.cumsum([len(shard.labels) for shard in shards])
        self.labels: list[Any] = [label for shard in shards for label in shard.labels]

    def open(self, index: int) -> Image.Image:
        shard, row = self._locate(index)
        encoded = shard.images[row].as_py()
        if encoded is None:
            raise DataError("the row holds no image bytes")
        return Image.open(io.BytesIO(encoded))

    def where(self, index: int) -> str:
        shard, row = self._locate(index)
        return f"{shard.path}, row {row}"

    def _locate(self, index: int) -> tuple[_Shard, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self._shards[number]
        return shard, index - int(self._ends[number]) + len(shard.labels)


def parquet_source(path: Path) -> Source:
    """A parquet file (one pool), or a folder of them, whose names say the split: ``train*``, ``val*``, ``test*``."""
    files = find_parquet(path)
    splits = {POOL: files} if path.is_file() else _group_by_split(path, files)
    return Source(listing=list_files(files), read=lambda: _read(splits))


def find_parquet(path: Path) -> list[Path]:
    """The parquet files that ``path`` is or holds (itself or in ``data/``, as on the Hugging Face hub)."""
    if path.is_file():
        return [path]
    return sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))


def _group_by_split(root: Path, files: list[Path]) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_split_of(file), []).append(file)
    if POOL in splits and len(splits) > 1:
        raise DataError(
            f"{splits[POOL][0]} names no split, but other files in {root} do; name all of them train*, val* or test*"
        )
    return splits


def _split_of(file: Path) -> str:
    stem = file.stem.lower()
    matches = [name for name in SPLIT_SYNONYMS if stem.startswith(name) and not stem[len(name) :][:1].isalpha()]
    return SPLIT_SYNONYMS[max(matches, key=len)] if matches else POOL


def _read(splits: dict[str, list[Path]]) -> Contents:
    parts: dict[str, Part] = {}
    named: list[_Shard] = []
    for split, files in splits.items():
        shards = [_read_shard(file) for file in files]
        parts[split] = ParquetPart(shards)
        named += [shard for shard in shards if shard.class_names]
    names = _common_names(named)
    strings = any(isinstance(label, str) for part in parts.values() for label in part.labels[:1])
    return Contents(parts, None if strings else names)


def _common_names(shards: list[_Shard]) -> tuple[str, ...] | None:
    """What the labels 0, 1, ... are called, if a file says so; files that say different things mix up classes."""
    for shard in shards:
        first = shards[0]
        if shard.class_names != first.class_names:
            raise DataError(
                f"{first.path} and {shard.path} name their labels differently: {_shortened(first.class_names)} and "
                f"{_shortened(shard.class_names)}; write them with the same names in the same order"
            )
    return shards[0].class_names if shards else None


def _shortened(names: tuple[str, ...] | None) -> str:
    return ", ".join((names or ())[:5]) + (", ..." if names and len(names) > 5 else "")


def _read_shard(file: Path) -> _Shard:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
        image = next((name for name in _IMAGE_COLUMNS if name in schema.names), None)
        if image is None or _LABEL_COLUMN not in schema.names:
            raise DataError(_describe_columns(file, schema.names, image))
        table = pq.ParquetFile(file).read(columns=[image, _LABEL_COLUMN])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a readable parquet file: {error}") from error
    images = _image_bytes(file, table.column(image))
    return _Shard(file, images, _labels(file, table.column(_LABEL_COLUMN)), _class_names(schema))


def _describe_columns(file: Path, names: Sequence[str], image: str | None) -> str:
    """What is missing, and which column may be it under another name."""
    wanted = {} if image else {"image": ("image", "img", "picture", "photo")}
    wanted |= {} if _LABEL_COLUMN in names else {_LABEL_COLUMN: ("label", "class", "target", "category")}
    hints = [
        f"; rename {name!r} to {column!r}"
        for column, words in wanted.items()
        for name in [name for name in names if any(word in name.lower() for word in words)][:1]
    ]
    return f"{file} needs the columns 'image' and 'label'; it has: {', '.join(names) or 'none'}{''.join(hints)}"


def _image_bytes(file: Path, column: pa.ChunkedArray) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise DataError(
            f"{file}: column 'image' is of type {kind}; expected encoded image bytes, or a struct with a field 'bytes'"
        )
    return column


def _labels(file: Path, column: pa.ChunkedArray) -> list[int] | list[str]:
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"{file}: column 'label' is of type {kind}; expected integers or strings")
    labels = column.to_pylist()
    if column.null_count:
        raise DataError(f"{file}, row {labels.index(None)} has no label; drop the row or label it")
    return labels


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    """Hugging Face's ClassLabel names, or a plain comma-separated ``classes`` entry, of the file's metadata."""
    metadata = schema.metadata or {}
    if b"huggingface" in metadata:
        try:
            feature = json.loads(metadata[b"huggingface"])["info"]["features"][_LABEL_COLUMN]
            return tuple(feature["names"]) if "names" in feature else None
        except (ValueError, KeyError, TypeError):
            return None
    return tuple(metadata[b"classes"].decode().split(",")) if b"classes" in metadata else None
