"""``POST /build?version=2``: builds of clients that have sessions and no gRPC of their own (docker 20.10).

Owns   the JSON stream: BuildKit's status messages in base64, the image's id, the error.
Runs   on the event loop; the build is a task of the request's.
Spec   buildkit-wire "POST /build?version=2"; Engine API ImageBuild.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from typing import TYPE_CHECKING, Final

import msgspec

from pallet.api.buildkit.status import of_exception
from pallet.api.buildkit.wire import control_pb2
from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from pallet.api.buildkit.builds import ActiveBuild, Builds, Uploads
    from pallet.api.buildkit.control import Control
    from pallet.build.request import BuildResult
    from pallet.spec.engine.build import BuildOptions

_SESSION: Final = "client-session"
_UPLOAD: Final = "upload-request"
_UPLOAD_URL: Final = "http://buildkit-session/"

_encode = msgspec.json.Encoder().encode


class RestBuilds:
    """Builds that are asked for in a query and answered in lines."""

    def __init__(self, control: Control, builds: Builds, uploads: Uploads) -> None:
        self._control = control
        self._builds = builds
        self._uploads = uploads

    async def upload(self, options: BuildOptions, body: AsyncIterator[bytes]) -> bool:
        """Take a request that only brings another one's context; whether it is one."""
        name, colon, build_id = options.build_id.partition(":")
        if name != _UPLOAD or not colon:
            return False
        await self._uploads.give(_UPLOAD_URL + build_id, body)
        return True

    def begin(self, options: BuildOptions, body: AsyncIterator[bytes]) -> ActiveBuild:
        """Begin a build; ``lines`` carries it out.

        Raises:
            InvalidParameterError: options that cannot be.
        """
        reference = options.build_id or secrets.token_hex(16)
        attrs = frontend_attrs(options)
        if options.remote == _UPLOAD:
            attrs["context"] = _UPLOAD_URL + reference
        elif not options.remote:
            attrs["context"] = _UPLOAD_URL + reference
            self._uploads.offer(attrs["context"], body)
        elif options.remote != _SESSION:
            attrs["context"] = options.remote
        return self._builds.begin(control_pb2.SolveRequest(
            Ref=reference, Session=options.session, Frontend="dockerfile.v0", FrontendAttrs=attrs,
            Exporters=exporters(options)))

    async def lines(self, build: ActiveBuild) -> AsyncGenerator[bytes, None]:
        """Carry a build out and tell how it goes; ending early cancels it."""
        work = asyncio.ensure_future(self._control.carry_out(build))
        try:
            async for response in build.trace.read():
                trace = base64.b64encode(response.SerializeToString()).decode()
                yield _encode({"id": "moby.buildkit.trace", "aux": trace}) + b"\r\n"
            yield await self._end(work)
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait([work])

    async def _end(self, work: asyncio.Future[BuildResult | None]) -> bytes:
        await asyncio.wait([work])
        problem = asyncio.CancelledError() if work.cancelled() else work.exception()
        if problem is not None:
            text = "context canceled" if work.cancelled() else of_exception(problem).message
            return _encode({"errorDetail": {"message": text}, "error": text}) + b"\r\n"
        result = work.result()
        if result is None or result.image_id is None:
            return b""
        return _encode({"id": "moby.image.id", "aux": {"ID": result.image_id}}) + b"\r\n"


def exporters(options: BuildOptions) -> list[control_pb2.Exporter]:
    """The outputs of a query; the image store where it names none.

    Raises:
        InvalidParameterError: several of them, as the daemon words it.
    """
    names = ",".join(options.tags)
    if not options.outputs:
        return [control_pb2.Exporter(Type="moby", Attrs={"name": names} if names else {})]
    if len(options.outputs) > 1:
        message = "multiple outputs not supported"
        raise InvalidParameterError(message)
    output = options.outputs[0]
    found = output.get("Attrs") or {}
    attrs = {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
    kind = str(output.get("Type", ""))
    if kind == "cacheonly":
        return []
    if kind in {"moby", "image"} and names:
        attrs.setdefault("name", names)
    return [control_pb2.Exporter(Type=kind, Attrs=attrs)]


def frontend_attrs(options: BuildOptions) -> dict[str, str]:
    """A query as the front end's attributes."""
    attrs = {
        "filename": options.dockerfile, "target": options.target, "platform": options.platform,
        "force-network-mode": "" if options.network_mode in {"default", "bridge"} else options.network_mode,
        "image-resolve-mode": "pull" if options.pull else "local", "cgroup-parent": options.cgroup_parent,
        "cpusetcpus": options.cpuset_cpus, "cpusetmems": options.cpuset_mems,
        "cache-from": ",".join(options.cache_from),
        "add-hosts": ",".join(text.replace(":", "=", 1) for text in options.extra_hosts),
        "ulimit": ",".join(f"{name}={soft}:{hard}" for name, soft, hard in options.ulimits),
    }
    for key, number in (("memory", options.memory_bytes), ("memswap", options.memory_swap_bytes),
                        ("cpushares", options.cpu_shares), ("cpuperiod", options.cpu_period),
                        ("cpuquota", options.cpu_quota), ("shm-size", options.shm_size_bytes)):
        attrs[key] = str(number) if number else ""
    found = {key: value for key, value in attrs.items() if value}
    if options.no_cache:
        found["no-cache"] = ""
    found |= _prefixed("build-arg:", {key: value for key, value in options.build_args.items() if value is not None})
    return found | _prefixed("label:", options.labels)


def _prefixed(prefix: str, values: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}{key}": value for key, value in values.items()}
