"""Datasets from real files: what is read, how it is split, what is refused, what the cache keeps."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from crossvit_core.data import DataError, ImageData, load_dataset, open_cached


def draw(seed: int, size: tuple[int, int] = (8, 8), channels: int = 3) -> np.ndarray:
    """A reproducible image, uint8 (H, W) or (H, W, 3)."""
    shape = size if channels == 1 else (*size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


HAS_AVIF = "avif" in features.get_supported_modules()


def write_classes(
    root: Path,
    names: tuple[str, ...] = ("cat", "dog"),
    count: int = 10,
    suffix: str = "png",
    first: int = 0,
    size: tuple[int, int] = (8, 8),
    channels: int = 3,
) -> Path:
    for number, name in enumerate(names):
        folder = root / name
        folder.mkdir(parents=True)
        for index in range(count):
            pixels = draw(first + 1000 * number + index, size, channels)
            Image.fromarray(pixels).save(folder / f"{index:03}.{suffix}")
    return root


def read_folder(root: Path) -> tuple[np.ndarray, list[str]]:
    files = sorted(root.rglob("*.png"))
    return np.stack([np.asarray(Image.open(file)) for file in files]), [file.parent.name for file in files]


class TestDigits:
    def test_are_scikit_learns_images_scaled_to_bytes(self) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        data = load_dataset("digits")
        assert data.images.shape == (1797, 8, 8, 1)
        assert data.images.dtype == np.uint8
        np.testing.assert_array_equal(data.images[..., 0], np.rint(digits.images / 16 * 255))
        np.testing.assert_array_equal(data.labels, digits.target)
        assert data.class_names == tuple("0123456789")

    def test_enlarged_bicubically(self) -> None:
        small, large = load_dataset("digits"), load_dataset("digits", image_size=(16, 16))
        expected = Image.fromarray(small.images[5, ..., 0]).resize((16, 16), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(large.images[5, ..., 0], np.asarray(expected))

    def test_in_colour_when_asked(self) -> None:
        data = load_dataset("digits", in_channels=3)
        assert data.in_channels == 3
        np.testing.assert_array_equal(data.images, np.repeat(load_dataset("digits").images, 3, axis=3))

    def test_mean_and_std_are_those_of_the_training_split(self) -> None:
        data = load_dataset("digits")
        train = data.images[data.splits["train"]] / 255
        assert data.mean == pytest.approx(train.mean(axis=(0, 1, 2)), abs=1e-12)
        assert data.std == pytest.approx(train.std(axis=(0, 1, 2)), abs=1e-12)

    def test_arrays_cannot_be_written(self) -> None:
        data = load_dataset("digits")
        with pytest.raises(ValueError, match="read-only"):
            data.images[0] = 0

    def test_describes_itself_in_json_values(self) -> None:
        import json

        about = load_dataset("digits").describe()
        assert json.loads(json.dumps(about)) == about
        assert about["splits"] == {"train": 1259, "val": 269, "test": 269}


class TestSplits:
    def test_cover_everything_once_with_classes_in_proportion(self) -> None:
        data = load_dataset("digits")
        together = np.concatenate(list(data.splits.values()))
        np.testing.assert_array_equal(np.sort(together), np.arange(1797))
        for split, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            counts = np.bincount(data.labels[data.splits[split]], minlength=10) / np.bincount(data.labels)
            np.testing.assert_allclose(counts, share, atol=0.01)

    def test_same_seed_same_splits_another_seed_others(self) -> None:
        first, again, other = (load_dataset("digits", seed=seed) for seed in (3, 3, 4))
        assert first.fingerprint == again.fingerprint != other.fingerprint
        np.testing.assert_array_equal(first.splits["test"], again.splits["test"])
        assert not np.array_equal(first.splits["test"], other.splits["test"])

    def test_do_not_depend_on_the_size_decoded_to(self) -> None:
        small, large = load_dataset("digits"), load_dataset("digits", image_size=(12, 16))
        np.testing.assert_array_equal(small.splits["test"], large.splits["test"])
        assert small.fingerprint != large.fingerprint

    def test_given_test_is_kept_and_validation_drawn_from_training(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "train", count=20)
        write_classes(tmp_path / "test", count=5, first=500)
        data = load_dataset(str(tmp_path))
        assert {split: len(indices) for split, indices in data.splits.items()} == {"train": 36, "val": 4, "test": 10}
        expected, _ = read_folder(tmp_path / "test")
        np.testing.assert_array_equal(data.images[data.splits["test"]], expected)

    def test_given_validation_is_kept_and_test_drawn_from_training(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "train", count=20)
        write_classes(tmp_path / "validation", count=5, first=500)
        data = load_dataset(str(tmp_path))
        expected, _ = read_folder(tmp_path / "validation")
        np.testing.assert_array_equal(data.images[data.splits["val"]], expected)
        assert len(data.splits["test"]) == 4

    def test_all_three_given(self, tmp_path: Path) -> None:
        for first, split in enumerate(("train", "val", "test")):
            write_classes(tmp_path / split, count=3, first=100 * first)
        data = load_dataset(str(tmp_path))
        for split in ("train", "val", "test"):
            expected, names = read_folder(tmp_path / split)
            np.testing.assert_array_equal(data.images[data.splits[split]], expected)
            assert [data.class_names[label] for label in data.labels[data.splits[split]]] == names

    def test_limit_keeps_classes_in_proportion(self) -> None:
        data = load_dataset("digits", limit=200)
        assert len(data.labels) == 200
        counts = np.bincount(data.labels, minlength=10)
        assert counts.min() >= 18
        assert counts.max() <= 22

    def test_limit_keeps_a_rare_class(self, tmp_path: Path) -> None:
        write_classes(tmp_path, ("common",), count=60)
        write_classes(tmp_path, ("rare",), count=3, first=700)
        data = load_dataset(str(tmp_path), limit=12)
        assert all(1 in data.labels[indices] for indices in data.splits.values())

    def test_limit_empties_no_split_that_is_given(self, tmp_path: Path) -> None:
        """A validation split of one fiftieth would be drawn from the training images if none of it were left."""
        for number, (split, count) in enumerate((("train", 100), ("val", 2), ("test", 2))):
            write_classes(tmp_path / split, ("a", "b"), count=count, first=1000 * number)
        data = load_dataset(str(tmp_path), limit=20)
        for split in ("val", "test"):
            given, _ = read_folder(tmp_path / split)
            kept = {image.tobytes() for image in data.images[data.splits[split]]}
            assert kept <= {image.tobytes() for image in given}
            assert set(data.labels[data.splits[split]].tolist()) == {0, 1}


class TestFolder:
    def test_reads_classes_in_order_of_name(self, tmp_path: Path) -> None:
        write_classes(tmp_path, ("b", "a", "test"))
        data = load_dataset(str(tmp_path))
        expected, names = read_folder(tmp_path)
        assert data.class_names == ("a", "b", "test")
        np.testing.assert_array_equal(data.images, expected)
        assert [data.class_names[label] for label in data.labels] == names

    def test_same_content_elsewhere_has_the_same_fingerprint(self, tmp_path: Path) -> None:
        first, copy = write_classes(tmp_path / "one"), write_classes(tmp_path / "two")
        changed = write_classes(tmp_path / "three")
        pixels = draw(0)
        pixels[0, 0, 0] ^= 1
        Image.fromarray(pixels).save(changed / "cat" / "000.png")
        prints = [load_dataset(str(root)).fingerprint for root in (first, copy, changed)]
        assert prints[0] == prints[1] != prints[2]

    def test_jpeg_is_decoded_as_pillow_does(self, tmp_path: Path) -> None:
        write_classes(tmp_path, suffix="jpg", size=(16, 16))
        data = load_dataset(str(tmp_path))
        with Image.open(tmp_path / "cat" / "000.jpg") as image:
            np.testing.assert_array_equal(data.images[0], np.asarray(image))

    def test_non_square_images_are_resized_and_cropped_to_the_centre(self, tmp_path: Path) -> None:
        write_classes(tmp_path, size=(8, 20))
        data = load_dataset(str(tmp_path), image_size=(8, 12))
        np.testing.assert_array_equal(data.images[0], draw(0, (8, 20))[:, 4:16])
        assert load_dataset(str(tmp_path)).image_size == (8, 20)

    def test_channels_are_the_majoritys(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "gray", channels=1)
        assert load_dataset(str(tmp_path / "gray")).in_channels == 1
        Image.fromarray(draw(1)).save(tmp_path / "gray" / "cat" / "colour.png")
        data = load_dataset(str(tmp_path / "gray"))
        assert data.in_channels == 1
        expected = Image.fromarray(draw(1)).convert("L")
        np.testing.assert_array_equal(data.images[10, ..., 0], np.asarray(expected))

    def test_sixteen_bits_are_scaled_to_eight(self, tmp_path: Path) -> None:
        write_classes(tmp_path, channels=1)
        wide = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
        Image.fromarray(wide).save(tmp_path / "cat" / "000.png")
        np.testing.assert_array_equal(load_dataset(str(tmp_path)).images[0, ..., 0], wide >> 8)

    def test_sixteen_bits_that_hold_twelve_are_told(self, tmp_path: Path) -> None:
        """As cameras and microscopes write them; shifted to eight bits they would be black."""
        write_classes(tmp_path, channels=1)
        for path in tmp_path.rglob("*.png"):
            Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) * 16).save(path)
        with pytest.raises(DataError, match=r"of all 20 images of 16 bits is \d+ of 65535: they would be black"):
            load_dataset(str(tmp_path))

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    def test_what_is_transparent_is_white(self, mode: str, tmp_path: Path) -> None:
        write_classes(tmp_path)
        opacity = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
        picture = Image.fromarray(draw(3)).convert("RGBA")
        picture.putalpha(Image.fromarray(opacity))
        options: dict[str, Any] = {}
        if mode == "P":
            picture = Image.fromarray(draw(3)).quantize(16)
            options = {"transparency": bytes(range(0, 256, 16))}
            opacity = 16 * np.asarray(picture)
        elif mode == "LA":
            picture = picture.convert("LA")
        picture.save(tmp_path / "cat" / "000.png", **options)
        colours = np.asarray(picture.convert("RGB")).astype(float)
        share = opacity[..., None] / 255
        found = load_dataset(str(tmp_path), in_channels=3).images[0]
        np.testing.assert_allclose(found, colours * share + 255 * (1 - share), atol=1.01)

    def test_a_transparent_value_of_16_bits_is_white(self, tmp_path: Path) -> None:
        write_classes(tmp_path, channels=1)
        values = np.full((8, 8), 20_000, np.uint16)
        values[0] = 40_000
        Image.fromarray(values).save(tmp_path / "cat" / "000.png", transparency=40_000)
        found = load_dataset(str(tmp_path), in_channels=1).images[0, :, :, 0]
        assert (found[0] == 255).all()
        assert (found[1:] == 20_000 >> 8).all()

    @pytest.mark.parametrize(
        "suffix",
        ["jpg", "webp", pytest.param("avif", marks=pytest.mark.skipif(not HAS_AVIF, reason="Pillow without AVIF"))],
    )
    def test_a_photograph_is_turned_as_its_camera_says(self, suffix: str, tmp_path: Path) -> None:
        write_classes(tmp_path, suffix=suffix, size=(16, 8))
        for path in tmp_path.rglob(f"*.{suffix}"):
            picture = Image.open(path)
            exif = picture.getexif()
            exif[0x0112] = 6  # to be turned by a quarter clockwise
            picture.save(path, exif=exif, quality=95)
        first = sorted((tmp_path / "cat").iterdir())[0]
        data = load_dataset(str(tmp_path))
        assert data.image_size == (8, 16)
        expected = np.rot90(np.asarray(Image.open(first).convert("RGB")), -1)
        np.testing.assert_array_equal(data.images[0], expected)

    def test_hidden_files_do_not_count(self, tmp_path: Path) -> None:
        write_classes(tmp_path)
        (tmp_path / "cat" / ".DS_Store").write_bytes(b"x")
        (tmp_path / ".cache").mkdir()
        assert len(load_dataset(str(tmp_path)).labels) == 20


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"in_channels": 2}, "in_channels 2 .* use 1 .* or 3"),
            ({"image_size": (0, 8)}, "not positive"),
            ({"image_size": "8"}, "not a size"),
            ({"seed": -1}, "seed -1"),
            ({"limit": 0}, "limit 0"),
            ({"limit": 12}, "needs at least 3"),
        ],
    )
    def test_options(self, options: dict, message: str) -> None:
        with pytest.raises(DataError, match=message):
            load_dataset("digits", **options)

    def test_unknown_name_suggests_the_nearest(self) -> None:
        with pytest.raises(DataError, match=r"no dataset 'digit'; did you mean 'digits'.*parquet"):
            load_dataset("digit")

    def test_missing_folder_suggests_its_sibling(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "pets")
        with pytest.raises(DataError, match=r"did you mean '.*pets'"):
            load_dataset(str(tmp_path / "pet"))

    def test_a_folder_like_none_beside_it_suggests_none(self, tmp_path: Path) -> None:
        for name in ("A", "models", "nodes"):
            write_classes(tmp_path / name)
        with pytest.raises(DataError, match=r"no dataset '.*/nope'; known: digits\. A dataset is"):
            load_dataset(str(tmp_path / "nope"))

    def test_only_the_sibling_that_is_near_is_named(self, tmp_path: Path) -> None:
        for name in ("models", "images", "other"):
            write_classes(tmp_path / name)
        near = str(tmp_path / "images")
        with pytest.raises(DataError) as refusal:
            load_dataset(str(tmp_path / "imagse"))
        assert f"did you mean {near!r}? known: {', '.join(sorted([near, 'digits']))}. A dataset" in str(refusal.value)

    def test_file_of_another_kind(self, tmp_path: Path) -> None:
        file = tmp_path / "data.csv"
        file.write_text("1,2")
        with pytest.raises(DataError, match=r"data\.csv is a file but not a \.parquet"):
            load_dataset(str(file))

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no images in .*one subfolder per class"):
            load_dataset(str(tmp_path))

    def test_empty_class(self, tmp_path: Path) -> None:
        (write_classes(tmp_path) / "bird").mkdir()
        with pytest.raises(DataError, match="bird holds no image"):
            load_dataset(str(tmp_path))

    def test_one_class(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="only class is cat"):
            load_dataset(str(write_classes(tmp_path, ("cat",))))

    @pytest.mark.parametrize("above", ["", "downloads", "downloads/unpacked"])
    @pytest.mark.parametrize("beside", [(), ("README.txt",), ("README.txt", "../cover.png")])
    def test_a_folder_that_is_too_high_is_answered_with_the_one_that_is_meant(
        self, above: str, beside: tuple[str, ...], tmp_path: Path
    ) -> None:
        shapes = write_classes(tmp_path / above / "shapes", ("disc", "ring", "square"), count=3)
        for name in beside:
            (shapes / name).write_text("x")
        with pytest.raises(DataError) as refusal:
            load_dataset(str(tmp_path))
        assert str(refusal.value) == (
            f"the only class is {(Path(above) / 'shapes').parts[0]}; a classifier needs at least two; "
            f"did you mean {shapes}, which holds 3 folders of images?"
        )

    def test_a_folder_above_splits_is_answered_with_the_one_that_is_meant(self, tmp_path: Path) -> None:
        for split in ("train", "test"):
            write_classes(tmp_path / "pets" / split, count=3)
        with pytest.raises(DataError, match=r"did you mean .*/pets, which holds 2 folders of images\?"):
            load_dataset(str(tmp_path))

    def test_nothing_is_meant_where_no_folder_below_would_do(self, tmp_path: Path) -> None:
        one = write_classes(tmp_path, ("cat",))
        (one / "cat" / "more").mkdir()
        Image.fromarray(draw(1)).save(one / "cat" / "more" / "1.png")
        with pytest.raises(DataError, match=r"only class is cat; a classifier needs at least two$"):
            load_dataset(str(tmp_path))

    def test_images_outside_class_folders(self, tmp_path: Path) -> None:
        write_classes(tmp_path)
        Image.fromarray(draw(0)).save(tmp_path / "loose.png")
        with pytest.raises(DataError, match=r"'loose\.png' \(1 in all\) outside class folders"):
            load_dataset(str(tmp_path))

    def test_file_that_is_no_image(self, tmp_path: Path) -> None:
        write_classes(tmp_path)
        (tmp_path / "dog" / "notes.txt").write_text("x")
        with pytest.raises(DataError, match=r"notes\.txt is not an image"):
            load_dataset(str(tmp_path))

    @pytest.mark.parametrize("keep", [0, 40, 150])
    @pytest.mark.parametrize("options", [{}, {"image_size": (8, 8), "in_channels": 3}])
    def test_broken_image_is_named(self, tmp_path: Path, keep: int, options: dict) -> None:
        victim = write_classes(tmp_path) / "dog" / "004.png"
        victim.write_bytes(victim.read_bytes()[:keep])
        with pytest.raises(DataError, match=r"dog/004\.png is not a readable image"):
            load_dataset(str(tmp_path), **options)

    @pytest.mark.parametrize("options", [{}, {"image_size": (8, 8), "in_channels": 3}])
    def test_all_broken_images_are_named_at_once(self, tmp_path: Path, options: dict) -> None:
        for victim in sorted(write_classes(tmp_path).glob("*/*.png"))[:12]:
            victim.write_bytes(b"")
        with pytest.raises(DataError) as refusal:
            load_dataset(str(tmp_path), **options)
        first, *named, last = str(refusal.value).splitlines()
        assert first == "12 images cannot be read; mend or remove them:"
        assert last == "  and 2 more"
        assert len(named) == 10
        assert "is not a readable image" in named[9]

    def test_mixed_sizes_ask_for_one(self, tmp_path: Path) -> None:
        write_classes(tmp_path, ("cat",))
        write_classes(tmp_path, ("dog",), size=(9, 8), count=5)
        with pytest.raises(DataError, match=r"8x8 \(10\), 9x8 \(5\); give an image_size"):
            load_dataset(str(tmp_path))
        assert load_dataset(str(tmp_path), image_size=(8, 8)).image_size == (8, 8)

    def test_too_few_images_of_a_class(self, tmp_path: Path) -> None:
        write_classes(tmp_path, ("cat",))
        write_classes(tmp_path, ("dog",), count=2)
        with pytest.raises(DataError, match=r"'dog' has 2 images to divide among train, val, test; .* at least 3"):
            load_dataset(str(tmp_path))

    @pytest.mark.parametrize(("lacking", "kind"), [("train", "training"), ("val", "validation")])
    def test_class_missing_from_a_given_split(self, tmp_path: Path, lacking: str, kind: str) -> None:
        for split in ("train", "val", "test"):
            names = ("cat", "dog") if split == lacking else ("bird", "cat", "dog")
            write_classes(tmp_path / split, names, count=3)
        with pytest.raises(DataError, match=f"no {kind} image of class 'bird'"):
            load_dataset(str(tmp_path))

    def test_no_training_split(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "val")
        write_classes(tmp_path / "test")
        with pytest.raises(DataError, match="no training images"):
            load_dataset(str(tmp_path))

    def test_class_folders_beside_splits(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "train")
        write_classes(tmp_path, ("bird",))
        with pytest.raises(DataError, match="holds train beside bird"):
            load_dataset(str(tmp_path))

    def test_one_split_twice(self, tmp_path: Path) -> None:
        for split in ("train", "val", "validation"):
            write_classes(tmp_path / split)
        with pytest.raises(DataError, match="both val and validation"):
            load_dataset(str(tmp_path))


class TestCache:
    def test_holds_the_same_data(self, tmp_path: Path) -> None:
        plain = load_dataset("digits", image_size=(10, 10))
        for _ in range(2):
            cached = load_dataset("digits", image_size=(10, 10), cache_dir=tmp_path)
            assert_same(plain, cached)
            assert isinstance(cached.images, np.memmap)

    def test_is_not_decoded_again(self, tmp_path: Path) -> None:
        root = write_classes(tmp_path / "pets")
        first = load_dataset(str(root), cache_dir=tmp_path / "cache")
        assert first.cache_path is not None
        written = (first.cache_path / "images.npy").stat().st_ino
        assert load_dataset(str(root), cache_dir=tmp_path / "cache").cache_path == first.cache_path
        assert (first.cache_path / "images.npy").stat().st_ino == written

    def test_changes_with_files_and_options(self, tmp_path: Path) -> None:
        root, cache = write_classes(tmp_path / "pets"), tmp_path / "cache"
        before = load_dataset(str(root), cache_dir=cache)
        Image.fromarray(draw(9)).save(root / "cat" / "000.png")
        after = load_dataset(str(root), cache_dir=cache)
        larger = load_dataset(str(root), cache_dir=cache, image_size=(9, 9))
        assert len({before.cache_path, after.cache_path, larger.cache_path}) == 3
        np.testing.assert_array_equal(after.images[0], draw(9))

    @pytest.mark.parametrize("name", ["images.npy", "labels.npy", "train.npy", "meta.json"])
    @pytest.mark.parametrize("damage", ["removed", "truncated", "altered"])
    def test_damaged_is_rebuilt(self, tmp_path: Path, name: str, damage: str) -> None:
        good = load_dataset("digits")
        path = load_dataset("digits", cache_dir=tmp_path).cache_path
        assert path is not None
        content = (path / name).read_bytes()
        if damage == "removed":
            (path / name).unlink()
        elif damage == "truncated":
            (path / name).write_bytes(content[: len(content) // 2])
        else:
            (path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert_same(load_dataset("digits", cache_dir=tmp_path), good)
        assert (path / name).read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]

    def test_failed_build_leaves_nothing(self, tmp_path: Path) -> None:
        root = write_classes(tmp_path / "pets")
        (root / "dog" / "009.png").write_bytes(b"no image")
        with pytest.raises(DataError):
            load_dataset(str(root), cache_dir=tmp_path / "cache", image_size=(8, 8), in_channels=3)
        assert list((tmp_path / "cache").iterdir()) == []

    def test_travels_to_workers_as_a_path(self, tmp_path: Path) -> None:
        data = load_dataset("digits", cache_dir=tmp_path)
        packed = pickle.dumps(data)
        assert len(packed) < 1000
        assert_same(pickle.loads(packed), data)
        plain = load_dataset("digits")
        assert_same(pickle.loads(pickle.dumps(plain)), plain)

    def test_another_process_opens_it_without_torch(self, tmp_path: Path) -> None:
        data = load_dataset("digits", cache_dir=tmp_path)
        code = (
            "import sys; from pathlib import Path; from crossvit_core.data import open_cached;"
            "data = open_cached(Path(sys.argv[1])); heavy = {'torch', 'timm', 'sklearn', 'ray'} & set(sys.modules);"
            "print(data.fingerprint, int(data.images.sum()), heavy)"
        )
        run = subprocess.run([sys.executable, "-c", code, str(data.cache_path)], capture_output=True, text=True)
        assert run.stdout.split(maxsplit=2) == [data.fingerprint, str(int(data.images.sum())), "set()\n"], run.stderr

    def test_absent_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no usable cached dataset"):
            open_cached(tmp_path / "nothing")


def assert_same(first: ImageData, second: ImageData) -> None:
    assert first.describe() == second.describe()
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.labels, second.labels)
    for split in first.splits:
        np.testing.assert_array_equal(first.splits[split], second.splits[split])
