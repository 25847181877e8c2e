"""What a word in ADD, in a context's URL or in a named context means: git, http, an image, a tree.

Owns   telling them apart, and git URLs with their fragments and queries.
Runs   anywhere; pure.
Spec   Dockerfile reference "ADD --keep-git-dir", build context "URL fragments", "URL queries".
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import replace
from typing import Literal, cast
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from pallet.build.graph import GitSource
from pallet.spec.dockerfile.errors import DockerfileError

_SCP = re.compile(r"(?:[A-Za-z0-9_.-]+@)[A-Za-z0-9_.-]+:(?!//).+")
_GIT_SCHEMES = frozenset({"git", "ssh"})
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_BRANCH_PARAMETERS = frozenset({"ref", "tag", "branch"})


def is_http(text: str) -> bool:
    """Whether the word is a URL to download."""
    return text.startswith(("http://", "https://"))


def git_source(text: str, *, any_https: bool = False) -> GitSource | None:
    """Read a git URL; None when the word is none.

    ``https`` counts where its path ends in ``.git`` (or always with ``any_https``).

    Raises:
        DockerfileError: a query that contradicts itself or is unknown.
    """
    if text.startswith("github.com/"):
        text = f"https://{text}"
        any_https = True
    if _SCP.fullmatch(text) and "://" not in text:
        remote, _, fragment = text.partition("#")
        ref, _, subdirectory = fragment.partition(":")
        return GitSource(remote=remote, ref=ref, subdirectory=_subdirectory(subdirectory))
    parts = urlsplit(text)
    if parts.scheme in ("http", "https"):
        if not (any_https or parts.path.rstrip("/").endswith(".git")):
            return None
    elif parts.scheme not in _GIT_SCHEMES:
        return None
    ref, _, subdirectory = parts.fragment.partition(":")
    remote = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    source = GitSource(remote=remote, ref=ref, subdirectory=_subdirectory(subdirectory))
    return _with_query(source, parts.query) if parts.query else source


def _subdirectory(text: str) -> str:
    clean = posixpath.normpath("/" + text).lstrip("/")
    return "" if clean == "." else clean


def _with_query(source: GitSource, query: str) -> GitSource:
    seen: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        key = {"commit": "checksum"}.get(name, name)
        if key in _BRANCH_PARAMETERS:
            ref = {"tag": "refs/tags/", "branch": "refs/heads/"}.get(key, "") + value
            if source.ref:
                message = f"ref conflicts: {source.ref!r} vs {ref!r}".replace("'", '"')
                raise DockerfileError(message)
            source = replace(source, ref=ref)
        elif key == "subdir":
            if source.subdirectory:
                message = f'subdir conflicts: "{source.subdirectory}" vs "{value}"'
                raise DockerfileError(message)
            source = replace(source, subdirectory=_subdirectory(value))
        elif key == "checksum":
            source = replace(source, checksum=value)
        elif key in ("keep-git-dir", "submodules", "fetch-by-commit"):
            source = _with_flag(source, key, value)
        elif key == "mtime":
            if value not in ("checkout", "commit"):
                message = f'invalid mtime value: "{value}" (must be "checkout" or "commit")'
                raise DockerfileError(message)
            source = replace(source, mtime=cast('Literal["checkout", "commit"]', value))
        else:
            message = f'unexpected query "{name}"'
            raise DockerfileError(message)
        if key in seen:
            message = f'query "{name}" is given more than once'
            raise DockerfileError(message)
        seen[key] = value
    return source


def _with_flag(source: GitSource, key: str, text: str) -> GitSource:
    if text.lower() not in ("", "1", "t", "true", "0", "f", "false"):
        message = f"invalid {key} value: {text!r}".replace("'", '"')
        raise DockerfileError(message)
    value = text.lower() in ("", "1", "t", "true")
    if key == "keep-git-dir":
        return replace(source, keep_git_dir=value)
    if key == "submodules":
        return replace(source, submodules=value)
    return replace(source, fetch_by_commit=value)


def is_commit(text: str) -> bool:
    """Whether the word can be a commit, or the beginning of one."""
    return _COMMIT.fullmatch(text) is not None


def http_filename(url: str, dest: str) -> str:
    """The name that a downloaded file gets: the URL's last element where ``dest`` is a directory."""
    if not dest.endswith("/"):
        return "__unnamed__"
    name = posixpath.basename(urlsplit(url).path)
    if name in ("", ".", "..", "/"):
        return "__unnamed__"
    return name
