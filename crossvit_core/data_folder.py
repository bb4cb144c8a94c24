"""Folders of images in torchvision's ImageFolder layout: a subfolder per class, possibly below train/ val/ test/."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from crossvit_core.data_source import POOL, SPLIT_SYNONYMS, Contents, DataError, FewClassesError, Source, list_files

_LITTER = ("Thumbs.db", "desktop.ini")
LAYOUT = "one subfolder per class holding its images, or train/, val/ and test/ with such subfolders"


@dataclass(frozen=True)
class FolderPart:
    """Image files, sorted by class and path."""

    files: Sequence[Path]
    labels: Sequence[str]

    def open(self, index: int) -> Image.Image:
        # Closed by Pillow itself once the pixels are loaded.
        return Image.open(self.files[index])

    def where(self, index: int) -> str:
        return str(self.files[index])


def folder_source(root: Path) -> Source:
    """The images below ``root``. Raises DataError for another layout, an empty class, or a file that is no image."""
    folders = _split_folders(root)
    if folders == {POOL: root}:
        _refuse_one_too_high(root)
    parts = {split: _read_part(folder) for split, folder in folders.items()}
    files = [file for part in parts.values() for file in part.files]
    return Source(listing=list_files(files), read=lambda: Contents(parts))


def _split_folders(root: Path) -> dict[str, Path]:
    folders = _subfolders(root)
    given = {folder.name.lower(): folder for folder in folders if folder.name.lower() in SPLIT_SYNONYMS}
    if "train" not in (SPLIT_SYNONYMS[name] for name in given) and len(given) < max(1, len(folders)):
        return {POOL: root}  # a class may well be called "test"
    if not given:
        return {POOL: root}
    others = [folder.name for folder in folders if folder.name.lower() not in given]
    if others:
        raise DataError(
            f"{root} holds {', '.join(sorted(f.name for f in given.values()))} beside {', '.join(others[:5])}; "
            "use train, val and test alone, or class folders alone"
        )
    return _one_folder_per_split(root, given)


def _one_folder_per_split(root: Path, given: dict[str, Path]) -> dict[str, Path]:
    splits: dict[str, Path] = {}
    for name, folder in given.items():
        split = SPLIT_SYNONYMS[name]
        if split in splits:
            raise DataError(f"{root} holds both {splits[split].name} and {folder.name}; keep one of them")
        splits[split] = folder
    return splits


def _refuse_one_too_high(root: Path) -> None:
    """Raise FewClassesError for a folder that holds nothing but the dataset's own, possibly further down.

    Before anything is read: what lies beside the class folders would else be taken for broken images of a class.
    """
    folder, inside = root, _subfolders(root)
    while len(inside) == 1 and os.access(inside[0], os.R_OK | os.X_OK):
        folder, inside = inside[0], _subfolders(inside[0])
    if folder == root or _loose_images(folder):
        return
    holding = sum(any(_is_image_name(path) for path in _files_below(each)) for each in inside)
    if holding > 1:
        hint = f"did you mean {folder}, which holds {holding} folders of images?"
        raise FewClassesError([_subfolders(root)[0].name], hint)


def _read_part(folder: Path) -> FolderPart:
    _refuse_loose_images(folder)
    files: list[Path] = []
    labels: list[str] = []
    for class_folder in _subfolders(folder):
        found = list(_images_below(class_folder))
        if not found:
            raise DataError(f"class folder {class_folder} holds no image; remove it or fill it")
        files += found
        labels += [class_folder.name] * len(found)
    if not files:
        raise DataError(f"no images in {folder}; expected {LAYOUT}")
    return FolderPart(files, labels)


def _refuse_loose_images(folder: Path) -> None:
    loose = _loose_images(folder)
    if loose:
        raise DataError(f"{folder} holds {loose[0]!r} ({len(loose)} in all) outside class folders; expected {LAYOUT}")


def _loose_images(folder: Path) -> list[str]:
    return [entry.name for entry in sorted(folder.iterdir()) if entry.is_file() and _is_image_name(entry)]


def _images_below(folder: Path) -> Iterator[Path]:
    for path in _files_below(folder):
        if not _is_image_name(path):
            raise DataError(f"{path} is not an image by its name; move it out of the class folders")
        yield path


def _files_below(folder: Path) -> Iterator[Path]:
    """In a fixed order, but for what systems leave behind."""
    for current, subfolders, names in os.walk(folder, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or name in _LITTER:
                continue
            yield Path(current, name)


def _is_image_name(path: Path) -> bool:
    extensions = Image.registered_extensions()
    return extensions.get(path.suffix.lower()) in Image.OPEN and not path.name.startswith(".")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
