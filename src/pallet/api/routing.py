"""What route modules are made of: the route record, JSON replies, body and version checks.

Spec   Engine API; semantics "body".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from pallet.errors import InvalidParameterError, NotImplementedApiError
from pallet.http.messages import Reply, Request, Response
from pallet.spec.engine import decode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T", bound=msgspec.Struct)

JSON: Final = "application/json"

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Route:
    """One route; clients older than ``since`` get "page not found"."""

    method: str
    pattern: str
    handler: Callable[[Request], Awaitable[Reply]]
    since: tuple[int, int] = (1, 0)


def json_reply(document: Any, status: int = 200) -> Response:
    """Reply with a document, as Go's encoder writes it: with a line end."""
    return Response(status, _encoder.encode(document) + b"\n", JSON)


def no_content() -> Response:
    """204."""
    return Response(204)


def check_json(request: Request) -> None:
    """Demand ``application/json`` where there is a body.

    Raises:
        InvalidParameterError: another content type, in Docker's words.
    """
    content_type = request.header("content-type") or ""
    if not content_type and not request.has_body:
        return
    mime = content_type.partition(";")[0].strip().lower()
    if not mime:
        msg = "malformed Content-Type header (): mime: no media type"
        raise InvalidParameterError(msg)
    if mime != JSON:
        msg = f"unsupported Content-Type header ({content_type}): must be 'application/json'"
        raise InvalidParameterError(msg)


async def read_json(request: Request, kind: type[T]) -> T:
    """Read the body as ``kind``; an absent body is the empty document.

    Raises:
        InvalidParameterError: wrong content type, not JSON, wrong types.
    """
    check_json(request)
    if not request.has_body:
        return decode.from_value(kind, {})
    return decode.from_json(kind, await request.body())


def unimplemented(feature: str) -> Callable[[Request], Awaitable[Reply]]:
    """Make a handler that says, with 501, what Pallet cannot do yet."""

    async def refuse(request: Request) -> Reply:
        del request
        msg = f"Pallet does not implement {feature} yet"
        raise NotImplementedApiError(msg)

    return refuse
