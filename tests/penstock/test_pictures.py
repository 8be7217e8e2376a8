"""A picture file gives all of its pixels, or one word that says why not; never half of them."""

from __future__ import annotations

import io
import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from penstock.config import PictureContract
from penstock.pictures import STORED, PictureError, decode, difference_hash, scaled

RED, GREEN, BLUE, WHITE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (128, 128, 128)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photograph(width: int = 96, height: int = 64) -> Image.Image:
    """Something with structure and noise, so that a file of it is not all alike."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    waves = np.stack([x * 1.5, y * 2.0, 90 + 60 * np.sin(x / 9) * np.cos(y / 7)], axis=-1)
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))


def halves(left: Any, right: Any, mode: str, size: tuple[int, int] = (40, 20)) -> Image.Image:
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def refused(content: bytes, contract: PictureContract = STORED) -> str:
    with pytest.raises(PictureError) as caught:
        decode(content, contract)
    assert str(caught.value).startswith(f"{caught.value.reason}: ")
    return caught.value.reason


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_a_lossless_file_gives_its_pixels(form: str) -> None:
    image = photograph()
    options = {"lossless": True} if form == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(image, form, **options)), np.asarray(image))


@pytest.mark.parametrize(
    ("image", "form", "left", "right"),
    [
        (halves(255, 128, "L"), "PNG", WHITE, GREY),
        (halves(1, 0, "1"), "PNG", WHITE, (0, 0, 0)),
        # 65,535 is white: Pillow by itself would cut at 255, and both halves would be.
        (halves(65535, 128 * 257, "I;16"), "PNG", WHITE, GREY),
        (halves(65535, 128 * 257, "I;16"), "TIFF", WHITE, GREY),
        (halves((0, 0, 255, 255), (255, 0, 0, 0), "RGBA"), "PNG", BLUE, WHITE),
        (halves((0, 0, 0, 255), (0, 0, 0, 127), "RGBA"), "WEBP", (0, 0, 0), GREY),
        (halves((128, 255), (0, 0), "LA"), "PNG", GREY, WHITE),
        (halves((0, 255, 255, 0), (0, 0, 0, 127), "CMYK"), "JPEG", RED, GREY),
        (halves(RED, BLUE, "RGB"), "JPEG", RED, BLUE),
        (halves(RED, BLUE, "RGB"), "GIF", RED, BLUE),
    ],
    ids=["grey", "bilevel", "grey16", "tiff16", "alpha", "half", "greyalpha", "cmyk", "jpeg", "gif"],
)
def test_every_kind_of_pixel_becomes_rgb(image: Image.Image, form: str, left: Any, right: Any) -> None:
    options = {"lossless": True} if form == "WEBP" else {"quality": 95} if form == "JPEG" else {}
    pixels = decode(encoded(image, form, **options))
    assert pixels.shape == (20, 40, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels[10, 5], left, atol=3)
    np.testing.assert_allclose(pixels[10, 35], right, atol=3)


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"], ids=["index", "bytes"])
def test_a_palette_with_a_transparent_colour_lies_over_white(transparency: int | bytes) -> None:
    image = halves(0, 1, "P")
    image.putpalette([*BLUE, *RED])
    pixels = decode(encoded(image, "PNG", transparency=transparency))
    assert tuple(pixels[5, 5]) == BLUE
    assert tuple(pixels[5, 35]) == WHITE
    assert tuple(decode(encoded(image, "PNG"))[5, 35]) == RED


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "corner", "shape"),
    [(1, (0, 0), (32, 48)), (3, (-1, -1), (32, 48)), (6, (0, -1), (48, 32)), (8, (-1, 0), (48, 32))],
)
def test_exif_turns_the_picture(
    form: str, orientation: int, corner: tuple[int, int], shape: tuple[int, int]
) -> None:
    image = Image.new("RGB", (48, 32), WHITE)
    image.paste((0, 0, 0), (0, 0, 16, 16))  # the upper left corner as stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if form != "TIFF" else {}
    pixels = decode(encoded(image, form, exif=exif, **options))
    assert pixels.shape[:2] == shape
    corners = {(y, x): int(pixels[y, x].max()) for y in (0, -1) for x in (0, -1)}
    assert min(corners, key=lambda at: corners[at]) == corner


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_picture() -> None:
    content = encoded(photograph(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode(content).shape == (64, 96, 3)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_or_none(form: str) -> None:
    frames = [Image.new("RGB", (24, 24), colour) for colour in (RED, GREEN, BLUE)]
    content = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50)
    np.testing.assert_allclose(decode(content)[12, 12], RED, atol=4)
    assert refused(content, PictureContract(animated="refuse")) == "animated"
    still = encoded(frames[0], form)
    assert decode(still, PictureContract(animated="refuse")).shape == (24, 24, 3)


def test_what_is_no_picture_is_told_apart() -> None:
    assert refused(b"") == "empty"
    assert refused(b"these are words, whatever the file is called") == "not_a_picture"
    assert refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n") == "not_a_picture"
    assert refused(b"\xff\xd8\xff\xe0\0\x10JF") == "truncated"
    assert refused(encoded(Image.new("F", (20, 20)), "TIFF")) == "unsupported"
    assert refused(encoded(Image.new("I", (20, 20), 1 << 20), "TIFF")) == "unsupported"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_file_that_ends_early_is_never_half_a_picture(form: str) -> None:
    content = encoded(photograph(), form)
    whole = decode(content)
    known = (
        {"truncated"} if form in {"JPEG", "PNG", "WEBP", "GIF"} else {"truncated", "damaged", "not_a_picture"}
    )
    for share in (0.02, 0.2, 0.5, 0.8, 0.95):
        assert refused(content[: int(len(content) * share)]) in known, share
    # A few bytes short, there may be nothing lost but the end mark: then all pixels must be there.
    for missing in range(1, 20):
        try:
            np.testing.assert_array_equal(decode(content[:-missing]), whole)
        except PictureError:
            continue


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_was_cut_and_closed_again_is_not_half_grey(mode: str) -> None:
    content = encoded(photograph(200, 160).convert(mode), "JPEG", quality=90)
    for share in (0.5, 0.7, 0.95):
        assert refused(content[: int(len(content) * share)] + b"\xff\xd9") == "truncated"


@pytest.mark.parametrize("options", [{}, {"quality": 95, "subsampling": 0}, {"optimize": True}, {"progressive": True}, {"restart_marker_blocks": 3}], ids=str)  # fmt: skip
def test_a_jpeg_that_is_half_grey_by_itself_is_whole(options: dict[str, Any]) -> None:
    image = photograph(100, 80)
    image.paste(GREY, (0, 40, 100, 80))
    assert decode(encoded(image, "JPEG", **options)).shape == (80, 100, 3)
    assert decode(encoded(image.convert("L"), "JPEG", **options)).shape == (80, 100, 3)


def test_progressive_jpegs_that_end_early_are_refused_too() -> None:
    content = encoded(photograph(200, 160), "JPEG", progressive=True)
    assert {refused(content[: int(len(content) * share)]) for share in (0.01, 0.3, 0.6, 0.9)} == {"truncated"}


SEEDS = {form: encoded(photograph(40, 30), form) for form in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")}


@settings(max_examples=150, deadline=None)
@given(form=st.sampled_from(sorted(SEEDS)), seed=st.integers(0, 2**32), flips=st.integers(1, 12))
def test_damage_of_any_kind_gives_pixels_or_a_reason(form: str, seed: int, flips: int) -> None:
    draws = random.Random(seed)
    content = bytearray(SEEDS[form])
    for _ in range(flips):
        content[draws.randrange(len(content))] = draws.randrange(256)
    try:
        pixels = decode(bytes(content), PictureContract(min_side=1, max_pixels=10_000))
    except PictureError:
        return
    assert pixels.ndim == 3
    assert pixels.shape[0] * pixels.shape[1] <= 10_000


@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused(content: bytes) -> None:
    assert refused(content) in {"empty", "not_a_picture", "truncated", "damaged"}


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more than its data hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 11_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    assert refused(bomb(side, side), PictureContract()) == "too_large"


def test_the_contract_bounds_the_size() -> None:
    content = encoded(photograph(96, 64))
    assert refused(content, PictureContract(max_pixels=96 * 64 - 1)) == "too_large"
    assert refused(content, PictureContract(min_side=65)) == "too_small"
    assert decode(content, PictureContract(max_pixels=96 * 64, min_side=64)).shape == (64, 96, 3)
    assert decode(encoded(Image.new("RGB", (1, 1), RED))).shape == (1, 1, 3)


def test_a_large_jpeg_is_decoded_no_larger_than_needed() -> None:
    image = photograph(800, 640)
    content = encoded(image, "JPEG", quality=95)
    assert decode(content).shape == (640, 800, 3)
    small = decode(content, side=150)
    assert small.shape == (160, 200, 3)
    same = np.asarray(image.resize((200, 160), Image.Resampling.BOX))
    assert np.abs(small.astype(int) - same).mean() < 3
    assert decode(encoded(image), side=150).shape == (640, 800, 3)  # other formats have no such short cut


def test_scaling_keeps_the_proportions() -> None:
    assert scaled(np.asarray(photograph(96, 64)), 16).shape == (16, 24, 3)
    assert scaled(np.asarray(photograph(64, 96)), 32).shape == (48, 32, 3)
    assert scaled(np.zeros((2, 2000, 3), np.uint8), 1).shape == (1, 1000, 3)


def test_the_hash_survives_what_does_not_change_a_picture() -> None:
    cells = np.random.default_rng(1).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    image = Image.fromarray(cells).resize((320, 240), Image.Resampling.BICUBIC)
    own = difference_hash(np.asarray(image))
    assert 0 <= own < 2**64
    smaller = difference_hash(np.asarray(image.resize((80, 60), Image.Resampling.BICUBIC)))
    worse = difference_hash(decode(encoded(image, "JPEG", quality=40)))
    darker = difference_hash(np.asarray(image.point(lambda value: value * 0.7)))
    assert all((own ^ other).bit_count() <= 3 for other in (smaller, worse, darker))
    mirrored = difference_hash(np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    assert (own ^ mirrored).bit_count() > 16


def test_the_hash_reads_cells_from_left_to_right_and_down() -> None:
    brighter = np.tile(np.linspace(0, 240, 90).astype(np.uint8)[None, :, None], (80, 1, 3))
    assert difference_hash(brighter) == 2**64 - 1
    assert difference_hash(brighter[:, ::-1].copy()) == 0
    first = np.zeros((80, 90, 3), np.uint8)
    first[:10, 10:] = 255  # only the first pair of the first row rises
    assert difference_hash(first) == 1 << 63


def test_many_threads_see_what_one_does() -> None:
    contents = [encoded(photograph(60 + at, 50), form) for at in range(6) for form in ("JPEG", "PNG", "WEBP")]
    alone = [decode(content) for content in contents]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(alone, pool.map(decode, contents), strict=True):
            np.testing.assert_array_equal(one, other)
