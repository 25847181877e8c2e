"""``pallet registry htpasswd`` and ``pallet registry key``: the files of a registry's access control."""

from __future__ import annotations

import sys
from pathlib import Path

from pallet.cli.errors import CommandError
from pallet.cli.session import out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

HTPASSWD_FLAGS: Table = (
    ("cost", "", "string", "Rounds of bcrypt as a power of two, 4 to 17", "10"),
    ("delete", "D", "bool", "Remove the user"),
    ("list", "", "bool", "List the users"),
    ("password-stdin", "", "bool", "Take the password from stdin"),
)
KEY_FLAGS: Table = (
    ("force", "f", "bool", "Replace a key that is there: tokens signed with it are void"),
    ("public", "", "bool", "Print the public key of FILE as a JWK set"),
    ("type", "", "string", "Kind of key (ec, rsa): tokens are signed with ES256 or RS256", "ec"),
)
_COSTS = range(4, 18)


def htpasswd(session: Session, flags: Flags) -> int:
    """``pallet registry htpasswd``: sets, removes or lists users; running registries notice."""
    from pallet.registry.auth import htpasswd as users
    from pallet.registry.auth.libraries import HASHING, require

    path, name = Path(flags.args[0]), flags.args[1] if len(flags.args) > 1 else ""
    if flags["list"]:
        if name or flags["delete"]:
            raise CommandError("--list takes neither a user nor --delete")
        for user in users.read(path):
            out(user)
        return 0
    if not name:
        raise CommandError("want FILE and USER")
    if flags["delete"]:
        try:
            users.delete(path, name)
        except FileNotFoundError:
            raise CommandError(f"{path}: no such file") from None
        out(f"Deleted user {name}")
        return 0
    users.check_name(name)
    require(HASHING, "users")
    if not flags["cost"].isdigit() or int(flags["cost"]) not in _COSTS:
        raise CommandError(f"invalid cost {flags['cost']!r}: want {_COSTS[0]} to {_COSTS[-1]}")
    hashed = users.hash_password(_password(stdin=flags["password-stdin"]), int(flags["cost"]))
    try:
        known = users.put(path, name, hashed)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    out(f"{'Changed' if known else 'Added'} user {name}")
    return 0


def _password(*, stdin: bool) -> str:
    if stdin:
        return sys.stdin.read().rstrip("\n").rstrip("\r")
    if not sys.stdin.isatty():
        raise CommandError("cannot ask for a password without a terminal: use --password-stdin")
    import getpass

    password = getpass.getpass("New password: ")
    if getpass.getpass("Once more: ") != password:
        raise CommandError("the passwords differ")
    return password


def key(session: Session, flags: Flags) -> int:
    """``pallet registry key``: makes a key that signs tokens, or shows its public part."""
    from pallet.registry.auth import keys
    from pallet.registry.auth.libraries import SIGNING, require

    require(SIGNING, "keys")
    path = Path(flags.args[0])
    if flags["public"]:
        out(keys.jwk_set([keys.load(path).jwk]).decode())
        return 0
    if flags["type"] == "ec":
        pem = keys.make("ec")
    elif flags["type"] == "rsa":
        pem = keys.make("rsa")
    else:
        raise CommandError(f"invalid type {flags['type']!r}: want ec or rsa")
    try:
        keys.write(path, pem, replace=flags["force"])
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    made = keys.load(path)
    out(f"Wrote {path}: {made.algorithm}, key id {made.key_id}")
    return 0
