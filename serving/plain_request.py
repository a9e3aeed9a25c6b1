"""The head of an ordinary POST, read without a parser: all that is needed to refuse it.

What is not plainly such a request, as clients write it, is left to the parser, so that nothing is refused here which it would
understand in another way.
"""

from __future__ import annotations

import functools
import re
from typing import Final, NamedTuple

from matching.errors import InvalidInput
from serving.admission import Lane, lane_of, timeout_of

_HEAD: Final = re.compile(
    rb"""POST\ (/[\w/.:-]*)\ HTTP/1\.1\r\n
    (?:(?:
        content-length:\ (\d{1,9})
      | grpc-timeout:\ ([!-~]+)
      | x-server-timeout:\ ([!-~]+)
      | connection:\ keep-alive
      | (?!(?:content-length|grpc-timeout|x-server-timeout|connection|transfer-encoding|expect|upgrade):)[\w-]+:\ [ -~]*
    )\r\n)*
    \r\n""",
    re.IGNORECASE | re.VERBOSE,
)


class PlainRequest(NamedTuple):
    """What the head of a POST says."""

    lane: Lane
    timeout_s: float  # infinity where the caller does not say
    n_head_bytes: int
    n_body_bytes: int


def plain_request(data: bytes, max_head_bytes: int) -> PlainRequest | None:
    """Return what a head at the beginning of `data` says, None where it is anything but an ordinary one with a known length.

    Args:
        data: what came, from the first byte of a request on.
        max_head_bytes: a head with more is none.
    """
    found = _HEAD.match(data, 0, max_head_bytes)
    if found is None:
        return None
    path, length, grpc_timeout, server_timeout = found.groups()
    end = found.end()
    if length is None or data[:end].lower().count(b"content-length:") != 1:
        return None
    try:
        return PlainRequest(_lane(path), _timeout(grpc_timeout, server_timeout), end, int(length))
    except InvalidInput:
        return None


@functools.lru_cache(256)
def _lane(path: bytes) -> Lane:
    return lane_of(path.decode())


@functools.lru_cache(256)
def _timeout(grpc_timeout: bytes | None, server_timeout: bytes | None) -> float:
    return timeout_of(
        None if grpc_timeout is None else grpc_timeout.decode(),
        None if server_timeout is None else server_timeout.decode(),
    )
