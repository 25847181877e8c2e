"""A build's failure as BuildKit's clients know it: with the Dockerfile's lines as a typed detail.

Runs   anywhere; pure.
Spec   buildkit-wire "errors", "errdefs": details are JSON under a type name that ends in ``+json``.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage

from pallet.api.buildkit.status import Code, GrpcError, of_exception
from pallet.build.errors import BuildError, FrontEndError
from pallet.spec.dockerfile.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Callable

_PREFIX: Final = "github.com/moby/buildkit/errdefs."


def failure(error: BaseException, source_of: Callable[[str], bytes | None]) -> GrpcError:
    """Turn what a build raised into its status.

    Args:
        source_of: text of a file by name, for errors that do not bring it.
    """
    if isinstance(error, GrpcError):
        return error
    details: list[AnyMessage] = []
    if isinstance(error, BuildError):
        if (span := error.span) is not None:
            data = error.sources.get(span.filename) or source_of(span.filename)
            details += _source(span.filename, data, span.start, span.end)
        if error.digest:
            details.append(_detail("Vertex", {"digest": error.digest}))
        return GrpcError(Code.UNKNOWN, str(error), details)
    if isinstance(error, DockerfileError):
        if error.lines is not None:
            data = error.source or source_of(error.filename)
            for lines in (error.lines, *error.further):
                details += _source(error.filename or "Dockerfile", data, *lines)
        return GrpcError(Code.UNKNOWN, str(error), details)
    found = of_exception(error)
    if isinstance(error, FrontEndError):
        return GrpcError(Code.UNKNOWN, str(error),
                         [AnyMessage(type_url=url, value=value) for url, value in error.details])
    # Clients print every other code's name before the text, and BuildKit's builds fail with none.
    return found if found.code is Code.CANCELLED else GrpcError(Code.UNKNOWN, found.message)


def _source(filename: str, data: bytes | None, start: int, end: int) -> list[AnyMessage]:
    if not data:
        return []
    lines = [{"start": {"line": line}, "end": {"line": line}} for line in range(start, end + 1)]
    info = {"filename": filename, "data": base64.b64encode(data).decode(), "language": "Dockerfile"}
    return [_detail("Source", {"info": info, "ranges": lines})]


def _detail(name: str, document: dict[str, Any]) -> AnyMessage:
    return AnyMessage(type_url=f"{_PREFIX}{name}+json", value=json.dumps(document).encode())
