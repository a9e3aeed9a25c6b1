"""What admins ask of an endpoint and are answered, as JSON; rare enough that pydantic reads and writes it.

The models are the shapes of the HTTP API's document too. Names are taken in camelCase and snake_case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from matching.errors import InvalidQuery
from matching.store import AliasMove
from serving.endpoint import Endpoint, Knob, Variant

S = TypeVar("S", bound="Shape")


class Shape(BaseModel):
    """What a body or an answer looks like."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True, alias_generator=to_camel)


class KnobShape(Shape):
    """How the searches of a variant are answered where the caller does not say."""

    effort: int | None = None
    recall_target: float | None = None
    exact: bool | None = None
    crowding_cap: int | None = None
    rules: str | None = Field(default=None, description="alias of the rules of its slates")


class VariantShape(Shape):
    """A variant as a change names it."""

    name: str
    weight: float = Field(default=0.0, description="share of the units in the split, a whole number of ten-thousandths")
    mirror: float = Field(default=0.0, description="of a shadow: the share of requests that are copied to it")
    index: str | None = Field(default=None, description="alias or version; as it was where it is left out")
    knobs: KnobShape | None = Field(default=None, description="likewise")


class ServedVariantShape(VariantShape):
    """A variant as it is."""

    index_version: str = Field(description="what it answers from now")


class EndpointShape(Shape):
    """An endpoint as it is served."""

    name: str
    variants: list[ServedVariantShape]
    control: str = Field(description="answers units outside of the split, and requests without a unit")
    coverage: float = Field(description="share of the units that are in the split")
    generation: int
    refused: list[str] = Field(description="why versions that were asked for are not served")


class EndpointsShape(Shape):
    """The endpoints of a service."""

    endpoints: list[EndpointShape]


class TrafficRequest(Shape):
    """What the variants are from now on."""

    variants: list[VariantShape] = Field(description="all of them")
    coverage: float | None = None
    control: str | None = None
    why: str = "by API"


class PromoteRequest(Shape):
    """The version that a variant is to answer from."""

    version: str = Field(description="a version id, or an alias")
    why: str = "by API"
    variant: str = Field(default="", description="whose alias is moved; control's where it is left out")


class RollbackRequest(Shape):
    """A way back to the version before."""

    why: str = "roll back by API"
    variant: str = Field(default="", description="whose alias is moved; control's where it is left out")


class MoveShape(Shape):
    """A move of an alias."""

    at: str
    by: str
    old: str | None
    new: str
    why: str


def parsed(shape: type[S], body: Mapping[str, Any]) -> S:
    """Return a body as a shape.

    Raises:
        InvalidQuery: a key or a value is not what the API knows.
    """
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the request"
        raise InvalidQuery(
            f"[request] {where[:100]}: {first['msg']}; expected {', '.join(shape.model_fields)}; correct it"
        ) from None


def variants_of(request: TrafficRequest, endpoint: Endpoint) -> list[Variant]:
    """Return the variants that a change names, with what it leaves out as it is.

    Raises:
        InvalidInput: a value is not valid.
    """
    return [
        endpoint.arm(
            each.name,
            weight=each.weight,
            mirror=each.mirror,
            index=each.index,
            knobs=None if each.knobs is None else each.knobs.model_dump(exclude_none=True),
        )
        for each in request.variants
    ]


def endpoint_shape(endpoint: Endpoint, versions: Mapping[str, str], refused: Sequence[str]) -> EndpointShape:
    """Return an endpoint as it is served.

    Args:
        endpoint: the endpoint.
        versions: what each variant answers from.
        refused: why versions that were asked for are not served.
    """
    variants = [
        ServedVariantShape(
            name=each.name,
            weight=float(each.weight),
            mirror=float(each.mirror),
            index=each.index or endpoint.name,
            knobs=_knobs(each.knobs),
            index_version=versions[each.name],
        )
        for each in endpoint.variants
    ]
    return EndpointShape(
        name=endpoint.name,
        variants=variants,
        control=endpoint.control,
        coverage=float(endpoint.coverage),
        generation=endpoint.generation,
        refused=list(refused),
    )


def move_shape(move: AliasMove) -> MoveShape:
    """Return a move of an alias."""
    return MoveShape(at=move.at, by=move.by, old=move.old, new=move.new, why=move.why)


def body_of(shape: BaseModel) -> bytes:
    """Return the JSON of a shape."""
    return shape.model_dump_json(by_alias=True, exclude_none=True).encode()


def _knobs(knobs: Mapping[str, Knob]) -> KnobShape | None:
    return KnobShape.model_validate(dict(knobs)) if knobs else None
