"""Pictures for the sample shop, drawn from what a product is: its type, colours, pattern and material."""

from __future__ import annotations

import functools
import io
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIZE = 224
_N = 2 * SIZE  # drawn at twice the size, then reduced: smooth edges
_UNIT = _N / 100  # shapes speak in hundredths of the picture
_GROUND = 86.0

Rgb = tuple[int, int, int]
Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Look:
    """How a product looks. Two products with equal looks are drawn alike.

    Attributes:
        kind: a key of `KINDS`.
        colour, accent: sRGB.
        pattern: plain, striped, dotted, checked, zigzag or speckled.
        material: one of the materials of `sample`; it sets the grain and the gloss.
        design: a number that fixes proportions and details.
    """

    kind: str
    colour: Rgb
    accent: Rgb
    pattern: str
    material: str
    design: int


def draw(look: Look, *, view: int = 0) -> bytes:
    """Return a JPEG of 224 x 224 pixels: view 0 is the shop's main picture, others show it turned, in another light."""
    rng = random.Random(f"{look.kind}/{look.design}")  # noqa: S311
    pencil = _Pencil(look, view)
    KINDS[look.kind](pencil, look, rng)
    stream = io.BytesIO()
    pencil.image.reduce(2).save(stream, "JPEG", quality=88)
    return stream.getvalue()


# Tools.


class _Pencil:
    """A canvas in hundredths of its side, y downwards. All shapes are polygons, so a view can turn and mirror them."""

    def __init__(self, look: Look, view: int) -> None:
        self._mirror = view % 2 == 1
        self._zoom = 1.0 if view == 0 else 1.12
        lies = look.kind in _FLAT
        self._turn = math.radians((6 if look.design % 2 else -6) if view and lies else 0)
        self.image = _backdrop((look.design + 2 * view) % 4 if view == 0 or lies else 4 + look.design % 3).copy()
        self._texture = _texture(look.colour, look.accent, look.pattern, look.material, look.design % 3)
        self._gloss = {"ceramic": 0.5, "steel": 0.65, "glass": 0.6, "leather": 0.25, "resin": 0.4}.get(
            look.material, 0.0
        )

    def fill(
        self, points: Points, paint: Rgb | None = None, *, shade: str = "side", depth: float = 0.3, gloss: bool = False
    ) -> None:
        """Fill a polygon with a colour, or with the product's own texture, darkened as its shape asks."""
        placed = self._placed(points)
        left, top = (max(0, math.floor(min(point[axis] for point in placed))) for axis in (0, 1))
        right, bottom = (min(_N, math.ceil(max(point[axis] for point in placed)) + 1) for axis in (0, 1))
        if left >= right or top >= bottom:
            return
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in placed], fill=255)
        part = Image.new("RGB", mask.size, paint) if paint else self._texture.crop((left, top, right, bottom))
        if shade != "flat":
            part = ImageChops.multiply(part, _shade(shade, round(depth * 20), self._mirror).resize(part.size))
        if gloss and self._gloss:
            self._shine(part)
        self.image.paste(part, (left, top), mask)

    def stroke(self, points: Points, width: float, paint: Rgb) -> None:
        """Draw a line with round joints."""
        pen = ImageDraw.Draw(self.image)
        placed = self._placed(points)
        thick = max(1, round(width * _UNIT * self._zoom))
        pen.line(placed, fill=paint, width=thick, joint="curve")
        for x, y in (placed[0], placed[-1]):
            pen.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=paint)

    def shadow(self, x: float, half: float, *, y: float = _GROUND, flat: float = 0.16) -> None:
        """Lay a soft shadow on the ground."""
        blot = _blot()
        (left, top), (right, bottom) = self._placed(
            [(x - half * 1.35, y - half * flat * 1.6), (x + half * 1.35, y + half * flat * 1.6)]
        )
        left, right = sorted((round(left), round(right)))
        top, bottom = sorted((round(top), round(bottom)))
        soft = blot.resize((max(2, right - left), max(2, bottom - top)))
        self.image.paste(Image.new("RGB", soft.size, (40, 36, 44)), (left, top), soft)

    def glow(self, x: float, y: float, radius: float, paint: Rgb) -> None:
        """Add light around a point."""
        ((x, y),) = self._placed([(x, y)])
        radius *= _UNIT
        soft = _blot().resize((round(2 * radius), round(2 * radius)))
        self.image.paste(Image.new("RGB", soft.size, paint), (round(x - radius), round(y - radius)), soft)

    def _shine(self, part: Image.Image) -> None:
        streak = _streak().resize((max(1, part.width // 7), max(1, round(part.height * 0.8))))
        streak = streak.point([round(value * self._gloss) for value in range(256)])
        at = round(part.width * (0.66 if self._mirror else 0.2)), part.height // 10
        part.paste(Image.new("RGB", streak.size, (255, 255, 255)), at, streak)

    def _placed(self, points: Points) -> list[tuple[float, float]]:
        cos, sin = math.cos(self._turn) * self._zoom, math.sin(self._turn) * self._zoom
        placed = []
        for x, y in points:
            x, y = x - 50, y - 52
            if self._mirror:
                x = -x
            placed.append(((x * cos - y * sin + 50) * _UNIT, (x * sin + y * cos + 52) * _UNIT))
        return placed


@functools.lru_cache(maxsize=16)
def _backdrop(scene: int) -> Image.Image:
    """Studio paper (0..3) or a wall with a table (4..6), lit from the upper left."""
    y, x = np.mgrid[0:_N, 0:_N] / _N
    papers = [
        (246, 244, 240),
        (240, 243, 246),
        (245, 240, 236),
        (240, 244, 239),
        (222, 214, 202),
        (205, 215, 219),
        (219, 211, 216),
    ]
    light = 1.03 - 0.16 * np.hypot(x - 0.42, y - 0.38)
    if scene < 4:
        light -= 0.05 * np.clip((y - 0.7) * 4, 0, 1)
        pixels = light[..., None] * np.array(papers[scene])
    else:
        table = np.array([(176, 138, 104), (150, 128, 112), (198, 172, 140)][scene - 4])
        grain = 1 + 0.03 * np.sin(x * 9 + 3 * np.sin(y * 60)) * (y > 0.74)
        pixels = np.where((y > 0.74)[..., None], table, np.array(papers[scene])) * (light * grain)[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@functools.lru_cache(maxsize=256)
def _shade(kind: str, strength: int, mirror: bool) -> Image.Image:
    """A 96 x 96 multiplier: light from the upper left (from the right when mirrored)."""
    y, x = np.mgrid[0:96, 0:96] / 95
    if mirror:
        x = 1 - x
    depth = strength / 20
    if kind == "round":  # a cylinder
        dark = np.abs(x - 0.34) ** 1.8 * 2.1
    elif kind == "ball":
        dark = np.hypot(x - 0.36, y - 0.3) ** 1.7 * 1.5
    elif kind == "down":
        dark = y
    else:  # side: cloth and boards
        dark = 0.55 * x + 0.45 * y
    value = np.clip(255 * (1 - depth * np.clip(dark, 0, 1.2)), 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(value[..., None], 3, axis=2))


@functools.lru_cache(maxsize=1)
def _blot() -> Image.Image:
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    return Image.fromarray((150 * np.clip(1 - np.hypot(x, y), 0, 1) ** 1.3).astype(np.uint8))


@functools.lru_cache(maxsize=1)
def _streak() -> Image.Image:
    y, x = np.mgrid[-1:1:128j, -1:1:32j]
    return Image.fromarray((255 * np.clip(1 - x**2, 0, 1) ** 2 * np.clip(1 - y**4, 0, 1)).astype(np.uint8))


@functools.lru_cache(maxsize=64)
def _grain(material: str) -> Image.Image:
    """What a material does to a flat colour: a multiplier of the whole canvas."""
    y, x = np.mgrid[0:_N, 0:_N].astype(np.float64)
    noise = np.random.default_rng(7).normal(size=(_N, _N))
    if material in ("wool", "knit"):
        value = 0.93 + 0.07 * np.sin(y * 1.1 + 1.4 * np.abs(np.sin(x * 0.35))) + 0.02 * noise
    elif material in ("cotton", "linen", "canvas", "polyester"):
        rough = {"linen": 0.05, "canvas": 0.045, "cotton": 0.02, "polyester": 0.01}[material]
        value = 0.97 + rough * (np.sin(x * 1.57) * np.sin(y * 1.57) + 0.6 * noise)
    elif material in ("oak", "walnut", "bamboo", "rattan"):
        value = 0.92 + 0.08 * np.sin(x * 0.06 + 2.2 * np.sin(y * 0.011) + 6 * np.sin(x * 0.004)) + 0.02 * noise
    elif material in ("leather", "suede", "terracotta", "concrete"):
        soft = np.asarray(
            Image.fromarray((128 + 40 * noise).clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.6))
        )
        value = 0.96 + (soft.astype(np.float64) - 128) / 128 * 0.9
    elif material == "steel":
        value = 0.95 + 0.04 * np.sin(x * 0.9) * np.sin(x * 0.013) + 0.01 * noise
    else:
        value = 0.99 + 0.006 * noise
    value = np.clip(value * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(value[..., None], 3, axis=2))


@functools.lru_cache(maxsize=64)
def _pattern(pattern: str, scale: int) -> Image.Image:
    """Where the accent colour goes: a mask of the whole canvas."""
    y, x = np.mgrid[0:_N, 0:_N].astype(np.float64)
    step = (26.0, 36.0, 48.0)[scale]
    if pattern == "striped":
        on = (y % step) < step * 0.42
    elif pattern == "dotted":
        shift = (np.floor(y / step) % 2) * step / 2
        on = np.hypot((x + shift) % step - step / 2, y % step - step / 2) < step * 0.24
    elif pattern == "checked":
        on = ((x % step) < step * 0.45).astype(float) * 0.5 + ((y % step) < step * 0.45) * 0.5
    elif pattern == "zigzag":
        on = ((y + np.abs(x % step - step / 2) * 1.1) % step) < step * 0.4
    elif pattern == "speckled":
        rng = np.random.default_rng(11 + scale)
        dots = Image.fromarray((255 * (rng.random((_N // 4, _N // 4)) > 0.93)).astype(np.uint8))
        return dots.resize((_N, _N), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))
    else:
        on = np.zeros((_N, _N))
    return Image.fromarray((255 * on.astype(np.float64)).astype(np.uint8))


@functools.lru_cache(maxsize=8)
def _texture(colour: Rgb, accent: Rgb, pattern: str, material: str, scale: int) -> Image.Image:
    flat = Image.new("RGB", (_N, _N), colour)
    if pattern != "plain":
        flat.paste(Image.new("RGB", (_N, _N), accent), (0, 0), _pattern(pattern, scale))
    return ImageChops.multiply(flat, _grain(material))


def _oval(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> Points:
    """Points of an ellipse, clockwise from the right, degrees."""
    n = max(8, int(abs(stop - start) / 6))
    angles = (math.radians(start + (stop - start) * i / n) for i in range(n + 1))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def _box(left: float, top: float, right: float, bottom: float, radius: float = 0) -> Points:
    """Points of a rectangle with round corners."""
    radius = min(radius, (right - left) / 2, (bottom - top) / 2)
    corners = (
        (right - radius, top + radius, 270),
        (right - radius, bottom - radius, 0),
        (left + radius, bottom - radius, 90),
        (left + radius, top + radius, 180),
    )
    return [point for x, y, start in corners for point in _oval(x, y, radius, radius, start, start + 90)]


def _smooth(points: Sequence[tuple[float, float]], *, closed: bool = True) -> Points:
    """A Catmull-Rom curve through the points."""
    n = len(points)
    curve: Points = []
    for i in range(n if closed else n - 1):
        p0, p1, p2, p3 = (points[j % n] if closed else points[min(max(j, 0), n - 1)] for j in (i - 1, i, i + 1, i + 2))
        for step in range(10):
            t = step / 10
            weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
            curve.append(
                (
                    sum(w * p[0] for w, p in zip(weights, (p0, p1, p2, p3), strict=True)) / 2,
                    sum(w * p[1] for w, p in zip(weights, (p0, p1, p2, p3), strict=True)) / 2,
                )
            )
    return curve if closed else [*curve, points[-1]]


def _mixed(a: Rgb, b: Rgb, share: float) -> Rgb:
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


_FLAT = ("t-shirt", "sweater", "dress", "watch", "rug", "cushion")  # photographed from above
_INK: Rgb = (44, 42, 48)
_WHITE: Rgb = (250, 249, 246)
_WOOD: Rgb = (181, 136, 94)
_METAL: Rgb = (168, 172, 178)
_BRASS: Rgb = (196, 160, 92)


# Things.


def _mug(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    top, half, taper = rng.uniform(30, 42), rng.uniform(20, 25), rng.uniform(0, 5)
    pencil.shadow(50, half + 12)
    handle = _mixed(look.colour, _INK, 0.15)
    middle = (top + _GROUND) / 2
    pencil.stroke(_oval(47 + half, middle, 15, (_GROUND - top) * 0.3, -80, 80), 5, handle)
    body = [(47 - half, top), (47 + half, top)]
    body += _oval(47, _GROUND - 4, half - taper, 5, 0, 180)
    pencil.fill(body, shade="round", depth=0.5, gloss=True)
    pencil.fill(_oval(47, top, half, 5.5), _mixed(look.colour, _WHITE, 0.45), depth=0.15)
    pencil.fill(
        _oval(47, top + 1, half - 2.5, 4),
        (92, 62, 44) if look.design % 2 else _mixed(look.colour, _INK, 0.45),
        depth=0.2,
    )


def _tumbler(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    top, half = rng.uniform(22, 32), rng.uniform(17, 21)
    pencil.shadow(50, half + 6)
    pencil.fill(
        [(50 - half, top), (50 + half, top), *_oval(50, _GROUND - 3, half * 0.7, 3.5, 0, 180)],
        shade="round",
        depth=0.5,
        gloss=True,
    )
    pencil.fill(
        [(50 - half * 0.93, 52), (50 + half * 0.93, 52), (50 + half * 0.85, 66), (50 - half * 0.85, 66)],
        look.accent,
        shade="round",
        depth=0.4,
    )
    pencil.fill(
        _box(50 - half - 1.5, top - 6, 50 + half + 1.5, top + 2, 3), _mixed(look.accent, _INK, 0.3), shade="round"
    )
    pencil.fill(
        _box(50 - half * 0.7, top - 10, 50 + half * 0.7, top - 5, 2), _mixed(look.accent, _INK, 0.45), shade="round"
    )


def _table_lamp(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    wide, narrow, low = rng.uniform(24, 31), rng.uniform(11, 19), rng.uniform(44, 52)
    metal = _BRASS if look.design % 2 else _INK
    pencil.shadow(50, 22)
    pencil.glow(50, low, 46, (255, 232, 178))
    foot = look.accent if look.material != "steel" else metal
    pencil.fill(_box(47.8, low - 4, 52.2, _GROUND - 4, 1), metal, shade="round", depth=0.5)
    if look.design % 3 == 0:
        pencil.fill(_oval(50, _GROUND - 13, 12, 12), foot, shade="ball", depth=0.45)
    pencil.fill(_oval(50, _GROUND - 3, 16, 4), _mixed(foot, _INK, 0.2), shade="round", depth=0.4)
    pencil.fill(
        [(50 - narrow, 16), (50 + narrow, 16), (50 + wide, low), *_oval(50, low, wide, 4, 0, 180)],
        shade="round",
        depth=0.32,
    )
    pencil.fill(_oval(50, 16, narrow, 2.2), (255, 244, 212), shade="flat")


def _pendant_lamp(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    half, low, high = rng.uniform(26, 34), rng.uniform(62, 70), rng.uniform(30, 38)
    pencil.stroke([(50, -8), (50, high)], 1, _INK)
    pencil.glow(50, low + 8, 40, (255, 230, 168))
    neck = rng.uniform(3, 8)
    outline = [
        (50 - neck, high),
        (50 + neck, high),
        (50 + half * 0.55, high + (low - high) * 0.3),
        (50 + half * 0.92, low - 6),
        (50 + half, low),
    ]
    left = [(100 - x, y) for x, y in reversed(outline)]
    pencil.fill(_smooth(outline, closed=False) + _smooth(left, closed=False), shade="round", depth=0.5, gloss=True)
    pencil.fill(_oval(50, low, half, 5), (255, 238, 190), depth=0.12)
    pencil.fill(_oval(50, low + 2, 7, 5), (255, 250, 232), shade="flat")
    pencil.fill(_box(46, high - 5, 54, high + 1, 1.5), _BRASS if look.design % 2 else _INK, shade="round")


def _backpack(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    half, top = rng.uniform(22, 27), rng.uniform(22, 28)
    trim = _mixed(look.accent, _INK, 0.25)
    pencil.shadow(50, half + 9)
    pencil.stroke(_oval(50, top + 2, 9, 9, 180, 360), 3, trim)
    for side in (-1, 1):
        pencil.stroke(
            _smooth(
                [(50 + side * half * 0.8, top + 12), (50 + side * (half + 6), 52), (50 + side * (half + 1), 76)],
                closed=False,
            ),
            3.4,
            trim,
        )
    pencil.fill(_box(50 - half, top, 50 + half, _GROUND, 16), depth=0.42)
    pencil.stroke(_oval(50, top + 19, half * 0.86, 12, 190, 350), 0.9, trim)
    pencil.fill(
        _box(50 - half * 0.72, 56, 50 + half * 0.72, _GROUND - 5, 6), _mixed(look.colour, _INK, 0.16), depth=0.3
    )
    pencil.stroke([(50 - half * 0.62, 61), (50 + half * 0.62, 61)], 0.9, trim)
    if look.design % 2:
        pencil.fill(_box(45, 42, 55, 50, 1.5), look.accent, depth=0.2)
    else:
        for side in (-1, 1):
            pencil.fill(_box(50 + side * half * 0.45 - 2, 40, 50 + side * half * 0.45 + 2, 66, 1), trim, depth=0.2)


def _tote(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    top, half = rng.uniform(38, 44), rng.uniform(26, 31)
    pencil.shadow(50, half + 8)
    strap = look.accent if look.material != "leather" else _mixed(look.colour, _INK, 0.35)
    for shift in (-2.2, 1.6):
        pencil.stroke(
            _oval(50 + shift, top + 4, 14, 26, 180, 360), 2.6, _mixed(strap, _INK, 0.12 if shift > 0 else 0.35)
        )
    pencil.fill([(50 - half, top), (50 + half, top), (50 + half - 4, _GROUND), (50 - half + 4, _GROUND)], depth=0.36)
    pencil.stroke([(50 - half + 1, top + 3.2), (50 + half - 1, top + 3.2)], 0.7, _mixed(look.colour, _INK, 0.4))
    if look.design % 3 == 0:
        pencil.fill(_box(50 - 9, 56, 50 + 9, 70, 1), strap, depth=0.2)


def _t_shirt(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    half, sleeve = rng.uniform(20, 24), rng.uniform(44, 52)
    right = [
        (58, 20),
        (50 + half, 25),
        (50 + half + 17, sleeve - 4),
        (50 + half + 7, sleeve + 4),
        (50 + half - 1, 41),
        (50 + half, 84),
    ]
    left = [(100 - x, y) for x, y in reversed(right)]
    pencil.shadow(50, half + 12, y=88, flat=0.1)
    pencil.fill(right + left, depth=0.3)
    edge = _mixed(look.colour, _INK, 0.32)
    for side in (-1, 1):
        pencil.stroke([(50 + side * (half - 1), 42), (50 + side * (half - 0.5), 52)], 0.6, edge)
        pencil.stroke([(50 + side * (half + 15.5), sleeve - 5.6), (50 + side * (half + 5.6), sleeve + 2.2)], 0.6, edge)
    neck = 12 if look.design % 2 else 8
    pencil.fill(_oval(50, 20, 8.6, neck, 0, 180), _mixed(look.colour, _INK, 0.45), shade="down", depth=0.2)
    pencil.stroke(_oval(50, 20, 8.6, neck, 0, 180), 1.5, _mixed(look.colour, _INK, 0.2))


def _sweater(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    half, cuff = rng.uniform(20, 24), rng.uniform(72, 80)
    right = [
        (58, 19),
        (50 + half, 24),
        (50 + half + 9, 46),
        (50 + half + 13, cuff),
        (50 + half + 4, cuff + 2),
        (50 + half - 1, 46),
        (50 + half, 84),
    ]
    left = [(100 - x, y) for x, y in reversed(right)]
    hood = look.design % 3 == 0
    pencil.shadow(50, half + 14, y=88, flat=0.1)
    if hood:
        pencil.fill(_smooth([(36, 26), (38, 12), (50, 8), (62, 12), (64, 26), (50, 32)]), depth=0.4)
    pencil.fill(right + left, depth=0.34)
    edge = _mixed(look.colour, _INK, 0.24)
    pencil.fill(_box(50 - half, 79, 50 + half, 85, 1.5), edge, depth=0.3)
    for side in (-1, 1):
        pencil.fill(
            [
                (50 + side * (half + 12.3), cuff - 4),
                (50 + side * (half + 13.2), cuff + 1),
                (50 + side * (half + 3.6), cuff + 3),
                (50 + side * (half + 3), cuff - 2),
            ],
            edge,
            depth=0.2,
        )
        pencil.stroke([(50 + side * (half - 1), 46), (50 + side * (half - 0.4), 78)], 0.6, edge)
    if hood:
        pencil.fill(_smooth([(42, 22), (50, 14), (58, 22), (50, 30)]), _mixed(look.colour, _INK, 0.55), shade="down")
        pencil.fill(_box(38, 60, 62, 75, 4), edge, depth=0.25)
        for x in (46.5, 53.5):
            pencil.stroke([(x, 27), (x + 0.4, 42)], 0.8, _WHITE)
    else:
        pencil.fill(_oval(50, 19.5, 8.5, 5.5), _mixed(look.colour, _INK, 0.5), shade="down")
        pencil.stroke(_oval(50, 19.5, 8.5, 5.5), 2, edge)


def _dress(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    flare, hem, waist = rng.uniform(22, 33), rng.uniform(80, 88), rng.uniform(44, 50)
    outline = [(43, 12), (41, 26), (38, 34), (41, waist), (50 - flare, hem)]
    mirrored = [(100 - x, y) for x, y in reversed(outline)]
    pencil.shadow(50, flare + 4, y=hem + 2, flat=0.12)
    if look.design % 2:
        for side in (-1, 1):
            pencil.fill(
                [
                    (50 + side * 8, 13),
                    (50 + side * 13, 22),
                    (50 + side * 22, 38),
                    (50 + side * 15, 42),
                    (50 + side * 10, 32),
                ],
                depth=0.4,
            )
    skirt = _oval(50, hem, flare, 4, 180, 0)
    pencil.fill([*outline[:4], (50 - flare, hem), *skirt, *mirrored], depth=0.34)
    fold = _mixed(look.colour, _INK, 0.2)
    for share in (-0.6, -0.2, 0.25, 0.65):
        pencil.stroke([(50 + share * 9, waist + 5), (50 + share * flare, hem + 1)], 0.6, fold)
    pencil.fill(
        [(40.6, waist - 2), (59.4, waist - 2), (59.6, waist + 2), (40.4, waist + 2)], look.accent, shade="round"
    )
    pencil.fill(_oval(50, 12, 7, 10, 0, 180), _mixed(look.colour, _INK, 0.5), shade="down", depth=0.2)


def _sneaker(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    collar, toe = rng.uniform(34, 42), rng.uniform(60, 64)
    pencil.shadow(50, 40, y=80, flat=0.1)
    upper = [
        (13, 72),
        (12, 50),
        (18, collar),
        (30, collar + 3),
        (38, collar + 2),
        (50, 50),
        (66, 57),
        (82, toe),
        (89, 72),
        (50, 75),
    ]
    pencil.fill(_smooth(upper), depth=0.35)
    pencil.fill(
        _smooth([(17, collar + 2), (26, collar - 1), (37, collar + 3), (28, collar + 7)]),
        _mixed(look.colour, _INK, 0.55),
        shade="flat",
    )
    pencil.fill(_smooth([(68, 60), (80, toe), (90, 71), (74, 74)]), look.accent, depth=0.3)
    pencil.fill(_smooth([(12, 72), (12, 54), (20, 52), (26, 72)]), look.accent, depth=0.3)
    lace = _WHITE if sum(look.colour) < 600 else _INK
    for i in range(4):
        x, y = 42 + i * 6.2, 48 + i * 3.2
        pencil.stroke([(x - 3.4, y + 6), (x + 2, y - 1)], 1.3, lace)
    if look.design % 2:
        pencil.stroke(
            _smooth([(30, 70), (42, 63), (56, 60), (48, 68), (36, 72)], closed=False),
            2.4,
            _mixed(look.accent, _WHITE, 0.15),
        )
    else:
        for x in (34, 40, 46):
            pencil.stroke([(x, 71), (x + 6, 58)], 1.8, _mixed(look.accent, _WHITE, 0.15))
    sole = _WHITE if look.design % 3 else _mixed(_WOOD, _WHITE, 0.25)
    pencil.fill(
        _smooth([(10, 71), (50, 74), (91, 70), (92, 77), (86, 80), (14, 80), (9, 77)]), sole, shade="down", depth=0.25
    )


def _boot(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    top = rng.uniform(14, 34)
    pencil.shadow(52, 34, y=85, flat=0.1)
    shaft: Points = [(28, top), (52, top), (53, 48), (58, 58), (72, 62), (83, 70), (84, 79), (28, 79), (26, 60)]
    pencil.fill(shaft[:3] + _smooth(shaft[2:7], closed=False) + shaft[7:], depth=0.42, gloss=True)
    pencil.fill(_box(27, top - 2, 53, top + 4, 2), _mixed(look.accent, _INK, 0.15), shade="round")
    if look.design % 2:
        for i in range(5):
            y = top + 8 + i * (52 - top) / 5
            pencil.stroke([(44, y), (54, y + 3)], 1.2, _mixed(look.accent, _WHITE, 0.3))
    else:
        pencil.fill([(34, top + 6), (46, top + 6), (44, 52), (36, 52)], _mixed(look.colour, _INK, 0.35), depth=0.2)
    dark = _mixed(look.colour, _INK, 0.78)
    pencil.fill([(26, 78), (85, 78), (86, 82), (46, 82), (44, 87), (26, 87)], dark, shade="down")


def _watch(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    radius, band = rng.uniform(19, 24), rng.uniform(9, 12)
    pencil.shadow(50, 24, y=60, flat=0.9)
    pencil.fill([(50 - band, 4), (50 + band, 4), (50 + band + 2, 40), (50 - band - 2, 40)], depth=0.35)
    pencil.fill([(50 - band - 2, 60), (50 + band + 2, 60), (50 + band, 97), (50 - band, 97)], depth=0.35)
    metal = (_METAL, _BRASS, _INK)[look.design % 3]
    square = look.design % 4 == 3

    def shape(size: float, corner: float) -> Points:
        return _box(50 - size, 50 - size, 50 + size, 50 + size, corner) if square else _oval(50, 50, size, size)

    pencil.fill(_box(50 + radius, 47, 50 + radius + 4, 53, 1), metal, depth=0.4)
    pencil.fill(shape(radius, 8), metal, shade="ball", depth=0.5)
    dial = look.accent
    pencil.fill(shape(radius - 3, 6), dial, shade="side", depth=0.14)
    mark = _INK if sum(dial) > 380 else _WHITE
    for hour in range(12):
        angle = math.radians(30 * hour)
        far, near = radius - 4.6, radius - (8 if hour % 3 == 0 else 6.4)
        pencil.stroke(
            [
                (50 + near * math.sin(angle), 50 - near * math.cos(angle)),
                (50 + far * math.sin(angle), 50 - far * math.cos(angle)),
            ],
            0.8,
            mark,
        )
    for angle, length, width in ((math.radians(305), radius - 11, 1.5), (math.radians(50), radius - 7, 1.0)):
        pencil.stroke([(50, 50), (50 + length * math.sin(angle), 50 - length * math.cos(angle))], width, mark)
    pencil.fill(_oval(50, 50, 1.3, 1.3), metal, shade="flat")


def _headphones(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    spread, cup = rng.uniform(26, 30), rng.uniform(15, 19)
    pencil.shadow(50, spread + 12, y=88, flat=0.12)
    pencil.stroke(_oval(50, 54, spread, 38, 185, 355), 5, _mixed(look.colour, _INK, 0.3))
    pencil.stroke(_oval(50, 54, spread - 1, 37, 215, 325), 3, look.accent)
    for side in (-1, 1):
        x = 50 + side * spread
        pencil.fill(
            _box(x - 7 - side * 6, 62 - cup, x + 7 - side * 6, 62 + cup, 7),
            _mixed(_INK, look.colour, 0.15),
            shade="round",
        )
        pencil.fill(
            _box(x - 8 + side * 2, 60 - cup, x + 8 + side * 2, 64 + cup, 8), shade="round", depth=0.45, gloss=True
        )
        pencil.fill(_oval(x + side * 2, 62, 4, cup * 0.5), look.accent, shade="ball")


def _speaker(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    half, top = rng.uniform(19, 29), rng.uniform(18, 36)
    pencil.shadow(50, half + 7)
    pencil.fill(_box(50 - half, top, 50 + half, _GROUND, 7), depth=0.4)
    grill = _mixed(look.accent, _INK, 0.62)
    big = min(half - 5, (_GROUND - top) * 0.3)
    pencil.fill(_oval(50, _GROUND - big - 6, big, big), grill, shade="ball", depth=0.35)
    pencil.fill(
        _oval(50, _GROUND - big - 6, big * 0.68, big * 0.68), _mixed(grill, _WHITE, 0.16), shade="ball", depth=0.5
    )
    pencil.fill(_oval(50, _GROUND - big - 6, big * 0.25, big * 0.25), grill, shade="ball")
    room = _GROUND - 2 * big - 12 - top
    if room > 12:
        pencil.fill(_oval(50, top + room / 2 + 2, room * 0.34, room * 0.34), grill, shade="ball", depth=0.35)
        pencil.fill(_oval(50, top + room / 2 + 2, room * 0.14, room * 0.14), look.accent, shade="ball")


def _chair(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    back, seat = rng.uniform(16, 24), rng.uniform(54, 58)
    wood = _WOOD if look.design % 2 else _INK
    pencil.shadow(50, 30, y=90)
    for x, foot in ((36, 33), (64, 68)):
        pencil.stroke([(x, seat), (foot, 86)], 2.4, _mixed(wood, _INK, 0.35))
    for x, foot in ((29, 24), (71, 76)):
        pencil.stroke([(x, seat + 4), (foot, 91)], 3, wood)
    if look.design % 3:
        for x in (34, 66):
            pencil.stroke([(x, back + 10), (x, seat)], 2.6, wood)
        pencil.fill(_box(30, back, 70, back + 20, 7), depth=0.3)
    else:
        pencil.fill(
            _smooth([(31, seat - 2), (29, back + 8), (36, back), (64, back), (71, back + 8), (69, seat - 2)]),
            depth=0.34,
        )
    pencil.fill(
        _smooth([(26, seat + 2), (32, seat - 4), (68, seat - 4), (74, seat + 2), (72, seat + 7), (28, seat + 7)]),
        shade="down",
        depth=0.3,
    )


def _armchair(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    back = rng.uniform(22, 32)
    wood = _WOOD if look.design % 2 else _INK
    pencil.shadow(50, 38, y=90)
    for x in (24, 76):
        pencil.stroke([(x, 80), (x + (x - 50) * 0.06, 90)], 3.2, wood)
    pencil.fill(_box(24, back, 76, 72, 13 if look.design % 3 else 5), depth=0.36)
    pencil.fill(_box(26, 60, 74, 82, 5), _mixed(look.colour, _INK, 0.12), shade="down", depth=0.3)
    pencil.fill(_box(28, 54, 72, 66, 5), shade="down", depth=0.22)
    for left in (13, 74):
        pencil.fill(_box(left, 47, left + 13, 83, 6), shade="round", depth=0.36)
    if look.design % 4 == 0:
        for x in (38, 50, 62):
            pencil.fill(_oval(x, back + 14, 1, 1), _mixed(look.colour, _INK, 0.5), shade="flat")


def _pot(pencil: _Pencil, look: Look, top: float, half: float) -> None:
    pencil.shadow(50, half + 8)
    pencil.fill(
        [(50 - half, top), (50 + half, top), *_oval(50, _GROUND - 3, half * 0.74, 3.6, 0, 180)],
        shade="round",
        depth=0.5,
        gloss=True,
    )
    pencil.fill(_oval(50, top, half, 3.6), _mixed(look.colour, _WHITE, 0.2), shade="flat")
    pencil.fill(_oval(50, top + 0.4, half - 2, 2.6), (74, 56, 44), shade="flat")


def _plant(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    top, half = rng.uniform(58, 64), rng.uniform(15, 19)
    green = rng.choice([(74, 124, 78), (96, 146, 84), (58, 108, 92), (128, 152, 88)])
    broad = rng.uniform(4, 8)
    _pot(pencil, look, top, half)
    n = rng.randint(7, 11)
    order = sorted(range(n), key=lambda i: -abs(i - (n - 1) / 2))
    for i in order:
        angle = math.radians(-165 + 150 * i / (n - 1) + rng.uniform(-6, 6))
        length = rng.uniform(26, 40) * (0.75 + 0.35 * abs(math.sin(angle)))
        tip = (50 + length * math.cos(angle) * 0.95, top + length * math.sin(angle))
        side = (-math.sin(angle) * broad, math.cos(angle) * broad)
        mid = (50 + (tip[0] - 50) * 0.6, top + (tip[1] - top) * 0.62)
        leaf = [(50, top), (mid[0] + side[0], mid[1] + side[1]), tip, (mid[0] - side[0], mid[1] - side[1])]
        pencil.fill(_smooth(leaf), _mixed(green, _WHITE if i % 2 else _INK, 0.14), depth=0.35)
        pencil.stroke([(50, top), mid], 0.6, _mixed(green, _WHITE, 0.3))


def _cactus(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    top, half = rng.uniform(60, 66), rng.uniform(14, 18)
    green = rng.choice([(86, 138, 96), (104, 150, 110), (70, 120, 100)])
    _pot(pencil, look, top, half)
    high, thick = rng.uniform(18, 30), rng.uniform(8, 11)
    for side, y in ((-1, rng.uniform(44, 50)), (1, rng.uniform(38, 46))):
        reach = thick + rng.uniform(6, 9)
        pencil.stroke(
            [(50, y + 4), (50 + side * reach, y + 4), (50 + side * reach, y - 9)], 6.4, _mixed(green, _INK, 0.12)
        )
    pencil.fill(_box(50 - thick, high, 50 + thick, top + 1, thick), green, shade="round", depth=0.45)
    for shift in (-0.5, 0.0, 0.5):
        pencil.stroke([(50 + shift * thick, high + 6), (50 + shift * thick, top - 2)], 0.6, _mixed(green, _WHITE, 0.35))
    if look.design % 2:
        pencil.fill(_oval(50, high, 4.4, 3.4), (226, 110, 134), shade="ball")


def _bottle(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    half, shoulder, neck = rng.uniform(12, 16), rng.uniform(30, 40), rng.uniform(5.5, 8)
    pencil.shadow(50, half + 7)
    left = [(50 - neck, 20), (50 - neck, 26), (50 - half, shoulder), (50 - half, _GROUND - 3)]
    right = [(100 - x, y) for x, y in reversed(left)]
    pencil.fill(left + _oval(50, _GROUND - 3, half, 3, 180, 0) + right, shade="round", depth=0.55, gloss=True)
    if look.design % 2:
        pencil.fill(_box(50 - half, 54, 50 + half, 68), look.accent, shade="round", depth=0.45)
    cap = _mixed(look.accent, _INK, 0.35)
    pencil.fill(_box(50 - neck - 1.5, 11, 50 + neck + 1.5, 21, 2), cap, shade="round", depth=0.5)
    if look.design % 3 == 0:
        pencil.stroke(_oval(50, 11, neck, 5, 180, 360), 1.8, cap)


def _thermos(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    half, top = rng.uniform(14, 18), rng.uniform(28, 36)
    pencil.shadow(50, half + 8)
    if look.design % 2:
        pencil.stroke(_oval(50 + half, 58, 11, 15, -85, 85), 3.4, _mixed(look.accent, _INK, 0.3))
    pencil.fill(
        [(50 - half, top), (50 + half, top), *_oval(50, _GROUND - 3, half, 3.6, 0, 180)],
        shade="round",
        depth=0.55,
        gloss=True,
    )
    for y in (top, _GROUND - 8):
        pencil.fill(_box(50 - half - 0.4, y, 50 + half + 0.4, y + 4), _METAL, shade="round", depth=0.5)
    pencil.fill(_box(50 - half + 2, top - 17, 50 + half - 2, top, 4), look.accent, shade="round", depth=0.5)
    pencil.fill(_box(50 - half + 2, top - 5, 50 + half - 2, top - 3.4), _mixed(look.accent, _INK, 0.4), shade="round")


def _cushion(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    half, high = rng.uniform(31, 36), rng.uniform(24, 34)
    y = _GROUND - high - 1
    pencil.shadow(50, half + 4)
    corners = [
        (50 - half, y - high),
        (50, y - high * 0.92),
        (50 + half, y - high),
        (50 + half * 0.93, y),
        (50 + half, y + high),
    ]
    corners += [(50, y + high * 0.93), (50 - half, y + high), (50 - half * 0.93, y)]
    if look.design % 3 == 0:
        pencil.fill(
            [(50 + (x - 50) * 1.05, y + (b - y) * 1.05) for x, b in _smooth(corners)], look.accent, shade="side"
        )
    pencil.fill(_smooth(corners), shade="ball", depth=0.32)
    if look.design % 3 == 1:
        pencil.fill(_oval(50, y, 2, 2), look.accent, shade="ball")
    if look.design % 4 == 2:
        for x, b in (corners[0], corners[2], corners[4], corners[6]):
            for lean in (-2.0, 0.0, 2.0):
                pencil.stroke(
                    [(x, b), (x + (3 if x > 50 else -3) + lean, b + (4 if b > y else -4) - lean)], 0.8, look.accent
                )


def _rug(pencil: _Pencil, look: Look, rng: random.Random) -> None:
    half, high = rng.uniform(30, 34), rng.uniform(34, 41)
    if look.design % 4 == 0:
        pencil.shadow(50, 41, y=53, flat=0.9)
        pencil.fill(_oval(50, 51, 39, 39), look.accent, depth=0.2)
        pencil.fill(_oval(50, 51, 35, 35), depth=0.2)
        return
    pencil.shadow(50, 36, y=54, flat=1.0)
    for i in range(25):
        x = 50 - half + 1 + i * (2 * half - 2) / 24
        pencil.stroke([(x, 51 - high - 5), (x, 51 + high + 5)], 0.7, _mixed(look.accent, _WHITE, 0.55))
    pencil.fill(_box(50 - half, 51 - high, 50 + half, 51 + high, 1), look.accent, depth=0.2)
    pencil.fill(_box(50 - half + 4, 51 - high + 4, 50 + half - 4, 51 + high - 4), depth=0.2)
    if look.design % 3 == 1:
        pencil.fill(
            [(50, 51 - high * 0.55), (50 + half * 0.55, 51), (50, 51 + high * 0.55), (50 - half * 0.55, 51)],
            look.accent,
            depth=0.2,
        )
        pencil.fill(
            [(50, 51 - high * 0.3), (50 + half * 0.3, 51), (50, 51 + high * 0.3), (50 - half * 0.3, 51)], depth=0.2
        )


KINDS: dict[str, Callable[[_Pencil, Look, random.Random], None]] = {
    "mug": _mug,
    "tumbler": _tumbler,
    "table lamp": _table_lamp,
    "pendant lamp": _pendant_lamp,
    "backpack": _backpack,
    "tote bag": _tote,
    "t-shirt": _t_shirt,
    "sweater": _sweater,
    "dress": _dress,
    "sneaker": _sneaker,
    "boot": _boot,
    "watch": _watch,
    "headphones": _headphones,
    "speaker": _speaker,
    "chair": _chair,
    "armchair": _armchair,
    "plant": _plant,
    "cactus": _cactus,
    "water bottle": _bottle,
    "thermos": _thermos,
    "cushion": _cushion,
    "rug": _rug,
}
