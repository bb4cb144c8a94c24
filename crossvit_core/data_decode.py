"""Encoded images to one uint8 array: (N, H, W, C)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from crossvit_core.config import Size
from crossvit_core.data_source import DataError, Part

_GRAY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
_T = TypeVar("_T")

Selection = Sequence[tuple[Part, np.ndarray]]


def plan(selection: Selection, image_size: Size | None, in_channels: int | None) -> tuple[Size, int]:
    """The (height, width) and channels to decode to: as asked, else the common size and the more frequent kind.

    Reads headers only. Raises DataError for images of several sizes when none is asked for.
    """
    if image_size is not None and in_channels is not None:
        return image_size, in_channels
    sizes: Counter[Size] = Counter()
    num_gray = 0
    for (height, width), is_gray in _each(selection, _read_header):
        sizes[(height, width)] += 1
        num_gray += is_gray
    if image_size is None and len(sizes) > 1:
        common = ", ".join(f"{h}x{w} ({count})" for (h, w), count in sizes.most_common(3))
        raise DataError(f"images have {len(sizes)} different sizes, such as {common}; give an image_size to resize to")
    channels = 1 if 2 * num_gray > sizes.total() else 3
    return image_size or next(iter(sizes)), in_channels or channels


def decode(selection: Selection, out: np.ndarray) -> None:
    """Fill ``out`` (N, H, W, C) with the selected images: shorter side resized (bicubic), centre crop.

    An image that has the size already is not touched. Raises DataError naming an image that cannot be decoded.
    """
    height, width, channels = out.shape[1:]

    def read(image: Image.Image) -> np.ndarray:
        # ImageOps.fit crops to the target's proportions and resizes in one step.
        fitted = ImageOps.fit(_convert(image, channels), (width, height), Image.Resampling.BICUBIC)
        return np.asarray(fitted).reshape(height, width, channels)

    for index, pixels in enumerate(_each(selection, read)):
        out[index] = pixels


def _each(selection: Selection, read: Callable[[Image.Image], _T]) -> Iterator[_T]:
    for part, indices in selection:
        for index in indices.tolist():
            try:
                with part.open(index) as image:
                    result = read(image)
            except Exception as error:  # whatever a decoder raises on foreign bytes, the image is what is broken
                raise DataError(f"{part.where(index)} is not a readable image: {error}; mend or remove it") from error
            yield result


def _read_header(image: Image.Image) -> tuple[Size, bool]:
    return (image.height, image.width), image.mode in _GRAY_MODES


def _convert(image: Image.Image, channels: int) -> Image.Image:
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode:
        return image
    if image.mode.startswith("I"):
        image = _from_16_bit(image)
    elif image.mode == "F":
        raise DataError("pixels are floating-point numbers, which have no defined white; store 8 or 16 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def _from_16_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion to 8 bits clips at 255 in some versions and scales in others.
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise DataError(f"pixels reach {values.min()}..{values.max()}; store 8 or 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))
