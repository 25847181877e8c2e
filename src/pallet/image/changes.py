"""``--change`` of import and commit: Dockerfile instructions applied to an image's run config.

Owns   which instructions Docker allows there; what they mean is ``spec/dockerfile``'s.
Runs   anywhere; pure.
Spec   Engine API ImageCreate and ImageCommit ``changes``; semantics row "images commit".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.spec.image import RunConfig

_ALLOWED = frozenset({"cmd", "entrypoint", "env", "expose", "healthcheck", "label", "onbuild",
                      "stopsignal", "user", "volume", "workdir"})


def apply_changes(config: RunConfig, changes: Sequence[str]) -> RunConfig:
    """Return ``config`` with the instructions carried out, in order.

    Raises:
        InvalidParameterError: in Docker's words: an instruction that may not be used here, or a
            malformed one.
    """
    if not changes:
        return config
    # The language takes 15 ms to import, which the daemon's start does not owe.
    from pallet.spec.dockerfile.interpret import interpret
    from pallet.spec.dockerfile.parser import parse_line
    from pallet.spec.dockerfile.runconfig import ConfigState, Words, apply

    state = ConfigState.of(config)
    for text in changes:
        node = parse_line(text.strip())
        if node.name not in _ALLOWED:
            message = f"{node.name} is not a valid change command"
            raise InvalidParameterError(message)
        apply(state, interpret(node, where=False), Words(state.env))
    return state.config()
