"""``file`` operations: chains of actions, each on an input or on what another one made.

Runs   anywhere; pure.
Spec   BuildKit's ``pb.FileOp``. What follows one another is one operation of the builder's, and one layer.
"""

from __future__ import annotations

import dataclasses
import json
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.build.graph import (
    CopyAction,
    FileOp,
    LinkAction,
    LocalSource,
    MakeDirectoryAction,
    RemoveAction,
    ScratchOp,
    Vertex,
    WriteAction,
)
from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.api.buildkit.llb.definition import Place
    from pallet.api.buildkit.wire import llb_pb2
    from pallet.build.graph import Action

_NONE = -1
_MODE = 0o7777


@dataclass(frozen=True, slots=True)
class _Chain:
    """Actions on a base, not yet an operation."""

    base: Vertex | None
    actions: tuple[Action, ...] = ()
    others: tuple[Vertex, ...] = ()
    """What copies read, by ``CopyAction.input``."""


def vertices(op: llb_pb2.FileOp, inputs: Sequence[Vertex], place: Place) -> dict[int, Vertex]:
    """The outputs by their numbers.

    Raises:
        InvalidParameterError: an action's input is not there.
    """
    chains: list[_Chain] = []
    outputs: dict[int, Vertex] = {}

    def chain(number: int) -> _Chain:
        if number == _NONE:
            return _Chain(None)
        if 0 <= number < len(inputs):
            return _Chain(inputs[number])
        if 0 <= number - len(inputs) < len(chains):
            return chains[number - len(inputs)]
        message = f"invalid input index {number}, {len(inputs) + len(op.actions)} provided"
        raise InvalidParameterError(message)

    for action in op.actions:
        made = _extend(chain(action.input), action, lambda number: _vertex(chain(number), place))
        chains.append(made)
        if action.output >= 0:
            outputs[action.output] = _vertex(made, place)
    return outputs


def _vertex(chain: _Chain, place: Place) -> Vertex:
    """A chain as a vertex; an input with nothing done to it is that."""
    if not chain.actions:
        return chain.base or Vertex(op=ScratchOp(), name="")
    base = chain.base
    shift = 0 if base is None else 1
    actions = tuple(dataclasses.replace(action, input=action.input + shift) if isinstance(action, CopyAction)
                    else action for action in chain.actions)
    if base is not None and isinstance(base.op, LocalSource):
        base = _layer_of(base)
    return Vertex(op=FileOp(actions=actions, has_base=base is not None),
                  inputs=chain.others if base is None else (base, *chain.others), name=place.name, span=place.span,
                  ignore_cache=place.ignore_cache, platform=place.platform)


def _layer_of(tree: Vertex) -> Vertex:
    action = CopyAction(input=0, paths=("/",), dest="/", wildcards=False)
    return Vertex(op=FileOp(actions=(action,), has_base=False), inputs=(tree,), name="")


def _extend(chain: _Chain, action: llb_pb2.FileAction, source: Callable[[int], Vertex]) -> _Chain:
    kind = action.WhichOneof("action")
    if kind == "copy":
        return _with_copy(chain, action.copy, source(action.secondaryInput))
    made: Action
    if kind == "mkfile":
        mkfile = action.mkfile
        made = WriteAction(path=_clean(mkfile.path), data=mkfile.data, mode=_mode(mkfile.mode),
                           owner=_owner(mkfile.owner), makes_parents=False, time_ns=_time(mkfile.timestamp))
    elif kind == "mkdir":
        mkdir = action.mkdir
        made = MakeDirectoryAction(path=_clean(mkdir.path), mode=mkdir.mode & 0o777, owner=_owner(mkdir.owner),
                                   makes_parents=mkdir.makeParents, time_ns=_time(mkdir.timestamp))
    elif kind == "rm":
        made = RemoveAction(path=_clean(action.rm.path), may_be_absent=action.rm.allowNotFound,
                            wildcards=action.rm.allowWildcard)
    elif kind == "symlink":
        symlink = action.symlink
        _clean(symlink.oldpath)
        made = LinkAction(path=_clean(symlink.newpath), target=symlink.oldpath, owner=_owner(symlink.owner),
                          time_ns=_time(symlink.timestamp))
    else:
        message = "invalid file action"
        raise InvalidParameterError(message)
    return dataclasses.replace(chain, actions=(*chain.actions, made))


def _with_copy(chain: _Chain, copy: llb_pb2.FileActionCopy, source: Vertex) -> _Chain:
    others = chain.others if source in chain.others else (*chain.others, source)
    owner = _owner(copy.owner)
    made = CopyAction(
        input=others.index(source), paths=(_clean(copy.src),), dest=_destination(copy.dest), owner=owner,
        # Files of clients are root's, as with COPY.
        keep_owner=not owner and not isinstance(source.op, LocalSource),
        mode=copy.modeStr or _mode(copy.mode), exclude=tuple(copy.exclude_patterns),
        unpack=copy.attemptUnpackDockerCompatibility, wildcards=copy.allowWildcard,
        include=tuple(copy.include_patterns), itself=not copy.dirCopyContents, follow=copy.followSymlink,
        matches=copy.allowWildcard and not copy.allowEmptyWildcard, makes_parents=copy.createDestPath,
        replaces=copy.alwaysReplaceExistingDestPaths,
        time_ns=_time(copy.timestamp))
    return dataclasses.replace(chain, actions=(*chain.actions, made), others=others)


def _mode(mode: int) -> str:
    return "" if mode < 0 else f"{mode & _MODE:o}"


def _time(time_ns: int) -> int | None:
    return None if time_ns < 0 else time_ns


def _clean(path: str) -> str:
    if "\0" in path:
        message = f"invalid path {json.dumps(path)}"
        raise InvalidParameterError(message)
    return posixpath.normpath(f"/{path.lstrip('/')}")


def _destination(path: str) -> str:
    """Absolute and clean; a slash at the end says that the sources go into it."""
    clean = _clean(path)
    return f"{clean}/" if path.endswith(("/", "/.")) and clean != "/" else clean


def _owner(owner: llb_pb2.ChownOpt) -> str:
    """``user[:group]``; "" for none."""
    user, group = _user(owner.user), _user(owner.group)
    if not user and not group:
        return ""
    return f"{user or '0'}:{group}" if group else user


def _user(user: llb_pb2.UserOpt) -> str:
    which = user.WhichOneof("user")
    if which is None:
        return ""
    return user.byName.name if which == "byName" else str(user.byID)
