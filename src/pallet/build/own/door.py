"""One build of ``pallet build``: the call becomes a request, the rest is a conversation.

Owns   the meaning of ``BuildCall``; the connection.
Runs   on the loop; one task reads the connection while the build runs.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from pallet.build.errors import BuildError
from pallet.build.own.client import OwnClient, Wire
from pallet.build.ports import FrontendOptions
from pallet.build.request import BuildRequest, CacheLink, Export
from pallet.errors import CancelledRequestError, InvalidParameterError, PalletError
from pallet.spec import platform as platforms
from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.own import buildwire
from pallet.spec.own.build import BuildCall, CallError, CallResult

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from pallet.build.ports import BuildClient
    from pallet.build.progress import Event, Watch
    from pallet.build.remote import RemoteContext
    from pallet.build.service import Builder

_LIMIT_BYTES = 1 << 20
_MOST_FILES, _MOST_BYTES = 100, 1 << 20
_MAX_DEPTH = 50
"""Of builds on results of builds."""
_PIPED = "http://buildkit-session/context"
"""What BuildKit's clients call a context that is piped in."""
_SUBREQUESTS = {"check": "frontend.lint", "outline": "frontend.outline", "targets": "frontend.targets"}
_decode = msgspec.json.Decoder(BuildCall).decode
_encode = msgspec.json.Encoder().encode


class OwnDoor:
    """Builds of ``pallet build``."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    async def converse(self, connection: socket.socket, request: bytes) -> None:
        """See ``api.buildbackend.BuildBackend.converse``."""
        reader, writer = await asyncio.open_connection(sock=connection, limit=_LIMIT_BYTES)
        wire = Wire(reader, writer)
        try:
            reading = asyncio.ensure_future(wire.run())
            building = asyncio.ensure_future(self._answer(wire, request))
            try:
                await asyncio.wait([reading, building], return_when=asyncio.FIRST_COMPLETED)
            finally:
                building.cancel()
                await asyncio.wait([building])
                await wire.close()
                reading.cancel()
                await asyncio.wait([reading])
            if not building.cancelled():
                building.result()
        finally:
            writer.close()

    async def _answer(self, wire: Wire, request: bytes) -> None:
        """Build, and say how it ended."""
        try:
            result = await self._build(wire, request)
        except CancelledRequestError:
            return
        except Exception as error:
            wire.flush()
            wire.send(buildwire.ERROR, _encode(failure_of(error)))
            if not isinstance(error, PalletError):
                raise
        else:
            wire.flush()
            wire.send(buildwire.RESULT, _encode(result))

    async def _build(self, wire: Wire, request: bytes) -> CallResult:
        try:
            call = _decode(request)
        except msgspec.DecodeError as error:
            message = f"invalid build request: {error}"
            raise InvalidParameterError(message) from error
        client = OwnClient(wire, self._builder.contexts, call)
        wanted = replace(request_of(call), inputs=self._inputs(call, client))
        watch = _nobody if call.quiet else wire.watch
        if call.files:
            return CallResult(texts=await self._files(call, wanted, client, watch))
        if call.call:
            texts = await self._builder.describe(_SUBREQUESTS[call.call], wanted, client, watch)
            return CallResult(texts={name: text.decode("utf-8", "replace") for name, text in texts.items()})
        result = await self._builder.build(wanted, client, watch)
        return CallResult(image_id=result.image_id or "", digest=result.digest or "",
                          response=dict(result.response))

    async def _files(self, call: BuildCall, wanted: BuildRequest, client: BuildClient, watch: Watch) -> dict[str, str]:
        """Texts of a remote context."""
        if not call.remote or len(call.files) > _MOST_FILES:
            message = "files can only be read of a remote context, and not too many at once"
            raise InvalidParameterError(message)

        async def look(tree: RemoteContext) -> dict[str, bytes | None]:
            if tree.text is not None:
                return {"": tree.text}
            return {name: await tree.read(name, _MOST_BYTES) for name in call.files}

        found = await self._builder.files(wanted, client, watch, look, source=True)
        try:
            return {name: data.decode() for name, data in found.items() if data is not None}
        except UnicodeDecodeError as error:
            message = "a file of the remote context is no text"
            raise InvalidParameterError(message) from error

    def _inputs(self, call: BuildCall, client: OwnClient,
                depth: int = 0) -> dict[str, tuple[BuildRequest, BuildClient]]:
        """The builds that one builds on, with the clients that stand for them."""
        if depth > _MAX_DEPTH:
            message = "too many builds on top of one another"
            raise InvalidParameterError(message)
        found: dict[str, tuple[BuildRequest, BuildClient]] = {}
        for name, below in call.inputs.items():
            inner = client.below(name, below)
            found[name] = replace(request_of(below), inputs=self._inputs(below, inner, depth + 1)), inner
        return found


def _nobody(event: Event) -> None:
    """Watch a build that is not looked at."""
    del event


def failure_of(error: Exception) -> CallError:
    """Say what went wrong, with the Dockerfile's lines."""
    if isinstance(error, BuildError):
        return CallError(message=str(error), snippet=error.snippet(), vertex=error.digest or "",
                         name=error.vertex.name if error.vertex is not None else "", state=error.state)
    if isinstance(error, DockerfileError):
        return CallError(message=str(error), snippet=error.snippet())
    return CallError(message=str(error) if isinstance(error, PalletError) else f"internal error: {error!r}")


def request_of(call: BuildCall) -> BuildRequest:
    """Turn the call into a request.

    Raises:
        InvalidParameterError: a platform that is none, an unknown call.
    """
    if call.call and call.call not in _SUBREQUESTS:
        message = f"unknown call {call.call}"
        raise InvalidParameterError(message)
    return BuildRequest(
        ref=call.ref or secrets.token_hex(12), squash=call.squash, debug=call.debug,
        attestations=dict(call.attestations),
        exports=tuple(Export(kind=one.kind, attributes=_public(one.attributes),  # type: ignore[arg-type]
                             id=one.attributes.get("pallet.output", "")) for one in call.exports),
        cache_imports=tuple(CacheLink(kind=one.kind, attributes=one.attributes) for one in call.cache_from),
        cache_exports=tuple(CacheLink(kind=one.kind, attributes=one.attributes) for one in call.cache_to),
        options=FrontendOptions(
            filename=call.filename, target=call.target, build_args=call.build_args, labels=call.labels,
            platforms=tuple(platforms.parse(text) for text in call.platforms), no_cache=call.no_cache,
            no_cache_stages=tuple(call.no_cache_stages), pull=call.pull, network=call.network,
            contexts=call.contexts, remote_context=_PIPED if call.remote == "-" else call.remote,
            entitlements=frozenset(call.entitlements),
            cgroup_parent=call.cgroup_parent, resources=call.resources, cpuset_cpus=call.cpuset_cpus,
            cpuset_mems=call.cpuset_mems, shm_size_bytes=call.shm_size, ulimits=tuple(call.ulimits),
            extra_hosts=tuple(call.extra_hosts)))


def _public(attributes: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in attributes.items() if not name.startswith("pallet.")}
