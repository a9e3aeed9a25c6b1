"""The program that decodes pictures: one at a time, from a socket on descriptor 0, under hard limits of its own.

It knows nothing of Likewise and is started by file name, so a picture that takes it over gains a process without files to write,
memory to fill or time to spend. Request: the length (uint32, little endian), the bytes. Reply: a status byte (0 decoded,
1 refused), the length, then RGB rows or the reason in UTF-8.
"""

from __future__ import annotations

import io
import resource
import socket
import struct
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_LENGTH = struct.Struct("<I")
_FORMATS = ("JPEG", "PNG", "WEBP")


def decode(data: bytes, size: int, crop: float, max_pixels: int) -> bytes:
    """Return size * size RGB pixels: the centre square of `crop` times the shorter side, upright, on white.

    Raises:
        ValueError: it is no JPEG, PNG or WEBP, has too many pixels, or is broken.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = max_pixels
    if not (
        data[:3] == b"\xff\xd8\xff"
        or data[:8] == b"\x89PNG\r\n\x1a\n"
        or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
    ):
        raise ValueError("is no JPEG, PNG or WEBP by its first bytes")
    with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
        width, height = picture.size
        if width * height > max_pixels:
            raise ValueError(f"has {width} x {height} pixels; expected at most {max_pixels}")
        # A JPEG is decoded at 1/2, 1/4 or 1/8 where that is still twice what is needed.
        picture.draft("RGB", (2 * size, 2 * size))
        turned = _orientation(picture)
        pixels = _in_rgb(picture)
        side = max(1.0, crop * min(pixels.size))
        left, top = (pixels.width - side) / 2, (pixels.height - side) / 2
        square = pixels.resize(
            (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side), reducing_gap=3.0
        )
    if square.mode == "RGBA":
        white = Image.new("RGBA", square.size, (255, 255, 255, 255))
        square = Image.alpha_composite(white, square).convert("RGB")
    for step in _TURNS.get(turned, ()):
        square = square.transpose(Image.Transpose[step])
    return square.tobytes()


# Exif orientation to the steps that undo it; a square at the centre stays the same square.
_TURNS = {
    2: ("FLIP_LEFT_RIGHT",),
    3: ("ROTATE_180",),
    4: ("FLIP_TOP_BOTTOM",),
    5: ("TRANSPOSE",),
    6: ("ROTATE_270",),
    7: ("TRANSVERSE",),
    8: ("ROTATE_90",),
}


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(0x0112, 1))
    except Exception:  # broken Exif is no reason to refuse a picture that decodes
        return 1


def _in_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):  # 16 bits a grey value
        return picture.convert("I").point(lambda value: value * (1 / 257)).convert("L").convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        return picture.convert("RGBA")
    return picture.convert("RGB")


def _received(channel: socket.socket, n_bytes: int) -> bytes:
    parts = bytearray()
    while len(parts) < n_bytes:
        part = channel.recv(min(1 << 20, n_bytes - len(parts)))
        if not part:
            raise SystemExit  # the service has gone
        parts += part
    return bytes(parts)


def main(arguments: list[str]) -> None:
    """Serve pictures until the other end closes."""
    size, max_pixels, memory_bytes, cpu_s = (int(argument) for argument in arguments[:4])
    crop = float(arguments[4])
    # Import first: the limits are for pictures.
    from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

    warnings.simplefilter("error", Image.DecompressionBombWarning)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=0) as channel:
        channel.sendall(b"R")
        while True:
            data = _received(channel, _LENGTH.unpack(_received(channel, _LENGTH.size))[0])
            spent = resource.getrusage(resource.RUSAGE_SELF)
            limit = int(spent.ru_utime + spent.ru_stime) + cpu_s + 1
            resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
            try:
                status, reply = 0, decode(data, size, crop, max_pixels)
            except MemoryError:
                status, reply = 1, f"needs more than the {memory_bytes >> 20} MiB a picture may take".encode()
            except Exception as error:  # a decoder may raise anything; one picture is refused for it
                status, reply = 1, str(error)[:300].encode("utf-8", "replace") or type(error).__name__.encode()
            channel.sendall(bytes([status]) + _LENGTH.pack(len(reply)) + reply)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder's modules are not this program's
    main(sys.argv[1:])
