"""Owners of files by name: what a name means that nobody has, which the two builders differ in.

Owns   how ``--chown`` and ``USER`` become the owner of an action.
Runs   anywhere; pure.
Spec   BuildKit's ChownOpt: ``root`` is 0 everywhere, an unknown name is root, and a stage without any files has no
       names. The classic builder refuses every name that is not in the image's own files.
"""

from __future__ import annotations

from pallet.build.graph import OR_ROOT
from pallet.spec.dockerfile.errors import DockerfileError


def owner_of(text: str, *, classic: bool, scratch: bool) -> str:
    """``user[:group]`` as an action's owner.

    Args:
        classic: names have to be known.
        scratch: there are no files below.

    Raises:
        DockerfileError: a name, where there are no files to find it in.
    """
    if classic:
        return text
    user, colon, group = text.partition(":")
    names = [name for name in (user, group) if _is_name(name)]
    if names and scratch:
        message = f"invalid user index: -1: FROM scratch has no users: {names[0]}"
        raise DockerfileError(message)
    return f"{_marked(user)}{colon}{_marked(group)}"


def has_names(text: str) -> bool:
    """Whether an owner has to be looked up in files."""
    return any(_is_name(name) for name in text.split(":", 1))


def _is_name(word: str) -> bool:
    return bool(word) and word != "root" and not (word.isascii() and word.isdecimal())


def _marked(word: str) -> str:
    if word == "root":
        return "0"
    return f"{word}{OR_ROOT}" if _is_name(word) else word
