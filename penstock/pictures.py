"""From the bytes of a picture file to pixels, the same way in training and in serving.

Whatever comes in, either all of its pixels come out or a ``PictureError`` that says in one word what is wrong.
Colour profiles are not applied, and CMYK is converted by Pillow's plain formula: a network is not that picky,
and the result must not depend on a colour engine.

Needs Pillow and NumPy alone, and holds no state: safe in threads and after a fork.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from penstock.config import PictureContract
from penstock.errors import PenstockError

__all__ = ["FORMATS", "STORED", "PictureError", "Pixels", "Reason", "decode", "difference_hash", "scaled"]

Pixels = NDArray[np.uint8]
Reason = Literal[
    "empty", "not_a_picture", "truncated", "damaged", "too_small", "too_large", "animated", "unsupported"
]

# Not all that Pillow can open: EPS would start Ghostscript, and nobody's photographs are FLI films.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
# What begins so and cannot be opened was meant to be a picture.
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")

ORIENTATION = 0x0112  # EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WIDE_GREY = {"I", "I;16", "I;16L", "I;16B", "I;16N"}  # modes whose white is 65,535

# Of pictures that nothing is known of: one pixel is a picture, and a bomb is none.
ANY_PICTURE = PictureContract(min_side=1)
# Of pictures that have been through `ingest`: its contract held, which may have allowed more than the default.
STORED = PictureContract(min_side=1, max_pixels=178_956_970)


class PictureError(PenstockError):
    """A picture that cannot be used.

    Args:
        reason: One stable word, to be counted by.
        detail: What was found, for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def decode(content: bytes, contract: PictureContract = ANY_PICTURE, *, side: int | None = None) -> Pixels:
    """The pixels of a picture file.

    Turned as its EXIF says; grey, palette and CMYK converted; what is transparent, over white; of an
    animation the first frame.

    Args:
        content: The file.
        contract: Smallest side, most pixels (no more than Pillow's own bound, 179 million), animations.
        side: Wanted of the shorter side, in pixels. A JPEG several times as large is then decoded at half,
            a quarter or an eighth of its size, never below ``side``, in a fraction of the time.

    Returns:
        RGB, shape (height, width, 3).

    Raises:
        PictureError: The file cannot be used; ``reason`` says why.
    """
    if not content:
        raise PictureError("empty", "the file has 0 bytes")
    try:
        with _opened(content) as image:
            _check_header(image, contract)
            if side is not None:
                image.draft(None, (side, side))
            image.load()
            if _fades_to_grey(image) and not _has_all_its_data(content):
                raise PictureError("truncated", "data are missing before the end mark; the rest is grey")
            return _turned(_rgb(image), _orientation(image))
    except PictureError:
        raise
    except Exception as error:  # a damaged file may raise anything: struct.error, KeyError, zlib.error, …
        early = "truncated" in str(error).lower() or isinstance(error, EOFError) or _ends_early(content)
        raise PictureError("truncated" if early else "damaged", _one_line(error)) from error


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError("too_large", _one_line(error)) from error
    except Exception as error:
        if _is_webp(content) or content.startswith(BEGINNINGS):
            reason = "truncated" if _ends_early(content) else "damaged"
            raise PictureError(reason, "it begins as a picture does, but cannot be opened") from error
        raise PictureError(
            "not_a_picture", f"none of {', '.join(FORMATS)}; it begins with {content[:8]!r}"
        ) from error


def _is_webp(content: bytes) -> bool:
    return content.startswith(b"RIFF") and content[8:12] == b"WEBP"


def _ends_early(content: bytes) -> bool:
    """Whether a broken file lacks its end. A sound one may lack it too, and is none the worse for it."""
    if _is_webp(content):
        return int.from_bytes(content[4:8], "little") + 8 > len(content)
    if content.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd9" not in content[-64:]
    if content.startswith(b"GIF8"):
        return not content.rstrip(b"\0").endswith(b";")
    return content.startswith(b"\x89PNG") and b"IEND" not in content[-64:]


def _fades_to_grey(image: Image.Image) -> bool:
    """Whether the last pixel of a sequential JPEG is what libjpeg fills in, without a word, for missing data."""
    if image.format not in {"JPEG", "MPO"} or "progressive" in image.info:
        return False
    last = image.getpixel((image.width - 1, image.height - 1))
    return set(last if isinstance(last, tuple) else (last,)) <= {127, 128}


def _has_all_its_data(content: bytes) -> bool:
    """Whether a sequential JPEG can be decoded without its end mark: one that was cut before it then runs dry.

    A few bytes take the mark's place, since the decoder looks that far ahead.
    """
    unmarked = content[: content.rfind(b"\xff\xd9")] + bytes(16)
    try:
        with Image.open(io.BytesIO(unmarked), formats=["JPEG"]) as image:
            image.draft(None, (1, 1))
            image.load()
    except OSError:
        return False
    return True


def _check_header(image: Image.Image, contract: PictureContract) -> None:
    """Raises: PictureError: The header alone is reason enough to decode nothing."""
    width, height = image.size
    if width * height > contract.max_pixels:
        raise PictureError(
            "too_large", f"{width} × {height} pixels, more than max_pixels: {contract.max_pixels}"
        )
    if min(width, height) < contract.min_side:
        raise PictureError(
            "too_small", f"{width} × {height} pixels, a side below min_side: {contract.min_side}"
        )
    # The second picture in a camera's MPO is a preview or the other eye's view: that is no film.
    if contract.animated == "refuse" and image.format != "MPO" and getattr(image, "is_animated", False):
        raise PictureError("animated", f"a {image.format} of several frames")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in WIDE_GREY:
        return _narrowed(np.asarray(image)).convert("RGB")
    if image.mode == "F":
        raise PictureError("unsupported", "floating-point pixels, for which no value is white")
    if image.has_transparency_data:
        visible = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, visible).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _narrowed(grey: NDArray[np.integer]) -> Image.Image:
    """16 bits of grey as 8. Pillow's own conversion cuts at 255, which turns a photograph white."""
    if grey.min() < 0 or grey.max() > 0xFFFF:
        raise PictureError("unsupported", "32-bit grey, for which no value is white")
    return Image.fromarray(((grey.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a damaged EXIF block is no reason to lose a sound picture
        return 1


def _turned(image: Image.Image, orientation: int) -> Pixels:
    turn = TURNS.get(orientation)
    return np.array(image if turn is None else image.transpose(turn))


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def scaled(pixels: Pixels, side: int) -> Pixels:
    """A picture with its shorter side scaled to ``side``, antialiased, its proportions kept.

    Args:
        pixels: RGB, shape (height, width, 3).
        side: In pixels.

    Returns:
        RGB; the shorter of height and width is ``side``.
    """
    height, width = pixels.shape[:2]
    share = side / min(height, width)
    size = (max(side, round(width * share)), max(side, round(height * share)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def difference_hash(pixels: Pixels) -> int:
    """64 bits, one for each pair of neighbours among 8 × 9 grey cells: whether the right one is brighter.

    Blind to size, compression and brightness; pictures that a person takes for the same differ in few bits.

    Args:
        pixels: RGB, shape (height, width, 3).
    """
    grey = Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX)
    cells = np.asarray(grey)
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")
