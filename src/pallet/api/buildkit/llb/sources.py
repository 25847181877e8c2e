"""``source`` operations: images, clients' trees, repositories, downloads, clients' OCI layouts.

Runs   on the event loop; images are asked for.
Spec   BuildKit's ``pb.SourceOp`` and its attributes.
"""

from __future__ import annotations

import json
import posixpath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from pallet.build.graph import (
    CopyAction,
    FileOp,
    GitSource,
    HttpSource,
    ImageSource,
    LocalSource,
    OciLayoutSource,
    Vertex,
)
from pallet.errors import InvalidParameterError, NotImplementedApiError
from pallet.spec.platform import host

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.api.buildkit.llb.definition import Place
    from pallet.api.buildkit.wire import llb_pb2
    from pallet.build.graph import Op
    from pallet.build.ports import Planning

_strings = msgspec.json.Decoder(list[str] | None)
_TRUE = frozenset({"1", "t", "true"})


async def vertex(source: llb_pb2.SourceOp, place: Place, planning: Planning) -> Vertex:
    """The vertex of a source.

    Raises:
        NotImplementedApiError: an unknown scheme.
        InvalidParameterError: a malformed one.
        PalletError: an image cannot be had.
    """
    scheme, sign, rest = source.identifier.partition("://")
    if not sign:
        message = f"failed to load cache key: failed to parse {source.identifier}: invalid"
        raise InvalidParameterError(message)
    attrs = source.attrs
    operation: Op
    if scheme == "docker-image":
        operation = await _image(rest, attrs, place, planning)
    elif scheme == "local":
        if rest.startswith("input:"):  # what other builds' sources are called here
            message = f"invalid local source {json.dumps(rest)}"
            raise InvalidParameterError(message)
        operation = LocalSource(name=rest, include=_texts(attrs, "local.includepattern"),
                                exclude=_texts(attrs, "local.excludepatterns"),
                                follow=_texts(attrs, "local.followpaths"))
    elif scheme == "git":
        operation = _git(rest, attrs)
    elif scheme in ("http", "https"):
        return _download(source, place)
    elif scheme == "oci-layout":
        operation = await _layout(rest, attrs, place, planning)
    else:
        message = f"failed to load cache key: unknown scheme {scheme}: not found"
        raise NotImplementedApiError(message)
    return _made(operation, place)


def _made(operation: Op, place: Place, *inputs: Vertex) -> Vertex:
    return Vertex(op=operation, inputs=inputs, name=place.name, span=place.span, ignore_cache=place.ignore_cache,
                  platform=place.platform)


async def _image(reference: str, attrs: Mapping[str, str], place: Place, planning: Planning) -> ImageSource:
    checksum = attrs.get("image.checksum", "")
    if checksum and "@" not in reference:
        reference = f"{reference}@{checksum}"
    platform = place.platform or host()
    found = await planning.image(reference, platform, pull=attrs.get("image.resolvemode", "") == "pull")
    return ImageSource(reference=found.reference, digest=found.digest, platform=platform)


async def _layout(rest: str, attrs: Mapping[str, str], place: Place, planning: Planning) -> OciLayoutSource:
    name, at, digest = rest.rpartition("@")
    if not at:
        message = f"oci-layout reference {json.dumps(rest)} must have digest"
        raise InvalidParameterError(message)
    store = attrs.get("oci.store", "") or name.partition(":")[0]
    platform = place.platform or host()
    found = await planning.layout(store, digest, platform)
    return OciLayoutSource(store=store, reference=name, digest=found.digest, platform=platform)


def _texts(attrs: Mapping[str, str], key: str) -> tuple[str, ...]:
    text = attrs.get(key, "")
    if not text:
        return ()
    try:
        return tuple(_strings.decode(text) or ())
    except msgspec.DecodeError as error:
        message = f"failed to parse {key}: {error}"
        raise InvalidParameterError(message) from error


def _git(rest: str, attrs: Mapping[str, str]) -> GitSource:
    address, _, fragment = rest.partition("#")
    ref, _, subdirectory = fragment.partition(":")
    remote = attrs.get("git.fullurl", "").partition("#")[0] or f"https://{address}"
    clean = posixpath.normpath(f"/{subdirectory or attrs.get('git.subdir', '')}").strip("/")
    return GitSource(remote=remote, ref=ref, subdirectory=clean, checksum=attrs.get("git.checksum", ""),
                     keep_git_dir=attrs.get("git.keepgitdir", "").lower() in _TRUE,
                     submodules=attrs.get("git.skipsubmodules", "").lower() not in _TRUE,
                     fetch_by_commit=attrs.get("git.fetchbycommit", "").lower() in _TRUE,
                     mtime="commit" if attrs.get("git.mtime", "") == "commit" else "checkout")


def _download(source: llb_pb2.SourceOp, place: Place) -> Vertex:
    attrs = source.attrs
    try:
        parts = urlsplit(source.identifier)
        _ = parts.port  # a number that is none is found here
    except ValueError as error:
        message = f"invalid URL {json.dumps(source.identifier)}: {error}"
        raise InvalidParameterError(message) from error
    name = attrs.get("http.filename", "") or posixpath.basename(parts.path) or "download"
    if name != posixpath.basename(name) or name in {".", ".."}:
        message = f"invalid file name {json.dumps(name)}"
        raise InvalidParameterError(message)
    found = _made(HttpSource(url=source.identifier, filename=name, checksum=attrs.get("http.checksum", "")), place)
    perm, uid, gid = (attrs.get(f"http.{key}", "") for key in ("perm", "uid", "gid"))
    if not (perm or uid or gid):
        return found
    try:
        mode = f"{int(perm, 8) & 0o7777:o}" if perm else ""
        owner = f"{int(uid or 0)}:{int(gid or 0)}" if uid or gid else ""
    except ValueError as error:
        message = f"invalid attribute of {source.identifier}: {error}"
        raise InvalidParameterError(message) from error
    action = CopyAction(input=0, paths=(f"/{name}",), dest=f"/{name}", wildcards=False, mode=mode, owner=owner,
                        keep_owner=not owner)
    return Vertex(op=FileOp(actions=(action,), has_base=False), inputs=(found,), name="")
