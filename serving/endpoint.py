"""What callers address: variants, the traffic each of them gets, and which variant answers which unit."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from matching.errors import Forbidden, InvalidInput, NotFound
from matching.store import check_name
from serving.override import Override

N_BUCKETS: Final = 10_000
Knob = str | int | float | bool
Why = Literal["traffic", "outside", "no_unit", "override"]
KNOBS: Final[Mapping[str, type[Knob]]] = {
    "effort": int,
    "recall_target": float,
    "exact": bool,
    "crowding_cap": int,
    "rules": str,
}


def bucket_of(seed: str, unit_id: str) -> int:
    """Return the bucket of a unit, 0 to 9,999: the same for ever, and independent between seeds.

    It is GrowthBook's hash version 2 times 10,000. As in its JavaScript, letters are taken as UTF-16.
    """
    return _fnv1a(str(_fnv1a(seed + unit_id))) % N_BUCKETS


@dataclass(frozen=True, slots=True)
class Variant:
    """One arm of an endpoint.

    Attributes:
        name: names it in answers, logs and metrics.
        weight: its share of the units in the split, 0 to 1, a whole number of ten-thousandths.
        mirror: for a shadow, the share of requests that are copied to it, over 0; a shadow has no weight. 0 for all others.
        index: the version id or alias that it answers from.
        knobs: how its searches are answered where the caller does not say, and the alias of the rules of its slates: some of
            `KNOBS`.
    """

    name: str
    weight: float = 0.0
    mirror: float = 0.0
    index: str = ""
    knobs: Mapping[str, Knob] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_share(f"weight of variant {self.name!r}", self.weight)
        _check_share(f"mirror of variant {self.name!r}", self.mirror)
        for knob, value in self.knobs.items():
            if knob not in KNOBS or type(value) is not KNOBS[knob]:
                raise InvalidInput(
                    f"[endpoint] variant {self.name!r} has the knob {knob}={value!r}; expected some of "
                    f"{', '.join(f'{name} ({kind.__name__})' for name, kind in KNOBS.items())}; correct it"
                )
        if self.mirror and self.weight:
            raise InvalidInput(
                f"[endpoint] variant {self.name!r} is mirrored ({self.mirror:g}) and has weight {self.weight:g}; "
                "a shadow never takes traffic; set one of them to 0"
            )

    @property
    def is_shadow(self) -> bool:
        """Whether it is only shown copies of requests."""
        return self.mirror > 0


@dataclass(frozen=True, slots=True)
class BucketRange:
    """The buckets from `start` to before `stop`, and whose they are.

    Attributes:
        start: the first bucket.
        stop: the bucket after the last.
        variant: who answers these units; None for units outside of the split.
        since: the generation of the endpoint in which the variant got them.
    """

    start: int
    stop: int
    variant: str | None
    since: int = 0


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which variant answers a unit, and why.

    Attributes:
        variant: who answers.
        why: `traffic`: the split says so; `outside`: the unit is outside of the split, so control answers; `no_unit`: the
            request names no unit, so control answers; `override`: it carries a signed override.
        bucket: the unit's bucket, None without a unit.
    """

    variant: Variant
    why: Why
    bucket: int | None

    @property
    def is_exposure(self) -> bool:
        """Whether it counts in an experiment: only what chance decided does."""
        return self.why == "traffic"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Variants with a traffic split over 10,000 buckets. A value: `with_traffic` returns another. Make one with `create`.

    A unit's bucket never changes; what changes is whose the buckets are. Between an endpoint and what `with_traffic` makes
    of it, where a party is a variant or the units outside of the split, and its size `floor(10,000 * weight * coverage)`
    buckets (outside: the rest):

    1. A party whose size does not shrink keeps every unit it has.
    2. A party whose size shrinks loses exactly the difference, and gets no unit that it did not have.
    3. So no change of sizes could move fewer buckets.
    4. A variant that grew, and shrinks by as much in its next change of size, has the units it had before: who came last
       leaves first.
    5. Nothing but names, weights and coverage matters: not the index, the knobs, the mirror, nor the process that asks.

    A unit that returns to a party that it left is not promised a way back beyond 4; to go back as a whole, keep the endpoint
    that there was. When control changes, units outside of the split follow it. `create` lays ranges as GrowthBook does, but
    for fractions of a bucket: each variant begins where it would at full coverage. Changes of coverage alone keep to that.

    Attributes:
        name: what callers address.
        variants: its arms, names all different.
        control: who answers units outside of the split and requests without a unit.
        coverage: the share of units in the split, 0 to 1, a whole number of ten-thousandths.
        seed: two endpoints with different seeds split independently.
        generation: how many times the traffic has changed.
        ranges: whose each bucket is, in order and without a gap.
    """

    name: str
    variants: tuple[Variant, ...]
    control: str
    coverage: float
    seed: str
    generation: int
    ranges: tuple[BucketRange, ...]

    def __post_init__(self) -> None:
        check_name(self.name)
        sizes = _checked_sizes(self.name, self.variants, self.control, self.coverage)
        held: Counter[str | None] = Counter()
        end = 0
        for piece in self.ranges:
            if piece.start != end or piece.stop <= piece.start or not 0 <= piece.since <= self.generation:
                raise InvalidInput(
                    f"[endpoint] {self.name!r} has {piece} where buckets go on at {end}; expected ranges without gaps; "
                    "take them as they were written"
                )
            held[piece.variant] += piece.stop - piece.start
            end = piece.stop
        if held != sizes:  # a Counter: absent is 0; the sum of sizes is all buckets
            raise InvalidInput(
                f"[endpoint] the ranges of {self.name!r} give {dict(held)} buckets; expected {dict(sizes)}; "
                "change weights by with_traffic"
            )

    @classmethod
    def create(
        cls,
        name: str,
        variants: Sequence[Variant],
        *,
        control: str | None = None,
        coverage: float = 1.0,
        seed: str | None = None,
    ) -> Endpoint:
        """Return a new endpoint.

        Args:
            name: what callers address.
            variants: its arms; weights of those that are no shadows make 1.
            control: a variant's name, the first's when None.
            coverage: the share of units in the split.
            seed: the name when None.

        Raises:
            InvalidInput: a name is not valid or twice there, weights do not make 1, or control is not a variant or is a shadow.
        """
        chosen = control or (variants[0].name if variants else "")
        sizes = _checked_sizes(name, variants, chosen, coverage)
        ranges = _ranges([(owner, 0) for owner in _homes(variants, sizes)])
        return cls(name, tuple(variants), chosen, coverage, name if seed is None else seed, 0, ranges)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Endpoint:
        """Return the endpoint that `as_json` told of.

        Raises:
            InvalidInput: a part is missing, unknown or contradicts another.
        """
        try:
            parts = dict(told)
            parts["variants"] = tuple(Variant(**variant) for variant in parts["variants"])
            parts["ranges"] = tuple(BucketRange(*piece) for piece in parts["ranges"])
            return cls(**parts)
        except (KeyError, TypeError) as error:
            raise InvalidInput(
                f"[endpoint] this is not an endpoint: {error}; expected what as_json wrote; write it anew"
            ) from error

    def as_json(self) -> dict[str, Any]:
        """Return everything about it as JSON holds it; an equal endpoint can be made of it."""
        return {
            "name": self.name,
            "variants": [
                {"name": v.name, "weight": v.weight, "mirror": v.mirror, "index": v.index, "knobs": dict(v.knobs)}
                for v in self.variants
            ],
            "control": self.control,
            "coverage": self.coverage,
            "seed": self.seed,
            "generation": self.generation,
            "ranges": [[piece.start, piece.stop, piece.variant, piece.since] for piece in self.ranges],
        }

    def variant(self, name: str) -> Variant:
        """Return the variant of a name.

        Raises:
            NotFound: there is none.
        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        names = ", ".join(variant.name for variant in self.variants)
        raise NotFound(f"[endpoint] {self.name!r} has no variant {name!r}; expected one of {names}; choose one")

    def arm(
        self, name: str, *, weight: float, mirror: float, index: str | None, knobs: Mapping[str, Knob] | None
    ) -> Variant:
        """Return a variant for `with_traffic`; index and knobs that are None are those of the variant of that name.

        Raises:
            InvalidInput: a value is not valid.
        """
        before = next((variant for variant in self.variants if variant.name == name), Variant(name))
        return Variant(
            name, weight, mirror, before.index if index is None else index, before.knobs if knobs is None else knobs
        )

    def assign(self, unit_id: str | None, *, override: Override | None = None) -> Assignment:
        """Return which variant answers a unit.

        Args:
            unit_id: who is asking: a user, a session, a device; None or "" when nobody knows.
            override: what `read_override` returned.

        Raises:
            Forbidden: the override is for another endpoint, or forces a shadow.
            NotFound: the override names a variant that is gone.
        """
        bucket = bucket_of(self.seed, unit_id) if unit_id else None
        if override is not None:
            return Assignment(self._forced(override), "override", bucket)
        if bucket is None:
            return Assignment(self.variant(self.control), "no_unit", None)
        piece = self.ranges[bisect_right(self.ranges, bucket, key=_start) - 1]
        if piece.variant is None:
            return Assignment(self.variant(self.control), "outside", bucket)
        return Assignment(self.variant(piece.variant), "traffic", bucket)

    def shadows_of(self, request_id: str) -> tuple[Variant, ...]:
        """Return the shadows that are to see a copy of a request; each takes its share of requests, by their ids."""
        return tuple(
            variant
            for variant in self.variants
            if variant.is_shadow
            and bucket_of(f"{self.seed}/shadow/{variant.name}", request_id) < _parts(variant.mirror)
        )

    def with_traffic(
        self, variants: Sequence[Variant], *, coverage: float | None = None, control: str | None = None
    ) -> Endpoint:
        """Return this endpoint with other variants, weights or coverage, moving as few units as that allows.

        The class says what is promised.

        Args:
            variants: all arms from now on.
            coverage: as it was when None.
            control: as it was when None.

        Raises:
            InvalidInput: as `create`.
        """
        coverage = self.coverage if coverage is None else coverage
        control = self.control if control is None else control
        sizes = _checked_sizes(self.name, variants, control, coverage)
        held = [(p.variant, p.since) for p in self.ranges for _ in range(p.start, p.stop)]
        generation = self.generation + 1
        dealt = _dealt(held, sizes, _homes(variants, sizes), generation)
        return Endpoint(self.name, tuple(variants), control, coverage, self.seed, generation, _ranges(dealt))

    def _forced(self, override: Override) -> Variant:
        if override.endpoint != self.name:
            raise Forbidden(
                f"[override] it is for endpoint {override.endpoint!r}; expected one for {self.name!r}; ask for that"
            )
        variant = self.variant(override.variant)
        if variant.is_shadow:
            raise Forbidden(f"[override] {variant.name!r} is a shadow and answers nobody; choose another variant")
        return variant


def _fnv1a(text: str) -> int:
    value = 0x811C9DC5
    for unit in text.encode() if text.isascii() else _utf16(text):
        value = ((value ^ unit) * 0x01000193) & 0xFFFFFFFF
    return value


def _utf16(text: str) -> tuple[int, ...]:
    content = text.encode("utf-16-le", "surrogatepass")
    return struct.unpack(f"<{len(content) // 2}H", content)


def _start(piece: BucketRange) -> int:
    return piece.start


def _parts(share: float) -> int:
    return round(share * N_BUCKETS)


def _check_share(what: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise InvalidInput(f"[endpoint] the {what} is {share!r}; expected 0 to 1; correct it")
    if abs(share * N_BUCKETS - _parts(share)) > 1e-6:
        below = int(share * N_BUCKETS)
        raise InvalidInput(
            f"[endpoint] the {what} is {share!r}; expected a whole number of ten-thousandths; "
            f"choose {below / N_BUCKETS:g} or {(below + 1) / N_BUCKETS:g}"
        )


def _checked_sizes(name: str, variants: Sequence[Variant], control: str, coverage: float) -> Counter[str | None]:
    """Return how many buckets each party gets, the units outside under None."""
    _check_share(f"coverage of {name!r}", coverage)
    counted = Counter(variant.name for variant in variants)
    if twice := [found for found, n in counted.items() if n > 1]:
        raise InvalidInput(f"[endpoint] {name!r} has {counted[twice[0]]} variants {twice[0]!r}; expected one; rename")
    answering = [variant.name for variant in variants if not variant.is_shadow]
    if control not in answering:
        raise InvalidInput(
            f"[endpoint] control of {name!r} is {control!r}; expected one of {', '.join(answering) or 'no variant'}, "
            "and no shadow; choose one that answers"
        )
    if (total := sum(_parts(variant.weight) for variant in variants)) != N_BUCKETS:
        weights = ", ".join(f"{variant.name} {variant.weight:g}" for variant in variants if not variant.is_shadow)
        raise InvalidInput(
            f"[endpoint] the weights of {name!r} make {total / N_BUCKETS:g} ({weights}); expected 1; correct them"
        )
    covered = _parts(coverage)
    sizes: Counter[str | None] = Counter()
    for variant in variants:
        sizes[variant.name] = _parts(variant.weight) * covered // N_BUCKETS
    sizes[None] = N_BUCKETS - sum(sizes.values())
    return sizes


def _homes(variants: Sequence[Variant], sizes: Counter[str | None]) -> list[str | None]:
    """Return whose each bucket is before anything has changed: each variant begins where it would at full coverage."""
    owners: list[str | None] = [None] * N_BUCKETS
    start = 0
    for variant in variants:
        owners[start : start + sizes[variant.name]] = [variant.name] * sizes[variant.name]
        start += _parts(variant.weight)
    return owners


def _dealt(
    held: Sequence[tuple[str | None, int]], sizes: Counter[str | None], homes: Sequence[str | None], generation: int
) -> list[tuple[str | None, int]]:
    """Return owner and generation of each bucket, once parties that shrink have given to those that grow."""
    dealt = list(held)
    count = Counter(owner for owner, _ in held)
    free: set[int] = set()
    for name in count.keys() - {None}:
        mine = sorted(((since, bucket) for bucket, (owner, since) in enumerate(held) if owner == name), reverse=True)
        # who came last leaves first, and among those the highest bucket
        free.update(bucket for _, bucket in mine[: max(0, count[name] - sizes[name])])
    n_spare = max(0, count[None] - sizes[None])  # of those outside any bucket will do
    wanted = {name: sizes[name] - count[name] for name in sizes if name is not None and sizes[name] > count[name]}

    def take(name: str, bucket: int) -> None:
        nonlocal n_spare
        is_spare = bucket not in free and dealt[bucket][0] is None and n_spare > 0
        if bucket in free or is_spare:
            free.discard(bucket)
            n_spare -= is_spare
            wanted[name] -= 1
            dealt[bucket] = (name, generation)

    for bucket, home in enumerate(homes):
        if home is not None and wanted.get(home):
            take(home, bucket)
    for name in wanted:
        for bucket in range(N_BUCKETS):
            if not wanted[name]:
                break
            take(name, bucket)
    return [(None, generation) if bucket in free else owned for bucket, owned in enumerate(dealt)]


def _ranges(owners: Sequence[tuple[str | None, int]]) -> tuple[BucketRange, ...]:
    found: list[BucketRange] = []
    start = 0
    for bucket in range(1, N_BUCKETS + 1):
        if bucket == N_BUCKETS or owners[bucket] != owners[start]:
            found.append(BucketRange(start, bucket, *owners[start]))
            start = bucket
    return tuple(found)
