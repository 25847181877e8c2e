"""htpasswd files: reading, and the changes that ``pallet registry htpasswd`` makes.

Owns   the format: lines ``NAME:HASH``, comments, order; bcrypt hashes only.
Runs   in any thread; changes take a lock on the directory, so that two of them do not lose one another's.
Needs  the ``bcrypt`` package for hashing.
Spec   Apache httpd "Password Formats": bcrypt.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError, NotFoundError
from pallet.registry.auth import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEFAULT_COST = 10
MAX_PASSWORD_BYTES = 72
"""bcrypt looks at no more."""
_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
_KINDS = (("$apr1$", "Apache's MD5"), ("$1$", "MD5"), ("{SHA}", "SHA-1"), ("{SSHA}", "salted SHA-1"),
          ("$5$", "SHA-256 crypt"), ("$6$", "SHA-512 crypt"), ("$y$", "yescrypt"), ("$scrypt$", "scrypt"),
          ("$argon2", "Argon2"), ("$2", "a malformed bcrypt hash"))


def parse(text: str, where: str) -> dict[str, str]:
    """Names and hashes of a file's text; the first line of a name counts.

    Raises:
        InvalidParameterError: a malformed line, or a hash of another kind, by its number.
    """
    hashes: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, colon, hashed = stripped.partition(":")
        if not colon or not name:
            message = f"{where}:{number}: want NAME:HASH"
            raise InvalidParameterError(message)
        if not _BCRYPT.fullmatch(hashed):
            kind = next((kind for prefix, kind in _KINDS if hashed.startswith(prefix)), "an unknown kind")
            message = (f"{where}:{number}: the password of {name!r} is hashed with {kind}, only bcrypt is taken: "
                       "set it again with `pallet registry htpasswd` or `htpasswd -B`")
            raise InvalidParameterError(message)
        hashes.setdefault(name, hashed)
    return hashes


def read(path: Path) -> dict[str, str]:
    """Names and hashes of a file.

    Raises:
        InvalidParameterError: it cannot be read, or see ``parse``.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        message = f"{path}: {getattr(error, 'strerror', None) or error}"
        raise InvalidParameterError(message) from error
    return parse(text, str(path))


def hash_password(password: str, cost: int = DEFAULT_COST) -> str:
    """The hash for a line.

    Raises:
        InvalidParameterError: an empty password, one with a NUL, one that is longer than bcrypt looks.
    """
    import bcrypt
    data = password.encode()
    if not data or b"\0" in data:
        message = "a password may not be empty nor hold a NUL"
        raise InvalidParameterError(message)
    if len(data) > MAX_PASSWORD_BYTES:
        message = f"a password may have at most {MAX_PASSWORD_BYTES} bytes: bcrypt ignores the rest"
        raise InvalidParameterError(message)
    return bcrypt.hashpw(data, bcrypt.gensalt(cost)).decode().replace("$2b$", "$2y$", 1)


def put(path: Path, name: str, hashed: str) -> bool:
    """Set a user's hash; the file is made, mode 0600, if it is not there.

    Returns: whether the user was there before.

    Raises:
        InvalidParameterError: a name that no line can hold.
    """
    check_name(name)

    def change(lines: list[str]) -> tuple[list[str], bool]:
        kept = [line for line in lines if not _is_of(line, name)]
        place = next((at for at, line in enumerate(lines) if _is_of(line, name)), len(kept))
        kept.insert(place, f"{name}:{hashed}")
        return kept, len(kept) == len(lines)

    return _edit(path, change, make=True)


def delete(path: Path, name: str) -> None:
    """Take a user out.

    Raises:
        NotFoundError: there is no such user.
    """
    def change(lines: list[str]) -> tuple[list[str], bool]:
        kept = [line for line in lines if not _is_of(line, name)]
        return kept, len(kept) < len(lines)

    if not _edit(path, change, make=False):
        message = f"{path} has no user {name!r}"
        raise NotFoundError(message)


def check_name(name: str) -> None:
    """Refuse a name that no line and no ``Authorization`` can hold (InvalidParameterError)."""
    if not name or ":" in name or name.startswith("#") or name != name.strip() or not name.isprintable():
        message = f"invalid user name {name!r}"
        raise InvalidParameterError(message)


def _is_of(line: str, name: str) -> bool:
    return line.strip().partition(":")[0] == name and ":" in line


def _edit(path: Path, change: Callable[[list[str]], tuple[list[str], bool]], *, make: bool) -> bool:
    """Replace the file by what ``change`` makes of its lines."""
    path = path.resolve()  # a link stays one
    with files.locked(path.parent):
        try:
            text, status = path.read_text(encoding="utf-8"), path.stat()
        except FileNotFoundError:
            if not make:
                raise
            text, status = "", None
        lines, answer = change(text.splitlines())
        files.write(path, "".join(f"{line}\n" for line in lines).encode(), like=status)
    return answer
