"""Looking at files of references and at images: what both bridges answer.

Owns   the replies of ReadFile, ReadDir and StatFile, and what ResolveSourceMeta and its neighbour ask for.
Runs   anywhere; pure.
Spec   buildkit-wire LLBBridge.
"""

from __future__ import annotations

import fnmatch
import posixpath
from typing import TYPE_CHECKING, Final

from pallet.api.buildkit.filesync import go_mode
from pallet.api.buildkit.status import Code, GrpcError
from pallet.api.buildkit.wire import gateway_pb2
from pallet.api.buildkit.wire.fsutil_pb2 import Stat
from pallet.spec.platform import Platform, host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.build.entries import Entry

MAX_FILE_BYTES: Final = 15 << 20
"""That ReadFile gives: a message is no longer than 16 MiB."""
_OTHER_SCHEMES: Final = frozenset({"local", "git", "http", "https"})


def file_reply(request: gateway_pb2.ReadFileRequest, data: bytes | None) -> gateway_pb2.ReadFileResponse:
    """A file, or a part of one.

    Raises:
        GrpcError: it is absent.
    """
    if data is None:
        raise _absent(request.FilePath)
    if request.HasField("Range"):
        data = data[request.Range.Offset:request.Range.Offset + request.Range.Length]
    return gateway_pb2.ReadFileResponse(Data=data)


def stat_reply(request: gateway_pb2.StatFileRequest, found: Sequence[Entry] | None) -> gateway_pb2.StatFileResponse:
    """What a file or directory is.

    Raises:
        GrpcError: it is absent.
    """
    if not found:
        raise _absent(request.Path)
    return gateway_pb2.StatFileResponse(stat=_stat(posixpath.basename(posixpath.normpath(request.Path)), found[0]))


def directory_reply(request: gateway_pb2.ReadDirRequest, found: Sequence[Entry] | None) -> gateway_pb2.ReadDirResponse:
    """What is in a directory.

    Raises:
        GrpcError: it is absent.
    """
    if not found:
        raise _absent(request.DirPath)
    pattern = request.IncludePattern
    return gateway_pb2.ReadDirResponse(entries=[
        _stat(entry.name, entry) for entry in found[1:] if not pattern or fnmatch.fnmatchcase(entry.name, pattern)])


def _absent(path: str) -> GrpcError:
    return GrpcError(Code.UNKNOWN, f"stat {path}: no such file or directory")


def _stat(name: str, entry: Entry) -> Stat:
    status = entry.status
    return Stat(path=name, mode=go_mode(status.st_mode), uid=status.st_uid, gid=status.st_gid, size=status.st_size,
                modTime=status.st_mtime_ns, linkname=entry.link)


def image_of(request: gateway_pb2.ResolveSourceMetaRequest) -> str:
    """Name of the image that a source is; "" for another one, of which nothing is said ahead.

    Raises:
        GrpcError: BuildKit's words for what is no source.
    """
    scheme, sign, rest = request.Source.identifier.partition("://")
    if not sign:
        raise GrpcError(Code.UNKNOWN, f"failed to parse {request.Source.identifier}: invalid")
    if scheme in _OTHER_SCHEMES:
        return ""
    if scheme != "docker-image":
        raise GrpcError(Code.UNKNOWN, f"unknown scheme {scheme}: not found")
    return rest


def platform_of(request: gateway_pb2.ResolveImageConfigRequest | gateway_pb2.ResolveSourceMetaRequest) -> Platform:
    """The platform that an image is asked for; the host's if none is."""
    if not request.HasField("Platform"):
        return host()
    asked = request.Platform
    return Platform(os=asked.OS, architecture=asked.Architecture, variant=asked.Variant)
