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
_EXIF_FORMATS = ("JPEG", "MPO", "WEBP", "AVIF")  # TIFFs are turned by Pillow; PNGs with a turn are unheard of
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)
_BROKEN_SHOWN = 10
_LEAST_16_BIT = 0x1000  # a set whose brightest pixel is a sixteenth of white holds 12 bits or fewer
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

    A photograph is turned as its camera says, what is transparent becomes white, and an image that has the size already
    is not resized. Raises DataError naming an image that cannot be decoded, and for 16-bit images that are all black
    but for their lowest bits.
    """
    height, width, channels = out.shape[1:]
    brightest: list[int] = []  # of each image of 16 bits

    def read(image: Image.Image) -> np.ndarray:
        if image.mode.startswith("I"):
            brightest.append(int(np.asarray(image).max()))
        # ImageOps.fit crops to the target's proportions and resizes in one step.
        fitted = ImageOps.fit(_convert(_upright(image), channels), (width, height), Image.Resampling.BICUBIC)
        return np.asarray(fitted).reshape(height, width, channels)

    for index, pixels in enumerate(_each(selection, read)):
        out[index] = pixels
    if brightest and max(brightest) < _LEAST_16_BIT:
        raise DataError(
            f"the brightest pixel of all {len(brightest)} images of 16 bits is {max(brightest)} of 65535: they would "
            "be black; store them with their bits shifted up, or with 8 bits"
        )


def _each(selection: Selection, read: Callable[[Image.Image], _T]) -> Iterator[_T]:
    broken: list[str] = []
    for part, indices in selection:
        for index in indices.tolist():
            try:
                with part.open(index) as image:
                    result = read(image)
            except Exception as error:  # whatever a decoder raises on foreign bytes, the image is what is broken
                broken.append(f"{part.where(index)} is not a readable image: {error}")
            else:
                yield result
    if broken:
        raise DataError(_describe_broken(broken))


def _describe_broken(broken: Sequence[str]) -> str:
    """All of them at once: whoever mends one would else meet the next by another run."""
    if len(broken) == 1:
        return f"{broken[0]}; mend or remove it"
    shown = "".join(f"\n  {line}" for line in broken[:_BROKEN_SHOWN])
    more = f"\n  and {len(broken) - _BROKEN_SHOWN} more" if len(broken) > _BROKEN_SHOWN else ""
    return f"{len(broken)} images cannot be read; mend or remove them:{shown}{more}"


def _read_header(image: Image.Image) -> tuple[Size, bool]:
    lying = image.format in _EXIF_FORMATS and image.getexif().get(_ORIENTATION) in _LYING
    return (image.width, image.height) if lying else (image.height, image.width), image.mode in _GRAY_MODES


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if image.format in _EXIF_FORMATS else image


def _convert(image: Image.Image, channels: int) -> Image.Image:
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        image = _from_16_bit(image)
    elif image.mode == "F":
        raise DataError("pixels are floating-point numbers, which have no defined white; store 8 or 16 bits")
    elif image.has_transparency_data:
        image = _on_white(image)
    return image.convert(mode)


def _on_white(image: Image.Image) -> Image.Image:
    """Colours under what is transparent mean nothing: programs leave anything there, most often black."""
    seen = image.convert("RGBA")
    white = Image.new("RGBA", seen.size, "white")
    white.alpha_composite(seen)
    return white


def _from_16_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion to 8 bits clips at 255 in some versions and scales in others.
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise DataError(f"pixels reach {values.min()}..{values.max()}; store 8 or 16 bits")
    if isinstance(image.info.get("transparency"), int):  # a PNG's value that stands for nothing
        values[values == image.info["transparency"]] = 0xFFFF
    return Image.fromarray((values >> 8).astype(np.uint8))
