"""Where a caller is in a slate of many pages: what the slate was made of, and how much of it was shown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Final

import numpy as np

from matching.errors import InvalidQuery, NotFound
from serving.signed import sign, split
from serving.slate import SlateQuery
from serving.user_state import Recent

_FORM: Final = "p1"
_PURPOSE: Final = b"likewise page token\n"
_MAX_CHARS: Final = 2048


@dataclass(frozen=True, slots=True)
class PageToken:
    """The next page of a slate, which is made anew for it and must come out the same.

    Attributes:
        version_id: of the index.
        rules_id: of the rules.
        models: digest of the ids of the models.
        request: digest of the request, without k.
        depth: places of the whole slate.
        at_ms: when the first page was asked for; later acts do not count.
        n_acts: of the user that counted.
        slate: digest of the ids of all places.
        offset: places that the pages before had.
    """

    version_id: str
    rules_id: str
    models: str
    request: str
    depth: int
    at_ms: int
    n_acts: int
    slate: str
    offset: int

    def signed(self, key: bytes) -> str:
        """Return the text that a caller is given."""
        return sign(_FORM, json.dumps(astuple(self), separators=(",", ":")).encode(), key, purpose=_PURPOSE)

    def check_same(self, now: PageToken) -> None:
        """Check that the slate could be made again.

        Raises:
            NotFound: it could not.
        """
        parts = (
            ("index version", self.version_id, now.version_id),
            ("rules", self.rules_id, now.rules_id),
            ("models", self.models, now.models),
            ("items", self.slate, now.slate),
        )
        for what, then, found in parts:
            if then != found:
                raise NotFound(
                    f"[page] the token is of the {what} {then or 'none'}, and {found or 'none'} would answer now; expected the "
                    "same for all pages; ask for the first page again"
                )


def read_page(text: str, query: SlateQuery, keys: Sequence[bytes]) -> PageToken:
    """Return what `signed` made, for the request that it was made for.

    Raises:
        InvalidQuery: none of the keys signed it, or it is of another request.
    """
    signed = split(text, _FORM, max_chars=_MAX_CHARS)
    if signed is None or not signed.is_of(keys, purpose=_PURPOSE):
        raise InvalidQuery(
            f"[page] {len(text):,} characters are not a token of this service; expected nextPageToken of its answer as it was; "
            "ask for the first page again"
        )
    token = PageToken(*json.loads(signed.claims))
    if token.request != digest_of(query):
        raise InvalidQuery(
            "[page] the token is of another request; expected the same but for k; repeat it with the token"
        )
    return token


def digest_of(query: SlateQuery) -> str:
    """Return what tells one request from another, whatever page of it is asked for."""
    return _digest([repr(replace(query, k=0, depth=0, page_token=""))])


def digest_of_models(models: Mapping[str, str]) -> str:
    """Return what tells the models of one slate from those of another."""
    return _digest([part for source in sorted(models) for part in (source, models[source])])


def digest_of_items(item_ids: Sequence[str]) -> str:
    """Return what tells one slate from another."""
    return _digest(item_ids)


def as_of(recent: Recent, at_ms: int, n_acts: int | None) -> Recent:
    """Return the acts that were known at a time: the first `n_acts` of those up to then."""
    kept = np.flatnonzero(recent.at_ms <= at_ms)[:n_acts]
    items = tuple([recent.items[at] for at in kept.tolist()])
    return Recent(items, recent.at_ms[kept], recent.weights[kept], recent.is_bought[kept])


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
