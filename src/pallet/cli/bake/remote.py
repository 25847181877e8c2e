"""Definitions that are elsewhere: in a repository, or at a URL.

Owns   which words of a command line are URLs; what paths of such a definition are relative to.
Runs   in the CLI; the daemon fetches, with the credentials and agents that a build would be given.
Spec   docker buildx bake URL, ``cwd://``; docs/bake/remote-definition.
"""

from __future__ import annotations

import posixpath

from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pallet.cli.session import Session

_PREFIXES = ("http://", "https://", "git://", "ssh://", "git@", "github.com/")
FIXED = ("target:", "docker-image:", "oci-layout:", *_PREFIXES)
"""What contexts of any definition say of themselves."""
HERE = "cwd://"


def is_url(word: str) -> bool:
    """Whether a word of the command line is where a definition is, and no target."""
    return word.startswith(_PREFIXES)


class Remote:
    """One repository or URL with a definition."""

    def __init__(self, session: Session, url: str) -> None:
        self._session = session
        self.url = url
        self.is_file = False
        """The URL is the definition itself: its paths are those of the working directory."""

    def read(self, names: Sequence[str]) -> dict[str, str]:
        """The texts of the files among ``names`` that are there; of a file at a URL, it alone by that name.

        Raises:
            CommandError: it cannot be had, or a file is no text.
        """
        from pallet.cli.build.request import prepare
        from pallet.cli.build.talk import Conversation, QuietView
        from pallet.cli.commands.build import BUILD_FLAGS
        from pallet.cli.flags import Flags

        flags = Flags(BUILD_FLAGS)
        flags.parse(["--", self.url])
        made = prepare(self._session, flags)
        made.call["files"] = list(names)
        connection = self._session.engine.hijack("/pallet/build", body=made.call).stream()
        try:
            found: dict[str, str] = Conversation(connection, made.sources, QuietView()).run()["texts"]
        finally:
            connection.close()
        if "" in found:
            self.is_file = True
            return {self.url: found[""]}
        return found

    def require(self, name: str) -> str:
        """The text of one file.

        Raises:
            CommandError: it is not there.
        """
        path = posixpath.normpath(name)
        try:
            return self.read([path])[path]
        except KeyError:
            raise CommandError(f"failed to solve: lstat {name}: no such file or directory") from None

    def rebase(self, target: Mapping[str, Any]) -> dict[str, Any]:
        """A target as ``--print`` has it: with the remote itself for its whole."""
        return {**target, "context": self.url} if target["context"] == "." and not self.is_file else {**target}

    def located(self, target: Mapping[str, Any]) -> dict[str, Any]:
        """A target whose contexts say where they are.

        Raises:
            CommandError: a directory of what is no repository.
        """
        if self.is_file:
            return {**target}
        contexts = {name: self._below(value) for name, value in target.get("contexts", {}).items()}
        return {**target, "context": self._below(target["context"]), **({"contexts": contexts} if contexts else {})}

    def _below(self, path: str) -> str:
        if path.startswith((HERE, *FIXED)):
            return path
        path = posixpath.normpath(path)
        if path == ".":
            return self.url
        base, _, fragment = self.url.partition("#")
        if not fragment and base.startswith(("http://", "https://")) and not base.partition("?")[0].endswith(".git"):
            raise CommandError(f"context {path}: directories of an archive at a URL can not be contexts")
        ref, _, directory = fragment.partition(":")
        return f"{base}#{ref}:{posixpath.normpath(posixpath.join(directory, path)).lstrip('/')}"
