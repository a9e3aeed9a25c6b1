"""The HTTP front: routes to use cases. Bodies are read by `serving.wire.vertex_json`, refused by `serving.intake`."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Route

from matching.datapoint import Filter
from matching.errors import InvalidQuery, LikewiseError
from serving.auth import Access, Gate
from serving.endpoint_routes import ACCESS as ENDPOINT_ACCESS
from serving.endpoint_routes import LIST, ONE, PROMOTE, ROLLBACK, TRAFFIC, EndpointRoutes
from serving.event_intake import EventIntake
from serving.event_routes import ACCESS as EVENT_ACCESS
from serving.event_routes import EVENTS, EventRoutes
from serving.health import Health
from serving.intake import DEADLINE, RECORD, AccessOf, Intake, error_response, http_error_body
from serving.metrics import CONTENT_TYPE, Metrics
from serving.pictures import Pictures
from serving.query import Answer, Options
from serving.recommend_routes import ACCESS as RECOMMEND_ACCESS
from serving.recommend_routes import BATCH, EXPLAIN, RANK, RECOMMEND, RecommendRoutes
from serving.recommendations import Recommendations
from serving.recommender import Recommender
from serving.request_log import RequestRecord
from serving.settings import ServingSettings
from serving.surface_routes import ACCESS as SURFACE_ACCESS
from serving.surface_routes import SURFACES, SurfaceRoutes, SurfacesResponse
from serving.vertex_routes import ACCESS as VERTEX_ACCESS
from serving.vertex_routes import VertexRoutes
from serving.wire import endpoint_json as shapes
from serving.wire import event_json, recommend_json, schema
from serving.wire import vertex_json as wire

FIND_NEIGHBORS: Final = "/v1/findNeighbors"
IMAGE_SEARCH: Final = "/v1/search/image"
UPSERT: Final = "/v1/upsertDatapoints"
REMOVE: Final = "/v1/removeDatapoints"
PAGE: Final = Path(__file__).parent / "page"
_JSON: Final = "application/json"
_MODULES: Final = (  # of the page, one a noun
    "address",
    "api",
    "basket",
    "card",
    "catalog",
    "compare",
    "element",
    "explanation",
    "filter",
    "home",
    "page",
    "picture",
    "product",
    "session",
    "shelf",
)
_FRONT: Final = {  # served path -> file below page/, content type
    "/": ("index.html", "text/html; charset=utf-8"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/shop.css": ("shop.css", "text/css; charset=utf-8"),
    **{f"/page/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in _MODULES},
    "/page/docs.css": ("docs.css", "text/css; charset=utf-8"),
    "/page/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/page/mark.svg": ("mark.svg", "image/svg+xml"),
}
ACCESS: Final[dict[str, Access]] = {  # what each route needs; a route that is not here keeps the service from starting
    "GET /healthz": "open",
    "GET /readyz": "open",
    "GET /metrics": "read",
    "GET /openapi.json": "read",
    "GET /images/{path:path}": "read",
    **{f"GET {path}": "read" for path in _FRONT},
    "POST /v1/search": "read",
    f"POST {IMAGE_SEARCH}": "read",
    "GET /v1/items": "read",
    "GET /v1/items/{datapoint_id:path}/similar": "read",
    f"POST {FIND_NEIGHBORS}": "read",
    "POST /v1/readIndexDatapoints": "read",
    f"POST {UPSERT}": "write",
    f"POST {REMOVE}": "write",
    "GET /v1/facets": "read",
    "GET /v1/versions/current": "read",
    **RECOMMEND_ACCESS,
    **SURFACE_ACCESS,
    **EVENT_ACCESS,
    **ENDPOINT_ACCESS,
    **VERTEX_ACCESS,
}
_POLICY: Final = (
    "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


class _File(FileResponse):
    chunk_size = 16 * 1024  # is held, twice, for every client that does not read


class HttpApi:
    """The routes of one service. Belongs to one event loop."""

    def __init__(
        self,
        recommender: Recommender,
        *,
        recommendations: Recommendations,
        health: Health,
        metrics: Metrics,
        gate: Gate,
        settings: ServingSettings,
        example_vector_dim: int,
        events: EventIntake | None = None,
    ) -> None:
        self._recommender = recommender
        self._recommendations = recommendations
        self._events = EventRoutes(events, settings=settings)
        self._surfaces = SurfaceRoutes(recommendations, takes_events=events is not None)
        self._gate = gate
        self._health = health
        self._metrics = metrics
        self._settings = settings
        self._front = {path: (PAGE / name).read_bytes() for path, (name, _) in _FRONT.items()}
        self._examples = _examples(recommender, example_vector_dim)

    def app(self) -> Intake:
        """Return the ASGI application in its intake."""
        api = FastAPI(
            title="Likewise",
            version="1",
            description="Nearest neighbours of texts, pictures, items and vectors.",
            docs_url=None,  # its page needs a CDN; ours does not
            redoc_url=None,
        )
        self._add_routes(api)
        if self._gate.is_on:
            _document_credentials(api)
        api.add_exception_handler(LikewiseError, _on_likewise_error)
        api.add_exception_handler(HTTPException, _on_http_error)
        posts = {FIND_NEIGHBORS: self._find_neighbors}  # the hot path: what FastAPI costs is most of what it costs
        return Intake(
            api,
            settings=self._settings,
            metrics=self._metrics,
            gate=self._gate,
            access_of=_access_of(api),
            image_path=IMAGE_SEARCH,
            posts=posts,
        )

    def _add_routes(self, api: FastAPI) -> None:
        examples = self._examples
        _add(api, "POST", "/v1/search", self.search, "Neighbours of a text", schema.SearchResponse,
             body=schema.SearchRequest, example=examples["search"])  # fmt: skip
        _add(api, "POST", IMAGE_SEARCH, self.search_image, "Neighbours of a picture: the body is the file",
             schema.SearchResponse, picture=True, parameters=schema.search_parameters(Options().k))  # fmt: skip
        _add(api, "GET", "/v1/items", self.browse, "Items spread over the catalogue, or those of some ids",
             schema.BrowseResponse, parameters=[
                 {"name": "id", "in": "query", "schema": {"type": "array", "items": {"type": "string"}},
                  "description": "instead: these items, without what is not there; may be repeated"},
                 {"name": "k", "in": "query", "schema": {"type": "integer", "default": 24}},
                 {"name": "offset", "in": "query", "schema": {"type": "integer", "default": 0}},
                 schema.RESTRICT_PARAMETER, schema.FILTER_PARAMETER,
             ])  # fmt: skip
        _add(api, "GET", "/v1/items/{datapoint_id:path}/similar", self.similar, "Neighbours of an item",
             schema.SearchResponse, parameters=[
                 {"name": "datapoint_id", "in": "path", "required": True, "schema": {"type": "string"},
                  "example": examples["id"]},
                 *schema.search_parameters(Options().k),
             ])  # fmt: skip
        _add(api, "POST", FIND_NEIGHBORS, self.find_neighbors, "Neighbours of vectors or items, a batch",
             schema.FindNeighborsResponse, body=schema.FindNeighborsRequest, example=examples["find"])  # fmt: skip
        _add(api, "POST", "/v1/readIndexDatapoints", self.read_datapoints, "Items by id",
             schema.ReadIndexDatapointsResponse, body=schema.ReadIndexDatapointsRequest, example=examples["read"])  # fmt: skip
        _add(api, "POST", UPSERT, self.upsert, "Put items in, replace them, or change their restricts alone",
             schema.WriteResponse, body=schema.UpsertDatapointsRequest, example=examples["upsert"])  # fmt: skip
        _add(api, "POST", REMOVE, self.remove, "Delete items", schema.WriteResponse,
             body=schema.RemoveDatapointsRequest, example=examples["remove"])  # fmt: skip
        _add(api, "GET", "/v1/facets", self.facets, "Counts of tokens and ranges of numbers", schema.FacetsResponse,
             parameters=[
                 {"name": name, "in": "query", "schema": {"type": "array", "items": {"type": "string"}}, "description": meant,
                  "example": example}
                 for name, meant, example in (
                     ("namespace", "a namespace of tokens", ["category"]), ("number", "a namespace of numbers", ["price"])
                 )
             ])  # fmt: skip
        _add(api, "GET", "/v1/versions/current", self.version, "What is being served", schema.VersionResponse)
        for path, handler in (
            ("/healthz", self.healthz),
            ("/readyz", self.readyz),
            ("/metrics", self.exposition),
            ("/images/{path:path}", self.image),
            *((path, self.front) for path in _FRONT),
        ):
            api.router.routes.append(Route(path, handler, methods=["GET"]))
        recommend = RecommendRoutes(self._recommendations, max_depth=self._settings.max_json_depth)
        _add(api, "POST", RECOMMEND, recommend.recommend, "What to show on a page of a shop",
             recommend_json.RecommendResponse, body=recommend_json.RecommendRequest, example=examples["recommend"])  # fmt: skip
        _add(api, "POST", EXPLAIN, recommend.explain, "Why an item is in a slate, or why it is not",
             recommend_json.ExplainResponse, body=recommend_json.ExplainRequest, example=examples["explain"])  # fmt: skip
        _add(api, "POST", RANK, recommend.rank, "Given items in the order of the blend and the rules",
             recommend_json.RankResponse, body=recommend_json.RankRequest, example=examples["rank"])  # fmt: skip
        _add(api, "POST", BATCH, recommend.recommend_all, "Several slates in one request",
             recommend_json.BatchRecommendResponse, body=recommend_json.BatchRecommendRequest,
             example=examples["batch"])  # fmt: skip
        _add(api, "GET", SURFACES, self._surfaces.surfaces, "What a page may ask this service for", SurfacesResponse)
        _add(api, "POST", EVENTS, self._events.write, "Tell what people did", event_json.WriteEventsResponse,
             body=event_json.WriteEventsRequest, example=event_json.example(examples["id"]))  # fmt: skip
        endpoints = EndpointRoutes(self._recommender, settings=self._settings)
        named = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"},
                 "example": self._recommender.deployment().name}  # fmt: skip
        _add(api, "GET", LIST, endpoints.list, "The endpoints", shapes.EndpointsShape)
        _add(api, "GET", ONE, endpoints.get, "An endpoint: its variants and their traffic", shapes.EndpointShape,
             parameters=[named])  # fmt: skip
        _add(api, "POST", TRAFFIC, endpoints.set_traffic, "Change variants and their traffic", shapes.EndpointShape,
             body=shapes.TrafficRequest, example=examples["traffic"], parameters=[named])  # fmt: skip
        _add(api, "POST", PROMOTE, endpoints.promote, "Load, verify and warm a version, then let it answer",
             shapes.MoveShape, body=shapes.PromoteRequest, example=examples["promote"], parameters=[named])  # fmt: skip
        _add(api, "POST", ROLLBACK, endpoints.rollback, "Let the version before answer", shapes.MoveShape,
             body=shapes.RollbackRequest, example={"why": "the new one answers oddly"}, parameters=[named])  # fmt: skip
        api.router.routes.extend(VertexRoutes(self._recommender, settings=self._settings).routes())

    async def search(self, request: Request) -> Response:
        """Answer a text."""
        record = _begin(request, "search_text")
        began = time.perf_counter()
        text, options = wire.parse_search(await self._json(request))
        answer = await self._recommender.search_text(
            text, options, deadline=request.scope[DEADLINE], route=record.route
        )
        return _searched(record, answer, options, began)

    async def search_image(self, request: Request) -> Response:
        """Answer a picture."""
        record = _begin(request, "search_image")
        began = time.perf_counter()
        options = _options(request, self._settings.max_json_depth)
        answer = await self._recommender.search_image(
            await request.body(), options, deadline=request.scope[DEADLINE], route=record.route
        )
        return _searched(record, answer, options, began)

    async def similar(self, request: Request) -> Response:
        """Answer an item."""
        record = _begin(request, "similar_items")
        began = time.perf_counter()
        options = _options(request, self._settings.max_json_depth)
        datapoint_id = request.path_params["datapoint_id"]
        answer = await self._recommender.similar_items(
            datapoint_id, options, deadline=request.scope[DEADLINE], route=record.route
        )
        return _searched(record, answer, options, began)

    async def browse(self, request: Request) -> Response:
        """Answer with a window of the catalogue, or with the items that are named."""
        record = _begin(request, "browse")
        if ids := request.query_params.getlist("id"):
            return await self._items(request, record, ids)
        parameters = _parameters(request, {"k", "offset", "restrict", "filter"})
        record.k = _whole(parameters, "k", 24)
        wanted, offset = _filter(request, self._settings.max_json_depth), _whole(parameters, "offset", 0)
        window = await self._recommender.browse(
            wanted, record.k, offset=offset, deadline=request.scope[DEADLINE], route=record.route
        )
        record.index_version = window.version_id
        return _json(wire.window_json(window))

    async def _items(self, request: Request, record: RequestRecord, ids: list[str]) -> Response:
        _parameters(request, {"id"})
        window = await self._recommender.items(ids, deadline=request.scope[DEADLINE], route=record.route)
        record.index_version, record.q = window.version_id, len(ids)
        return _json(wire.window_json(window))

    async def find_neighbors(self, request: Request) -> Response:
        """Answer a batch in the Vertex shape."""
        record: RequestRecord = request.scope[RECORD]
        return Response(
            await self._find_neighbors(await request.body(), record, request.scope[DEADLINE]), media_type=_JSON
        )

    async def _find_neighbors(self, body: bytes, record: RequestRecord, deadline: float) -> bytes:
        record.endpoint = "find_neighbors"
        queries, full, token = wire.parse_find_neighbors(wire.parse_body(body, self._settings.max_json_depth))
        answer = await self._recommender.find_neighbors(
            queries, deadline=deadline, detail="vectors" if full else "id", min_version=token, route=record.route
        )
        record.answered(answer, max(query.options.k for query in queries))
        return wire.dump(wire.find_neighbors_json(answer))

    async def read_datapoints(self, request: Request) -> Response:
        """Answer with items by id."""
        record = _begin(request, "read_datapoints")
        ids, space, token = wire.parse_read(await self._json(request))
        answer = await self._recommender.read_datapoints(
            ids, deadline=request.scope[DEADLINE], space=space, min_version=token, route=record.route
        )
        record.index_version, record.q = answer.version_id, len(ids)
        return _json(wire.read_json(answer))

    async def upsert(self, request: Request) -> Response:
        """Take datapoints."""
        record = _begin(request, "upsert")
        writes, restricts_only, request_id = wire.parse_upsert(await self._json(request))
        record.q = len(writes)
        written = await self._recommender.upsert(
            writes,
            deadline=request.scope[DEADLINE],
            restricts_only=restricts_only,
            request_id=request_id,
            route=record.route,
        )
        record.index_version = written.version_id
        return _json(wire.written_json(written))

    async def remove(self, request: Request) -> Response:
        """Delete datapoints."""
        record = _begin(request, "remove")
        ids, request_id = wire.parse_remove(await self._json(request))
        record.q = len(ids)
        written = await self._recommender.remove(
            ids, deadline=request.scope[DEADLINE], request_id=request_id, route=record.route
        )
        record.index_version = written.version_id
        return _json(wire.written_json(written))

    async def facets(self, request: Request) -> Response:
        """Answer with counts and ranges."""
        record = _begin(request, "facets")
        _parameters(request, {"namespace", "number"})
        tokens, numbers = request.query_params.getlist("namespace"), request.query_params.getlist("number")
        facets = await self._recommender.facets(tokens, numbers, deadline=request.scope[DEADLINE], route=record.route)
        record.index_version = facets.version_id
        return _json(wire.facets_json(facets))

    async def version(self, request: Request) -> Response:
        """Answer with what is being served."""
        record = _begin(request, "version")
        version = self._recommender.version(record.route)
        record.index_version = version.version_id
        return _json(wire.version_json(version))

    async def healthz(self, request: Request) -> Response:
        """Answer as long as the process lives."""
        _begin(request, "healthz")
        return Response(b'{"status":"ok"}', media_type=_JSON)

    async def readyz(self, request: Request) -> Response:
        """Answer 200 when requests are welcome, else 503 and why not."""
        _begin(request, "readyz")
        state = await self._health.state()
        return Response(wire.dump(state.as_json()), status_code=200 if state.is_ready else 503, media_type=_JSON)

    async def exposition(self, request: Request) -> Response:
        """Answer with the metrics."""
        _begin(request, "metrics")
        state = await self._health.state()
        n_waiting = sum(one.n_waiting for each in self._recommender.deployments for one in each.all_encoders)
        body = self._metrics.exposition(is_ready=state.is_ready, n_waiting=n_waiting)
        return Response(body, media_type=CONTENT_TYPE)

    async def image(self, request: Request) -> Response:
        """Answer with a picture of the catalogue."""
        _begin(request, "image")
        pictures = Pictures(self._recommender.snapshot.version.images_dir)
        picture = pictures.find(request.path_params["path"])
        headers = {"etag": picture.etag, "cache-control": "public, max-age=3600"}
        if request.headers.get("if-none-match") == picture.etag:
            return Response(status_code=304, headers=headers)
        return _File(picture.path, media_type=picture.content_type, stat_result=picture.stat, headers=headers)

    async def front(self, request: Request) -> Response:
        """Answer with a file of the page."""
        _begin(request, "page")
        path = request.url.path
        headers = {"cache-control": "no-cache", "content-security-policy": _POLICY}
        return Response(self._front[path], media_type=_FRONT[path][1], headers=headers)

    async def _json(self, request: Request) -> dict[str, Any]:
        return wire.parse_body(await request.body(), self._settings.max_json_depth)


def _add(
    api: FastAPI,
    method: str,
    path: str,
    handler: Any,
    summary: str,
    answer: type[BaseModel],
    *,
    body: type[BaseModel] | None = None,
    example: Mapping[str, Any] | None = None,
    picture: bool = False,
    parameters: list[dict[str, Any]] | None = None,
) -> None:
    """Add a documented route; FastAPI writes the document, the handler reads and writes the bytes."""
    extra: dict[str, Any] = {"parameters": parameters or []}
    if body is not None:
        content = {
            _JSON: {
                "schema": body.model_json_schema(ref_template="#/components/schemas/{model}"),
                "example": example,
            }
        }
        extra["requestBody"] = {"required": True, "content": content}
    if picture:
        binary = {"schema": {"type": "string", "format": "binary"}}
        extra["requestBody"] = {
            "required": True,
            "content": dict.fromkeys(("image/jpeg", "image/png", "image/webp"), binary),
        }
    refusals: dict[int | str, dict[str, Any]] = {
        code: {"model": schema.ErrorResponse} for code in (400, 401, 403, 404, 408, 413, 429, 503, 504, 507)
    }
    api.add_api_route(
        path,
        handler,
        methods=[method],
        summary=summary,
        response_class=Response,
        responses={200: {"model": answer, "description": "The answer"}, **refusals},
        openapi_extra=extra,
    )


def _document_credentials(api: FastAPI) -> None:
    document = api.openapi()  # it is made once, and kept
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "a key or a token"},
        "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "a key or a token"},
    }
    document["security"] = [{"bearer": []}, {"key": []}]


def _access_of(api: FastAPI) -> AccessOf:
    """Return what tells what a request needs, by the very routes that would answer it."""
    exact: dict[tuple[str, str], Access] = {}
    patterns: list[tuple[set[str], re.Pattern[str], Access]] = []
    for route in api.router.routes:
        assert isinstance(route, Route), route
        for method in (route.methods or set()) - {"HEAD"}:
            access = ACCESS[f"{method} {route.path}"]
            methods = {method, "HEAD"} if method == "GET" else {method}
            if "{" in route.path:
                patterns.append((methods, route.path_regex, access))
            else:
                exact |= {(known, route.path): access for known in methods}

    def access_of(method: str, path: str) -> Access:
        if (found := exact.get((method, path))) is not None:
            return found
        # what no route answers tells only callers that are known that it is not there
        return next((access for methods, regex, access in patterns if method in methods and regex.match(path)), "known")

    return access_of


def _begin(request: Request, endpoint: str) -> RequestRecord:
    record: RequestRecord = request.scope[RECORD]
    record.endpoint = endpoint
    return record


def _json(body: Mapping[str, Any]) -> Response:
    return Response(wire.dump(body), media_type=_JSON)


def _searched(record: RequestRecord, answer: Answer, options: Options, began: float) -> Response:
    record.answered(answer, options.k)
    return _json(wire.search_json(answer, (time.perf_counter() - began) * 1e3))


def _options(request: Request, max_depth: int) -> Options:
    parameters = _parameters(request, {"k", "space", "crowdingCap", "exact", "recallTarget", "restrict", "filter"})
    defaults = Options()
    exact = parameters.get("exact", "false").lower()
    if exact not in ("true", "false"):
        raise InvalidQuery(f"[request] exact is {exact!r}; expected true or false; correct it")
    recall = parameters.get("recallTarget")
    try:
        recall_target = None if recall is None else float(recall)
    except ValueError:
        raise InvalidQuery(f"[request] recallTarget is {recall!r}; expected a number; correct it") from None
    return replace(
        defaults,
        k=_whole(parameters, "k", defaults.k),
        space=parameters.get("space") or None,
        crowding_cap=_whole(parameters, "crowdingCap", 0),
        exact=exact == "true",
        recall_target=recall_target,
        filter=_filter(request, max_depth),
    )


def _parameters(request: Request, known: set[str]) -> dict[str, str]:
    given = dict(request.query_params)
    if unknown := sorted(given.keys() - known):
        raise InvalidQuery(
            f"[request] unknown parameter {unknown[0][:100]!r}; expected some of {', '.join(sorted(known))}"
        )
    return given


def _whole(parameters: Mapping[str, str], name: str, default: int) -> int:
    value = parameters.get(name)
    if value is None:
        return default
    if not (value.isascii() and value.lstrip("-").isdigit() and len(value) < 10):
        raise InvalidQuery(f"[request] {name} is {value[:100]!r}; expected a whole number; correct it")
    return int(value)


def _filter(request: Request, max_depth: int) -> Filter:
    whole = request.query_params.get("filter")
    wanted = Filter() if whole is None else wire.parse_filter(wire.parse_body(whole.encode(), max_depth))
    pairs = wire.parse_restricts(request.query_params.getlist("restrict"))
    return replace(wanted, restricts=wanted.restricts + pairs) if pairs else wanted


def _on_likewise_error(request: Request, error: Exception) -> Response:
    http, body = error_response(error, request.scope[RECORD].request_id)
    return Response(body, status_code=http, media_type=_JSON)


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"[request] {request.method} {request.url.path[:200]}: {error.detail}; /docs lists what there is"
    body = http_error_body(error.status_code, message, request.scope[RECORD].request_id)
    return Response(body, status_code=error.status_code, media_type=_JSON, headers=error.headers)


def _examples(recommender: Recommender, dim: int) -> dict[str, Any]:
    """Return requests that this very version answers."""
    version = recommender.snapshot.version
    first = version.columns.datapoint_id(0) if version.n_datapoints else ""
    restricts = []
    if namespaces := [name for name in version.namespaces() if version.facets(name)]:
        name = "category" if "category" in namespaces else namespaces[0]
        restricts = [{"namespace": name, "allowList": [next(iter(version.facets(name)))]}]
    unit = [1.0] + [0.0] * (dim - 1)
    return {
        "id": first,
        "search": {"text": "black leather shoes", "k": 5, "restricts": restricts},
        "find": {
            "queries": [
                {"datapoint": {"datapointId": first}, "neighborCount": 5},
                {"datapoint": {"featureVector": unit, "restricts": restricts}, "neighborCount": 5},
            ]
        },
        "read": {"ids": [first]},
        "recommend": {"sessionId": "a-visit", "items": [first], "k": 5, "restricts": restricts},
        "explain": {"request": {"sessionId": "a-visit", "k": 5}, "itemId": first},
        "rank": {"request": {"sessionId": "a-visit"}, "itemIds": [first]},
        "batch": {"requests": [{"items": [first], "k": 3}, {"userId": "ann", "k": 3}]},
        "upsert": {"datapoints": [{"datapointId": "new-item", "featureVector": unit, "restricts": restricts}]},
        "remove": {"datapointIds": ["new-item"]},
        "traffic": {"variants": [{"name": recommender.snapshot.variant, "weight": 1.0}], "why": "all to one"},
        "promote": {"version": version.version_id, "why": "the newest"},
    }
