"""Who a process runs as: ``name|uid[:group|gid]`` looked up in the container's own files.

Owns   the reading of /etc/passwd and /etc/group and Docker's rules. Pure but for ``read_database``.
Runs   in a container's init, after its root is in place.
Spec   semantics "config user"; passwd(5), group(5).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.runtime.failure import StartFailureError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAX_ID = 2**31 - 1
_MAX_DATABASE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A resolved user."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    """Supplementary groups, sorted; always with ``gid``."""
    home: str


def read_database(path: str) -> str:
    """Return the text of a container's passwd or group file; "" where it is no regular file.

    The image decides what lies there, so a fifo or a device must not block the start.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return ""
        return os.read(fd, min(found.st_size, _MAX_DATABASE_BYTES)).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)


def _number(text: str) -> int | None:
    try:
        return int(text) if text.isascii() else None
    except ValueError:
        return None


def _checked(number: int) -> int:
    if not 0 <= number <= _MAX_ID:
        message = f"uids and gids must be in range 0-{_MAX_ID}"
        raise StartFailureError(message, plain=True)
    return number


def _entries(text: str, fields: int) -> Iterator[list[str]]:
    for line in text.split("\n"):
        entry = line.strip().split(":")
        if len(entry) >= fields and entry[0] and not entry[0].startswith("#"):
            yield entry


@dataclass(frozen=True, slots=True)
class _Account:
    name: str
    uid: int
    gid: int
    home: str


def _find_account(passwd: str, name: str, uid: int | None) -> _Account | None:
    for entry in _entries(passwd, 4):
        number, gid = _number(entry[2]), _number(entry[3])
        if number is None or gid is None:
            continue
        if entry[0] == name if uid is None else number == uid:
            return _Account(entry[0], number, gid, entry[5] if len(entry) > 5 else "")
    return None


def _find_group(group: str, name: str) -> int | None:
    number = _number(name)
    for entry in _entries(group, 3):
        gid = _number(entry[2])
        if gid is not None and (entry[0] == name if number is None else gid == number):
            return gid
    return None


def _memberships(group: str, name: str) -> list[int]:
    found = []
    for entry in _entries(group, 4):
        gid = _number(entry[2])
        if gid is not None and name in entry[3].split(","):
            found.append(gid)
    return found


def resolve(user: str, group_add: Sequence[str], passwd: str, group: str) -> Identity:
    """Return the identity of ``user`` ("" is root) with the further groups ``group_add``.

    Args:
        passwd: text of the container's /etc/passwd.
        group: text of the container's /etc/group.

    Raises:
        StartFailureError: Docker's "unable to find user …"; plain.
    """
    user_part, _, group_part = user.partition(":")
    uid = 0 if not user_part else _number(user_part)
    account = _find_account(passwd, user_part, uid)
    if account is None and uid is None:
        message = f"unable to find user {user_part}: no matching entries in passwd file"
        raise StartFailureError(message, plain=True)
    numeric_uid = account.uid if account else _checked(uid or 0)
    gid = account.gid if account else 0
    groups: list[int] = []
    if group_part:
        found = _find_group(group, group_part)
        if found is None and (found := _number(group_part)) is None:
            message = f"unable to find group {group_part}: no matching entries in group file"
            raise StartFailureError(message, plain=True)
        gid = _checked(found)
    elif account is not None:
        groups = _memberships(group, account.name)
    for name in group_add:
        found = _find_group(group, name)
        if found is None and (found := _number(name)) is None:
            message = f"Unable to find group {name}: no matching entries in group file"
            raise StartFailureError(message, plain=True)
        groups.append(_checked(found))
    return Identity(uid=_checked(numeric_uid), gid=gid,
                    groups=tuple(sorted({gid, *groups})),
                    home=(account.home if account else "") or "/")
