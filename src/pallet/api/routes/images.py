"""Image routes.

Spec   Engine API tag Image.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Final

import msgspec

from pallet.api import version
from pallet.api.backends import ImageListOptions, PullOptions, PushOptions
from pallet.api.progress import progress_reply
from pallet.api.routing import Route, json_reply, unimplemented
from pallet.errors import InvalidParameterError
from pallet.http.messages import Reply, Request, Response, StreamResponse
from pallet.spec.engine import decode, filters
from pallet.spec.engine.auth import AuthConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.api.backends import ImageArchiveBackend, ImageBackend, ImageImportBackend
    from pallet.spec.engine.progress import ProgressMessage

_LIST_KEYS: Final = frozenset({"before", "dangling", "label", "reference", "since", "until"})
_TAR: Final = "application/x-tar"


class ImageRoutes:
    """``/images``; without ``archives`` load and save, without ``imports`` import answer 501."""

    def __init__(
        self, backend: ImageBackend, archives: ImageArchiveBackend | None,
        imports: ImageImportBackend | None,
    ) -> None:
        self._backend = backend
        self._archives = archives
        self._imports = imports

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/images/{name}"
        no_archives = unimplemented("image archives")
        has_archives = self._archives is not None
        return [
            Route("GET", "/images/json", self.list),
            Route("POST", "/images/create", self.create),
            Route("POST", "/images/load", self.load if has_archives else no_archives),
            Route("GET", "/images/get", self.save if has_archives else no_archives),
            Route("GET", f"{one}/get", self.save_one if has_archives else no_archives),
            Route("GET", f"{one}/json", self.inspect),
            Route("GET", f"{one}/history", self.history),
            Route("POST", f"{one}/push", self.push),
            Route("POST", f"{one}/tag", self.tag),
            Route("DELETE", one, self.remove),
        ]

    async def list(self, request: Request) -> Reply:
        """``GET /images/json`` (ImageList): 200; 400 bad filter."""
        query = request.query
        wanted = filters.parse(query.get("filters"))
        if request.version < (1, 25) and query.get("filter"):
            wanted = filters.Filters({**wanted.values, "reference": (query.get("filter"),)})
        wanted.validate(_LIST_KEYS)
        shared = query.flag("shared-size") and request.version >= (1, 42)
        manifests = query.flag("manifests") and request.version >= (1, 47)
        found = await self._backend.list(ImageListOptions(
            all=query.flag("all"), shared_size=shared, manifests=manifests, filters=wanted))
        return json_reply([version.image_summary(request.version, item) for item in found])

    async def create(self, request: Request) -> Reply:
        """``POST /images/create`` (ImageCreate): 200 and progress; 400; 404.

        ``fromImage`` pulls, ``fromSrc`` imports (only from the body, ``-``).
        """
        query = request.query
        platform = query.get("platform") if request.version >= (1, 32) else ""
        reference, source = query.get("fromImage"), query.get("fromSrc")
        if reference:
            options = PullOptions(
                reference=reference, tag=query.get("tag"), platform=platform,
                auth=registry_auth(request), meta_headers=request.headers_with_prefix("x-meta-"))
            return await progress_reply(
                request, lambda report: self._backend.pull(options, report))
        imports = self._imports
        if imports is None:
            return await unimplemented("image import")(request)
        if source != "-":
            msg = "import from a URL is not supported: send the archive as the body (fromSrc=-)"
            raise InvalidParameterError(msg)

        async def work(report: Callable[[ProgressMessage], None]) -> None:
            await imports.import_tree(
                request.stream(), repository=query.get("repo"), tag=query.get("tag"),
                message=query.get("message"), changes=query.all("changes"), platform=platform,
                progress=report)

        return await progress_reply(request, work)

    async def inspect(self, request: Request) -> Reply:
        """``GET /images/{name}/json`` (ImageInspect): 200; 404."""
        query = request.query
        platform = query.get("platform") if request.version >= (1, 49) else ""
        manifests = query.flag("manifests") and request.version >= (1, 48)
        if platform and manifests:
            msg = "conflicting options: manifests and platform options cannot both be set"
            raise InvalidParameterError(msg)
        found = await self._backend.inspect(request.params["name"], platform=_platform(platform),
                                            manifests=manifests)
        return json_reply(version.image(request.version, found))

    async def history(self, request: Request) -> Reply:
        """``GET /images/{name}/history`` (ImageHistory): 200; 404."""
        platform = request.query.get("platform") if request.version >= (1, 48) else ""
        return json_reply(await self._backend.history(
            request.params["name"], platform=_platform(platform)))

    async def tag(self, request: Request) -> Reply:
        """``POST /images/{name}/tag`` (ImageTag): 201; 400; 404; 409."""
        query = request.query
        await self._backend.tag(
            request.params["name"], repository=query.get("repo"), tag=query.get("tag"))
        return Response(201)

    async def remove(self, request: Request) -> Reply:
        """``DELETE /images/{name}`` (ImageDelete): 200; 404; 409."""
        query = request.query
        name = request.params["name"]
        if not name.strip():
            msg = "image name cannot be blank"
            raise InvalidParameterError(msg)
        return json_reply(await self._backend.remove(
            name, force=query.flag("force"), prune_parents=not query.flag("noprune"),
            only=_platforms(request, "platforms", (1, 50))))

    async def push(self, request: Request) -> Reply:
        """``POST /images/{name}/push`` (ImagePush): 200 and progress; 404."""
        query = request.query
        platform = query.get("platform") if request.version >= (1, 46) else ""
        options = PushOptions(
            reference=request.params["name"], tag=query.get("tag"), platform=_platform(platform),
            auth=registry_auth(request), meta_headers=request.headers_with_prefix("x-meta-"))
        return await progress_reply(request, lambda report: self._backend.push(options, report))

    async def load(self, request: Request) -> Reply:
        """``POST /images/load`` (ImageLoad): 200 and progress. ``quiet`` is true when absent."""
        archives = self._archives
        assert archives is not None, "routes() registers no handler without archives"
        quiet = request.query.flag("quiet", default=True)
        platforms = _platforms(request, "platform", (1, 48))

        async def work(report: Callable[[ProgressMessage], None]) -> None:
            await archives.load(request.stream(), quiet=quiet, platforms=platforms, progress=report)

        return await progress_reply(request, work)

    async def save(self, request: Request) -> Reply:
        """``GET /images/get`` (ImageGetAll): 200 and a tar; 404."""
        return await self._archive(request, request.query.all("names"))

    async def save_one(self, request: Request) -> Reply:
        """``GET /images/{name}/get`` (ImageGet): 200 and a tar; 404."""
        return await self._archive(request, [request.params["name"]])

    async def _archive(self, request: Request, names: Sequence[str]) -> Reply:
        assert self._archives is not None, "routes() registers no handler without archives"
        stream = await self._archives.save(
            names, platforms=_platforms(request, "platform", (1, 48)))
        return StreamResponse(aiter(stream), close=stream.aclose, content_type=_TAR)


def registry_auth(request: Request) -> AuthConfig | None:
    """Read ``X-Registry-Auth``: base64url of an AuthConfig; what cannot be read is anonymous."""
    text = request.header("x-registry-auth")
    if not text:
        return None
    try:
        padded = text.strip() + "=" * (-len(text.strip()) % 4)
        raw = base64.urlsafe_b64decode(padded.replace("+", "-").replace("/", "_"))
        return decode.from_json(AuthConfig, raw)
    except (binascii.Error, ValueError, InvalidParameterError):
        return None


def _platforms(request: Request, key: str, since: tuple[int, int]) -> list[str]:
    """Read a parameter that may be repeated; nothing for an API version before ``since``."""
    if request.version < since:
        return []
    return [_platform(text) for text in request.query.all(key) if text]


def _platform(text: str) -> str:
    """Turn the JSON form ``{"os": …, "architecture": …}`` into ``os/architecture[/variant]``.

    Raises:
        InvalidParameterError: JSON of another shape.
    """
    if not text.startswith("{"):
        return text
    try:
        parts = msgspec.json.decode(text, type=dict[str, str])
    except msgspec.DecodeError as error:
        msg = f"invalid platform: {error}"
        raise InvalidParameterError(msg) from error
    chosen = [parts.get("os", ""), parts.get("architecture", ""), parts.get("variant", "")]
    if not chosen[0] or not chosen[1]:
        msg = "both OS and Architecture must be provided"
        raise InvalidParameterError(msg)
    return "/".join(part for part in chosen if part)
