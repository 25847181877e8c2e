"""Build routes: the classic ``POST /build``, its cache, and the door of ``pallet build``.

Spec   Engine API ImageBuild, BuildPrune; semantics "classic query"; ``docs/dev/build.md`` for
       ``POST /pallet/build``.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from pallet.api.progress import progress_reply
from pallet.api.routing import Route, json_reply, unimplemented
from pallet.errors import InvalidParameterError
from pallet.http.messages import HIJACKED, Reply, Request, Response
from pallet.http.query import parse_int
from pallet.http.streams import RAW_STREAM
from pallet.spec.engine import decode, filters
from pallet.spec.engine.auth import AuthConfig
from pallet.spec.engine.build import BuildOptions, BuildPruneOptions

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from pallet.api.buildbackend import BuildBackend
    from pallet.api.routes.buildkit import BuildKitRoutes
    from pallet.spec.engine.progress import ProgressMessage

T = TypeVar("T")

_PRUNE_KEYS: Final = frozenset({
    "id", "parent", "type", "description", "inuse", "shared", "private", "until", "unused-for",
    "label", "label!"})


class _Ulimit(msgspec.Struct, frozen=True, rename="pascal"):
    name: str = ""
    soft: int = 0
    hard: int = 0


class BuildRoutes:
    """``/build`` and ``/pallet/build``; without a backend they answer 501."""

    def __init__(self, backend: BuildBackend | None, prelude: bytes, buildkit: BuildKitRoutes | None = None) -> None:
        """Make the routes; ``buildkit`` takes builds of its version."""
        self._given = backend
        self._prelude = prelude
        self._buildkit = buildkit

    @property
    def _backend(self) -> BuildBackend:
        assert self._given is not None, "routes() registers no handler without a backend"
        return self._given

    def routes(self) -> list[Route]:
        """Return the routes."""
        if self._given is None:
            missing = unimplemented("image builds")
            return [Route("POST", "/build", missing), Route("POST", "/build/prune", missing, (1, 31))]
        return [
            Route("POST", "/build", self.build),
            Route("POST", "/build/cancel", self.cancel, (1, 31)),
            Route("POST", "/build/prune", self.prune, (1, 31)),
            Route("GET", "/pallet/build/cache", self.cache),
            Route("POST", "/pallet/build", self.converse),
            Route("POST", "/pallet/build/shell", self.shell),
        ]

    async def build(self, request: Request) -> Reply:
        """``POST /build`` (ImageBuild): 200 and progress; 400; 500. The body is the context's tar."""
        options = build_options(request)
        if options.version == "2" and self._buildkit is not None:
            return await self._buildkit.build(request, options)

        async def work(report: Callable[[ProgressMessage], None]) -> None:
            await self._backend.classic(options, request.stream(), report)

        return await progress_reply(request, work)

    async def cancel(self, request: Request) -> Reply:
        """``POST /build/cancel``: 200; 400 no id."""
        build_id = request.query.get("id")
        if not build_id:
            msg = "build ID not provided"
            raise InvalidParameterError(msg)
        self._backend.cancel(build_id)
        if self._buildkit is not None:
            self._buildkit.cancel(build_id)
        return Response(200)

    async def prune(self, request: Request) -> Reply:
        """``POST /build/prune`` (BuildPrune): 200; 400. Byte sizes are exact numbers."""
        query = request.query
        wanted = filters.parse(query.get("filters"))
        wanted.validate(_PRUNE_KEYS)
        reserved = 0
        for name in ("reserved-space", "keep-storage"):
            reserved = reserved or _bytes(query.get(name), name)
        since_148 = request.version >= (1, 48)
        return json_reply(await self._backend.prune(BuildPruneOptions(
            all=query.flag("all"), filters=wanted, reserved_bytes=reserved,
            max_used_bytes=_bytes(query.get("max-used-space"), "max-used-space") if since_148 else 0,
            min_free_bytes=_bytes(query.get("min-free-space"), "min-free-space") if since_148 else 0)))

    async def cache(self, request: Request) -> Reply:
        """``GET /pallet/build/cache``: 200 and the cache's records."""
        del request
        return json_reply(await self._backend.cache())

    async def converse(self, request: Request) -> Reply:
        """``POST /pallet/build``: 101 and a conversation; 400."""
        if request.header("upgrade") is None:
            msg = "a build needs a connection that is upgraded"
            raise InvalidParameterError(msg)
        body = await request.body()
        await self._backend.converse(await self._upgraded(request), body)
        return HIJACKED

    async def shell(self, request: Request) -> Reply:
        """``POST /pallet/build/shell``: 101 and a shell in a failed step; 404. Query: ``state tty h w``."""
        query = request.query
        state = query.get("state")
        self._backend.check_shell(state)
        connection = await self._upgraded(request)
        await self._backend.shell(state, connection, tty=query.flag("tty"),
                                  size=(query.int_or_zero("h"), query.int_or_zero("w")))
        return HIJACKED

    async def _upgraded(self, request: Request) -> socket.socket:
        head = (f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {RAW_STREAM}\r\n"
                "Connection: Upgrade\r\nUpgrade: tcp\r\n")
        return await request.hijack(head.encode() + self._prelude + b"\r\n")


def build_options(request: Request) -> BuildOptions:
    """Read the query of ``POST /build``.

    Raises:
        InvalidParameterError: as dockerd words it.
    """
    query = request.query
    if query.all("securityopt"):
        msg = "The daemon on this platform does not support setting security options on build"
        raise InvalidParameterError(msg)
    isolation = query.get("isolation").lower()
    if isolation not in {"", "default"}:
        msg = f"unsupported isolation: {query.get('isolation')!r}"
        raise InvalidParameterError(msg)
    shm_size = query.get("shmsize")
    ulimits = _json(query.get("ulimits"), list[_Ulimit], "error reading ulimit settings") or []
    return BuildOptions(
        tags=query.all("t"), dockerfile=query.get("dockerfile"), remote=query.get("remote"),
        quiet=query.flag("q"), no_cache=query.flag("nocache"), pull=query.flag("pull"),
        cache_from=_json(query.get("cachefrom"), list[str], "error reading cache-from") or [],
        build_args=_json(query.get("buildargs"), dict[str, str | None], "error reading build args") or {},
        labels=_json(query.get("labels"), dict[str, str], "error reading labels") or {},
        target=query.get("target"), platform=query.get("platform") if request.version >= (1, 32) else "",
        network_mode=query.get("networkmode"), extra_hosts=query.all("extrahosts"), squash=query.flag("squash"),
        outputs=_outputs(request), memory_bytes=query.int_or_zero("memory"),
        memory_swap_bytes=query.int_or_zero("memswap"), cpu_shares=query.int_or_zero("cpushares"),
        cpu_period=query.int_or_zero("cpuperiod"), cpu_quota=query.int_or_zero("cpuquota"),
        cpuset_cpus=query.get("cpusetcpus"), cpuset_mems=query.get("cpusetmems"),
        cgroup_parent=query.get("cgroupparent"), shm_size_bytes=parse_int(shm_size) if shm_size else 0,
        ulimits=[(item.name, item.soft, item.hard) for item in ulimits], build_id=query.get("buildid"),
        session=query.get("session"), version=_builder_version(query.get("version")),
        registries=registry_config(request))


def _builder_version(text: str) -> str:
    if text not in {"", "1", "2"}:
        msg = f"invalid version {text}"
        raise InvalidParameterError(msg)
    return text or "1"


def _outputs(request: Request) -> list[Mapping[str, object]]:
    if request.version < (1, 40):
        return []
    found: list[Mapping[str, object]] = []
    found.extend(_json(request.query.get("outputs"), list[dict[str, Any]], "error reading outputs") or [])
    return found


def _json(text: str, kind: type[T], what: str) -> T | None:
    """Decode a JSON parameter; None for an absent one or ``null``."""
    if not text:
        return None
    try:
        value = msgspec.json.decode(text.encode("utf-8", "surrogateescape"))
        return None if value is None else msgspec.convert(value, kind, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        msg = f"{what}: {error}"
        raise InvalidParameterError(msg) from error


def _bytes(text: str, name: str) -> int:
    if not text:
        return 0
    try:
        return int(text)
    except ValueError as error:
        msg = f'{name} is in bytes and expects an integer, got {text}'
        raise InvalidParameterError(msg) from error


def registry_config(request: Request) -> dict[str, AuthConfig]:
    """Read ``X-Registry-Config``: base64 of credentials by registry; what cannot be read is none."""
    text = (request.header("x-registry-config") or "").strip()
    if not text:
        return {}
    try:
        padded = text + "=" * (-len(text) % 4)
        raw = base64.urlsafe_b64decode(padded.replace("+", "-").replace("/", "_"))
        found = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        return {host: decode.from_json(AuthConfig, bytes(value)) for host, value in found.items()}
    except (binascii.Error, ValueError, InvalidParameterError):
        return {}
