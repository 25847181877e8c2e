"""COPY and ADD: where files come from, where they go.

Owns   the vertices of both.
Runs   on the loop; pure.
Spec   Dockerfile reference "COPY", "ADD".
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pallet.build.dockerfile import sources as remote
from pallet.build.dockerfile import texts
from pallet.build.dockerfile.draft import Draft
from pallet.build.dockerfile.owners import has_names, owner_of
from pallet.build.dockerfile.state import Entry
from pallet.build.graph import CopyAction, FileOp, GitSource, HttpSource, LocalSource, MergeOp, ScratchOp, WriteAction
from pallet.build.paths import clean
from pallet.errors import InvalidParameterError
from pallet.spec import digest as digests
from pallet.spec.dockerfile import instructions as ins
from pallet.spec.dockerfile.errors import DockerfileError

if TYPE_CHECKING:
    from pallet.build.dockerfile.scope import Scope
    from pallet.build.dockerfile.state import StageState
    from pallet.spec.dockerfile.runconfig import Words

_OCTAL = re.compile(r"[0-7]+")
_SYMBOLIC = re.compile(r"[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+(?:,[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """The instruction's words, expanded."""

    sources: tuple[str, ...]
    dest: str
    chown: str
    chmod: str
    exclude: tuple[str, ...]
    """As they are: BuildKit expands all but these."""
    checksum: str


def copy(state: StageState, command: ins.Copy, scope: Scope, words: Words) -> None:
    """Add the vertices of a COPY or ADD to its stage.

    Raises:
        DockerfileError: flags that do not fit one another or what is copied.
    """
    given = _Words(
        chown=words.word(command.chown), chmod=words.word(command.chmod), exclude=command.exclude,
        checksum=words.word(command.checksum) if isinstance(command, ins.Add) else "",
        sources=words.all(command.sources), dest=words.word(command.dest))
    _check(command, given)
    shown = texts.shown_code(command, state.env, scope.escape, scope.budget)
    name = texts.numbered(state, shown)
    making = _Making(state, command, scope, given, name)
    for source in given.sources:
        making.take(source)
    making.take_contents(words)
    # --chmod together with --link is an ordinary copy, as BuildKit does it; names are looked up in what is below.
    link = command.link and not given.chmod and not has_names(given.chown)
    state.draft = making.linked() if link else making.onto_root()
    history = texts.copy_history(command, given.sources, given.dest, given.chown, given.chmod)
    state.history.append(Entry(created_by=history, draft=state.draft, instruction=command))


def _check(command: ins.Copy, given: _Words) -> None:
    mode = given.chmod
    if _OCTAL.fullmatch(mode) or mode.isdecimal():
        if not _OCTAL.fullmatch(mode) or int(mode, 8) > 0o7777:
            message = (f"invalid chmod parameter: '{mode}'. it should be octal string and between "
                       "0 and 07777")
            raise DockerfileError(message)
    elif mode and not _SYMBOLIC.fullmatch(mode):
        message = "invalid syntax"
        raise DockerfileError(message)
    if not isinstance(command, ins.Add):
        return
    if given.checksum:
        if len(given.sources) != 1 or command.contents:
            message = "checksum can't be specified for multiple sources"
            raise DockerfileError(message)
        source = given.sources[0]
        if remote.git_source(source) is None and not remote.is_http(source):
            message = "checksum requires HTTP(S) or Git sources"
            raise DockerfileError(message)


def _check_digest(text: str) -> None:
    try:
        digests.parse(text)
    except InvalidParameterError as error:
        raise DockerfileError(str(error)) from error


class _Making:
    """Collects the actions of one instruction and their inputs."""

    def __init__(self, state: StageState, command: ins.Copy, scope: Scope, given: _Words,
                 name: str) -> None:
        self._state, self._command, self._scope, self._given = state, command, scope, given
        self._name = name
        self._classic = scope.options.ignore_syntax
        self._actions: list[CopyAction] = []
        self._inputs: list[Draft] = []
        self._dest = destination(state.config.working_dir, given.dest)

    def take(self, source: str) -> None:
        """Add one source."""
        command = self._command
        if isinstance(command, ins.Add):
            git = remote.git_source(source)
            if git is not None:
                self._take_git(command, git)
                return
            if remote.is_http(source):
                self._take_download(command, source)
                return
        if command.from_:
            origin = self._state.sources[command.from_]
            draft, keep_owner = origin.root(), not origin.is_local
        else:
            draft = self._scope.context()
            keep_owner = not isinstance(draft.op, LocalSource)  # an archive's files have owners
            self._scope.paths.add(_followed(source, parents=command.parents))
        unpack = isinstance(command, ins.Add) and command.unpack is not False
        path = _clean_with_pivot(source) if command.parents else clean(source)
        self._copy(draft, path, keep_owner=keep_owner, unpack=unpack, parents=command.parents)

    def _copy(self, draft: Draft, path: str, *, keep_owner: bool = False, unpack: bool = False,
              parents: bool = False, wildcards: bool = True) -> None:
        if draft not in self._inputs:
            self._inputs.append(draft)
        given = self._given
        self._actions.append(CopyAction(
            input=self._inputs.index(draft), paths=(path,), dest=self._dest, owner=given.chown,
            keep_owner=keep_owner, mode=given.chmod, exclude=given.exclude, parents=parents,
            unpack=unpack, wildcards=wildcards, lenient=parents or (wildcards and self._classic),
            matches=wildcards and self._classic and len(given.sources) == 1))

    def _take_git(self, command: ins.Add, git: GitSource) -> None:
        if command.keep_git_dir is not None:
            git = replace(git, keep_git_dir=command.keep_git_dir)
        if self._given.checksum:
            if not remote.is_commit(self._given.checksum):
                message = f'invalid checksum "{self._given.checksum}" for git source'
                raise DockerfileError(message)
            if git.checksum and git.checksum != self._given.checksum:
                message = (f'checksum mismatch "{git.checksum}" != "{self._given.checksum}"')
                raise DockerfileError(message)
            git = replace(git, checksum=self._given.checksum)
        self._copy(self._source(git), "/", wildcards=False)

    def _take_download(self, command: ins.Add, url: str) -> None:
        checksum = self._given.checksum
        if checksum:
            _check_digest(checksum)
        filename = remote.http_filename(url, self._given.dest)
        source = HttpSource(url=url, filename=filename, checksum=checksum)
        self._copy(self._source(source), f"/{filename}", unpack=bool(command.unpack), wildcards=False)

    def _source(self, operation: HttpSource | GitSource) -> Draft:
        return self._scope.drafts.add(Draft(
            op=operation, name=self._name, span=self._scope.span(self._command.lines),
            ignore_cache=self._state.ignore_cache))

    def take_contents(self, words: Words) -> None:
        """Add the here-documents: files of their own, copied like others."""
        for content in self._command.contents:
            text = content.content
            data = (words.content(text) if content.expand else text).encode()
            action = WriteAction(path=f"/{posixpath.basename(content.name)}", data=data, mode="644")
            draft = self._scope.drafts.add(Draft(
                op=FileOp(actions=(action,), has_base=False),
                name="[internal] preparing inline document"))
            self._copy(draft, action.path, wildcards=False)

    def _file_op(self, base: Draft | None, name: str) -> Draft:
        shift = 0 if base is None else 1
        owner = owner_of(self._given.chown, classic=self._scope.options.ignore_syntax,
                         scratch=base is not None and isinstance(base.op, ScratchOp))
        actions = tuple(replace(action, input=action.input + shift, owner=owner) for action in self._actions)
        inputs = tuple(self._inputs) if base is None else (base, *self._inputs)
        return self._scope.drafts.add(Draft(
            op=FileOp(actions=actions, has_base=base is not None), inputs=inputs, name=name,
            span=self._scope.span(self._command.lines), ignore_cache=self._state.ignore_cache,
            platform=self._state.platform))

    def onto_root(self) -> Draft:
        """The stage's files with the new ones."""
        return self._file_op(self._state.root(), self._name)

    def linked(self) -> Draft:
        """A layer of its own on top of the stage's."""
        layer = self._file_op(None, self._name)
        root = self._state.root()
        if isinstance(root.op, ScratchOp):
            return layer
        prefix, bracket, text = self._name.partition("] ")
        name = f"{prefix}{bracket}LINK {text}" if bracket else f"LINK {self._name}"
        return self._scope.drafts.add(Draft(
            op=MergeOp(), inputs=(root, layer), name=name,
            span=self._scope.span(self._command.lines), platform=self._state.platform))


def destination(working_dir: str, dest: str) -> str:
    """Absolute and clean; a slash at the end stays, and ``.`` is the working directory itself."""
    base = working_dir or "/"
    if dest in ("", "."):
        dest = "./"
    into = dest.endswith(("/", "/.")) or posixpath.basename(dest) == "."
    path = clean(posixpath.join(base, dest))
    return f"{path}/" if into and path != "/" else path


def _clean_with_pivot(path: str) -> str:
    """Clean but for the first ``/./``, which says where the kept structure begins."""
    head, pivot, tail = path.partition("/./")
    if not pivot:
        return clean(path)
    return f"{clean(head).rstrip('/')}/.{clean(tail)}"


def _followed(path: str, *, parents: bool) -> str:
    return clean(path.replace("/./", "/")) if parents else clean(path)
