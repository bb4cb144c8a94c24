"""Parquet files and timm's readers."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from crossvit_core.data import DataError, load_dataset


def draw(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def encode(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(
    file: Path,
    labels: Any,
    first: int = 0,
    *,
    as_struct: bool = False,
    metadata: dict[str, str] | None = None,
    images: Any = None,
    column: str = "image",
) -> Path:
    images = [encode(draw(first + index)) for index in range(len(labels))] if images is None else images
    if as_struct:
        images = pa.array([{"bytes": image, "path": "x.png"} for image in images])
    table = pa.table({column: images, "label": labels, "extra": [0.5] * len(labels)})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), file, row_group_size=7)
    return file


@pytest.mark.parametrize("as_struct", [False, True])
@pytest.mark.parametrize("column", ["image", "img"])
def test_one_file_is_one_pool(tmp_path: Path, as_struct: bool, column: str) -> None:
    labels = [index % 3 for index in range(30)]
    data = load_dataset(str(write_parquet(tmp_path / "a.parquet", labels, as_struct=as_struct, column=column)))
    np.testing.assert_array_equal(data.images, np.stack([draw(index) for index in range(30)]))
    assert data.labels.tolist() == labels
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 18, "val": 6, "test": 6}


@pytest.mark.parametrize("folder", ["", "data"])
def test_folder_of_shards_with_splits(tmp_path: Path, folder: str) -> None:
    names = ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test-00000-of-00001")
    for number, name in enumerate(names):
        write_parquet(tmp_path / folder / f"{name}.parquet", [index % 2 for index in range(10)], first=100 * number)
    data = load_dataset(str(tmp_path))
    for split, firsts in (("train", (0, 100)), ("val", (200,)), ("test", (300,))):
        expected = np.stack([draw(first + index) for first in firsts for index in range(10)])
        np.testing.assert_array_equal(data.images[data.splits[split]], expected)


def test_strings_and_categories_are_classes(tmp_path: Path) -> None:
    labels = ["pear", "apple"] * 10
    plain = load_dataset(str(write_parquet(tmp_path / "plain.parquet", labels)))
    coded = load_dataset(str(write_parquet(tmp_path / "coded.parquet", pa.array(labels).dictionary_encode())))
    assert plain.class_names == coded.class_names == ("apple", "pear")
    assert plain.labels.tolist() == coded.labels.tolist() == [1, 0] * 10
    assert plain.fingerprint == coded.fingerprint


def test_integers_need_not_be_consecutive(tmp_path: Path) -> None:
    data = load_dataset(str(write_parquet(tmp_path / "a.parquet", [20, 3] * 10)))
    assert data.class_names == ("3", "20")
    assert data.labels.tolist() == [1, 0] * 10


@pytest.mark.parametrize(
    "metadata",
    [
        {
            "huggingface": json.dumps(
                {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
            )
        },
        {"classes": "cat,dog"},
    ],
)
def test_class_names_of_the_metadata(tmp_path: Path, metadata: dict[str, str]) -> None:
    file = write_parquet(tmp_path / "a.parquet", [0, 1] * 10, metadata=metadata)
    assert load_dataset(str(file)).class_names == ("cat", "dog")


def test_files_that_name_their_labels_differently_are_refused(tmp_path: Path) -> None:
    """A label 0 that is a cat in one file and a dog in the other would be trained on one and scored on the other."""
    for split, classes in (("train", "cat,dog"), ("val", "dog,cat")):
        write_parquet(tmp_path / f"{split}.parquet", [0, 1] * 10, metadata={"classes": classes})
    with pytest.raises(DataError, match=r"name their labels differently: (cat, dog|dog, cat) and (cat, dog|dog, cat);"):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize("splits", [("",), ("train", "test")])
def test_same_content_has_one_fingerprint_in_any_container(tmp_path: Path, splits: tuple[str, ...]) -> None:
    labels = ["a"] * 10 + ["b"] * 10
    for number, split in enumerate(splits):
        write_parquet(tmp_path / "rows" / f"{split or 'all'}.parquet", labels, first=100 * number)
        for index, label in enumerate(labels):
            (tmp_path / "folder" / split / label).mkdir(parents=True, exist_ok=True)
            pixels = draw(100 * number + index)
            Image.fromarray(pixels).save(tmp_path / "folder" / split / label / f"{index:03}.png")
    rows, folder = (load_dataset(str(tmp_path / name)) for name in ("rows", "folder"))
    assert rows.fingerprint == folder.fingerprint
    assert rows.labels[rows.splits["train"]].tolist() == folder.labels[folder.splits["train"]].tolist()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1.5] * 10, "'label' is of type double; expected integers or strings"),
        ([0, None] * 10, "row 1 has no label"),
        ([7] * 20, "only class is 7"),
    ],
)
def test_bad_labels(tmp_path: Path, labels: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(str(write_parquet(tmp_path / "a.parquet", labels)))


def test_label_outside_the_declared_classes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1] * 10, metadata={"classes": "cat,dog"})
    write_parquet(tmp_path / "test.parquet", [0, -1] * 3, first=50, metadata={"classes": "cat,dog"})
    with pytest.raises(DataError, match=r"test\.parquet, row 1: label -1 is not one of 0\.\.1"):
        load_dataset(str(tmp_path))


def test_labels_of_two_kinds(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1] * 10)
    write_parquet(tmp_path / "test.parquet", ["0", "1"] * 10, first=50)
    with pytest.raises(DataError, match="integers in some files and strings in others"):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize("broken", [b"not an image", None])
def test_broken_image_is_named_by_file_and_row(tmp_path: Path, broken: bytes | None) -> None:
    write_parquet(tmp_path / "train-0.parquet", [0, 1] * 5)
    images = [encode(draw(50 + index)) for index in range(10)]
    images[8] = broken  # type: ignore[call-overload]
    write_parquet(tmp_path / "train-1.parquet", [0, 1] * 5, images=images)
    with pytest.raises(DataError, match=r"train-1\.parquet, row 8 is not a readable image"):
        load_dataset(str(tmp_path))


def test_images_that_are_not_bytes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'image' is of type string; expected encoded image bytes"):
        load_dataset(str(write_parquet(tmp_path / "a.parquet", [0, 1], images=["x", "y"])))


def test_missing_column_lists_those_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs the columns 'image' and 'label'; it has: picture, label, extra"):
        load_dataset(str(write_parquet(tmp_path / "a.parquet", [0, 1], column="picture")))
    with pytest.raises(DataError, match=r"; rename 'picture' to 'image'$"):
        load_dataset(str(tmp_path))


def test_not_parquet_inside(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=r"a\.parquet is not a readable parquet file"):
        load_dataset(str(tmp_path))


def test_unnamed_shard_beside_splits(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1] * 5)
    write_parquet(tmp_path / "more.parquet", [0, 1] * 5)
    with pytest.raises(DataError, match=r"more\.parquet names no split"):
        load_dataset(str(tmp_path))


def write_idx(file: Path, array: np.ndarray) -> None:
    """An array in MNIST's own format."""
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    file.write_bytes(header + array.astype(np.uint8).tobytes())


def test_torch_reads_local_files(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    train = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    write_idx(raw / "train-images-idx3-ubyte", train)
    write_idx(raw / "train-labels-idx1-ubyte", np.arange(40) % 10)
    write_idx(raw / "t10k-images-idx3-ubyte", train[:10][::-1])
    write_idx(raw / "t10k-labels-idx1-ubyte", np.arange(10))
    data = load_dataset(f"torch/fashion_mnist@{tmp_path}", cache_dir=tmp_path / "cache")
    assert data.images.shape == (50, 28, 28, 1)
    assert data.class_names[9] == "Ankle boot"
    np.testing.assert_array_equal(data.images[data.splits["test"], ..., 0], train[:10][::-1])
    assert len(data.splits["val"]) == 10


def test_torch_without_files_says_where_to_put_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"torch/mnist, split 'train', could not be read from .*Nothing is downloaded"):
        load_dataset(f"torch/mnist@{tmp_path}")


def test_torch_suggests_the_nearest_name() -> None:
    with pytest.raises(DataError, match=r"torch/cifar11 .* did you mean 'cifar10'"):
        load_dataset("torch/cifar11")


def test_hub_without_files_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="hfds/nobody/nothing, split 'train', could not be read"):
        load_dataset(f"hfds/nobody/nothing@{tmp_path}")
