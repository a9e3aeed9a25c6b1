"""Decoding pictures from strangers: formats, framing, limits, and workers that die."""

from __future__ import annotations

import io
import os
import signal
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embeddings.pictures import Framing, PictureDecoder, PictureLimits
from matching.errors import InvalidContent, Unavailable
from tests.models import picture, saved

Image = pytest.importorskip("PIL.Image")
FRAMING = Framing(size=32)


@pytest.fixture(scope="module")
def decoder() -> Iterator[PictureDecoder]:
    made = PictureDecoder(FRAMING, n_workers=2)
    yield made
    made.close()


def square(decoder: PictureDecoder, data: bytes) -> np.ndarray:
    (decoded,) = decoder.decode([data])
    assert isinstance(decoded, np.ndarray), decoded
    assert decoded.shape == (32, 32, 3)
    return decoded.astype(int)


def reason(decoder: PictureDecoder, data: bytes) -> str:
    (decoded,) = decoder.decode([data])
    assert isinstance(decoded, InvalidContent)
    return str(decoded)


def plain(mode: str, colour: object, size: tuple[int, int] = (40, 40)) -> object:
    return Image.new(mode, size, colour)


@pytest.mark.parametrize(
    ("mode", "colour", "form", "expected"),
    [
        ("RGB", (200, 30, 60), "PNG", (200, 30, 60)),
        ("RGB", (200, 30, 60), "WEBP", (200, 30, 60)),
        ("L", 77, "JPEG", (77, 77, 77)),
        ("L", 77, "PNG", (77, 77, 77)),
        ("1", 1, "PNG", (255, 255, 255)),
        ("RGBA", (200, 30, 60, 0), "PNG", (255, 255, 255)),
        ("RGBA", (200, 30, 60, 255), "PNG", (200, 30, 60)),
        ("LA", (10, 0), "PNG", (255, 255, 255)),
        ("I;16", 65535, "PNG", (255, 255, 255)),
        ("I;16", 25700, "PNG", (100, 100, 100)),
        ("CMYK", (0, 255, 255, 0), "JPEG", (254, 0, 0)),
        ("P", 0, "PNG", (0, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb_on_white(
    decoder: PictureDecoder, mode: str, colour: object, form: str, expected: tuple[int, int, int]
) -> None:
    got = square(decoder, saved(plain(mode, colour), form))
    assert np.abs(got - np.array(expected)).max() <= 3


def test_a_transparent_palette_lies_on_white(decoder: PictureDecoder) -> None:
    drawn = plain("P", 0)
    data = saved(drawn, "PNG", transparency=0)
    assert (square(decoder, data) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(decoder: PictureDecoder, orientation: int) -> None:
    from PIL import ImageOps

    drawn = Image.open(io.BytesIO(picture(5, (48, 48))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(drawn, "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    # Scaling goes along rows first, so turning after it rounds a little differently.
    assert np.abs(square(decoder, data) - square(decoder, saved(upright, "PNG"))).max() <= 8


def test_broken_exif_is_ignored(decoder: PictureDecoder) -> None:
    data = saved(plain("RGB", (9, 9, 9)), "JPEG", exif=b"Exif\0\0" + os.urandom(40))
    assert np.abs(square(decoder, data) - 9).max() <= 3


def test_the_first_frame_of_an_animation_counts(decoder: PictureDecoder) -> None:
    frames = [plain("RGB", colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert np.abs(square(decoder, data) - np.array([255, 0, 0])).max() <= 3


def test_the_centre_square_is_cut() -> None:
    drawn = plain("RGB", (255, 255, 255), (100, 60))
    drawn.paste((0, 0, 0), (24, 4, 76, 56))  # type: ignore[attr-defined]
    decoder = PictureDecoder(Framing(size=32, crop=0.8), n_workers=1)
    try:
        assert square(decoder, saved(drawn, "PNG")).max() == 0
    finally:
        decoder.close()
    wide = PictureDecoder(Framing(size=32, crop=1.0), n_workers=1)
    try:
        assert square(wide, saved(drawn, "PNG")).max() == 255
    finally:
        wide.close()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_small_and_narrow_pictures_are_squares_too(decoder: PictureDecoder, size: tuple[int, int]) -> None:
    assert (square(decoder, saved(plain("RGB", (7, 8, 9), size), "PNG")) == [7, 8, 9]).all()


def test_a_large_jpeg_is_near_its_exact_scaling(decoder: PictureDecoder) -> None:
    drawn = Image.open(io.BytesIO(picture(3, (1600, 1600))))
    exact = np.asarray(drawn.resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(square(decoder, saved(drawn, "JPEG", quality=95)) - exact).mean() < 4


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused_by_content(decoder: PictureDecoder, form: str) -> None:
    assert "is no JPEG, PNG or WEBP by its first bytes" in reason(decoder, saved(plain("RGB", (1, 2, 3)), form))


def test_a_format_behind_another_signature_is_not_tried(decoder: PictureDecoder) -> None:
    assert "its picture" in reason(decoder, b"\xff\xd8\xff" + saved(plain("RGB", (1, 2, 3)), "GIF"))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_picture_is_refused(decoder: PictureDecoder, form: str) -> None:
    data = picture(1, (200, 200), form)
    for keep in (12, len(data) // 4, len(data) // 2, len(data) * 3 // 4):
        assert "its picture" in reason(decoder, data[:keep])


def test_damaged_pictures_never_end_the_decoder(decoder: PictureDecoder, rng: np.random.Generator) -> None:
    damaged = []
    for form in ("JPEG", "PNG", "WEBP"):
        data = np.frombuffer(picture(2, (64, 64), form), np.uint8)
        for _ in range(60):
            changed = data.copy()
            changed[rng.integers(4, len(data), 6)] = rng.integers(0, 256, 6)
            damaged.append(changed.tobytes())
    got = decoder.decode(damaged)
    assert len(got) == len(damaged)
    assert all(isinstance(entry, (np.ndarray, InvalidContent)) for entry in got)
    assert square(decoder, picture()).any()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that claims width x height pixels."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + part(b"IDAT", zlib.compress(bytes(10_000))) + part(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (20_000_001, 1), (5000, 4001)])
def test_too_many_pixels_are_an_error_before_any_are_decoded(decoder: PictureDecoder, width: int, height: int) -> None:
    assert "its picture" in reason(decoder, bomb(width, height))


def test_pixels_up_to_the_limit_are_decoded(decoder: PictureDecoder) -> None:
    data = saved(plain("RGB", (5, 6, 7), (5000, 4000)), "PNG")
    assert (square(decoder, data) == [5, 6, 7]).all()


def test_bytes_are_limited() -> None:
    decoder = PictureDecoder(FRAMING, n_workers=1, limits=PictureLimits(max_bytes=1000))
    try:
        assert reason(decoder, bytes(1001)) == "its picture has 1001 bytes; expected at most 1000; scale it down"
        assert "empty" in reason(decoder, b"")
    finally:
        decoder.close()


def test_memory_is_limited() -> None:
    limits = PictureLimits(max_memory_bytes=180 << 20, max_pixels=100_000_000)
    decoder = PictureDecoder(FRAMING, n_workers=1, limits=limits)
    try:
        assert square(decoder, picture()).any()
        # 9,000 x 9,000 RGB pixels are 243 MB.
        assert "its picture" in reason(decoder, saved(plain("RGB", (1, 2, 3), (9000, 9000)), "PNG"))
        assert square(decoder, picture()).any()
    finally:
        decoder.close()


def workers(decoder: PictureDecoder) -> list[int]:
    return [worker._process.pid for worker in decoder._alive if not worker.is_ended]


def test_a_worker_that_dies_is_replaced_and_only_its_picture_refused() -> None:
    decoder = PictureDecoder(FRAMING, n_workers=1)
    try:
        square(decoder, picture())
        (pid,) = workers(decoder)
        os.kill(pid, signal.SIGKILL)
        assert "brought the decoder down" in reason(decoder, picture())
        assert square(decoder, picture()).any()
        assert workers(decoder) != [pid]
        assert len(workers(decoder)) == 1
    finally:
        decoder.close()


def test_a_worker_that_hangs_is_killed_and_replaced() -> None:
    decoder = PictureDecoder(FRAMING, n_workers=1, limits=PictureLimits(max_wall_s=0.5))
    try:
        square(decoder, picture())
        (pid,) = workers(decoder)
        os.kill(pid, signal.SIGSTOP)
        assert "took more than 0.5 s" in reason(decoder, picture(1, (900, 900)))
        assert square(decoder, picture()).any()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    finally:
        decoder.close()


def test_a_batch_keeps_its_order_and_uses_no_more_workers_than_asked() -> None:
    decoder = PictureDecoder(FRAMING, n_workers=3)
    try:
        colours = [(n, 255 - n, n // 2) for n in range(0, 250, 5)]
        batch = [saved(plain("RGB", colour), "PNG") for colour in colours]
        batch[7] = b"broken"
        got = decoder.decode(batch)
        assert isinstance(got[7], InvalidContent)
        for at, colour in enumerate(colours):
            if at != 7:
                assert (got[at] == colour).all()  # type: ignore[union-attr]
        assert 1 <= len(workers(decoder)) <= 3
    finally:
        decoder.close()


def test_several_threads_share_a_decoder() -> None:
    decoder = PictureDecoder(FRAMING, n_workers=2)
    wrong: list[int] = []

    def ask(seed: int) -> None:
        for n in range(10):
            colour = (seed * 20, n * 20, 5)
            if not (square(decoder, saved(plain("RGB", colour), "PNG")) == colour).all():
                wrong.append(seed)

    try:
        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert len(workers(decoder)) <= 2
    finally:
        decoder.close()


def test_closing_ends_the_workers_and_is_final() -> None:
    decoder = PictureDecoder(FRAMING, n_workers=2)
    decoder.decode([picture(n) for n in range(4)])
    pids = workers(decoder)
    assert pids
    decoder.close()
    decoder.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(Unavailable, match="the decoder is closed"):
        decoder.decode([picture()])


def test_workers_end_with_a_decoder_that_is_forgotten() -> None:
    decoder = PictureDecoder(FRAMING, n_workers=1)
    decoder.decode([picture()])
    (pid,) = workers(decoder)
    del decoder
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the worker is still alive")


def test_a_worker_has_no_files_and_little_else() -> None:
    decoder = PictureDecoder(FRAMING, n_workers=1)
    try:
        decoder.decode([picture()])
        (pid,) = workers(decoder)
        held = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
        assert {name.split(":")[0] for name in held} <= {"socket", "/dev/null"}
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert "Max file size             0 " in limits
        assert f"Max address space         {1 << 30} " in limits
    finally:
        decoder.close()
