"""``pallet login`` and ``pallet logout``."""

from __future__ import annotations

import contextlib
import sys

from pallet.cli.errors import CommandError
from pallet.cli.session import out, warn
from pallet.client import credentials
from pallet.client.credentials import INDEX_SERVER
from pallet.client.errors import DaemonError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

LOGIN_FLAGS: Table = (
    ("password", "p", "string", "Password or Personal Access Token (PAT)"),
    ("password-stdin", "", "bool", "Take the Password or Personal Access Token (PAT) from stdin"),
    ("username", "u", "string", "Username"),
)
LOGOUT_FLAGS: Table = ()


def login(session: Session, flags: Flags) -> int:
    """``pallet login``: checks the credentials with the registry, then keeps them."""
    user, password = flags["username"], flags["password"]
    if password and flags["password-stdin"]:
        raise CommandError(
            "conflicting options: cannot specify both --password and --password-stdin")
    if password:
        warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    if flags["password-stdin"]:
        if not user:
            raise CommandError("the --password-stdin option requires --username to be set")
        password = sys.stdin.read().rstrip("\n").rstrip("\r")
    key = registry_key(flags.args[0] if flags.args else "")
    stored: dict[str, str] = {}
    with contextlib.suppress(UsageError):  # a helper that fails says so when it is to store
        stored = credentials.find(session.config_dir, session.env, key)
    if not password and not user and _login_again(session, stored, key):
        return 0
    user, password = _ask(user, password, stored.get("username", ""))
    answer = session.engine.json("POST", "/auth", body={
        "username": user, "password": password, "serveraddress": key})
    auth = {"username": user, "password": password}
    if answer and answer.get("IdentityToken"):
        auth = {"username": user, "identitytoken": answer["IdentityToken"]}
    try:
        where = credentials.store(session.config_dir, key, auth)
    except UsageError as error:
        raise CommandError(f"Error saving credentials: {error}") from None
    if "/" in where:
        warn(f"\nWARNING! Your credentials are stored unencrypted in '{where}'.\n"
             "Configure a credential helper to remove this warning. See\n"
             "https://docs.docker.com/go/credential-store/\n")
    out((answer or {}).get("Status") or "Login Succeeded")
    return 0


def _login_again(session: Session, stored: dict[str, str], key: str) -> bool:
    """Try what is stored; False where there is nothing or the registry refuses it."""
    if not (stored.get("password") or stored.get("identitytoken")):
        return False
    warn("Authenticating with existing credentials... "
         f"[Username: {stored.get('username', '')}]\n\n"
         " Info -> To login with a different account, run 'pallet logout' followed by "
         "'pallet login'\n\n")
    try:
        answer = session.engine.json("POST", "/auth", body={**stored, "serveraddress": key})
    except DaemonError as error:
        if error.status != 401:
            raise
        warn("Stored credentials invalid or expired")
        return False
    out((answer or {}).get("Status") or "Login Succeeded")
    return True


def _ask(user: str, password: str, default: str) -> tuple[str, str]:
    if user and password:
        return user, password
    if not sys.stdin.isatty():
        raise CommandError("Error: Cannot perform an interactive login from a non TTY device")
    if not user:
        hint = f" ({default})" if default else ""
        user = input(f"Username{hint}: ").strip() or default
        if not user:
            raise CommandError("Error: Non-null Username Required")
    if not password:
        import getpass

        password = getpass.getpass("Password: ")
        if not password:
            raise CommandError("Error: Password Required")
    return user, password


def registry_key(server: str) -> str:
    """Return the key under which a server's credentials are kept: its host, or Docker's index."""
    if not server or server in (INDEX_SERVER, "docker.io", "index.docker.io",
                                "registry-1.docker.io"):
        return INDEX_SERVER
    return credentials.hostname(server)


def logout(session: Session, flags: Flags) -> int:
    """``pallet logout``."""
    key = registry_key(flags.args[0] if flags.args else "")
    shown = "https://index.docker.io/v1/" if key == INDEX_SERVER else key
    out(f"Removing login credentials for {shown}")
    try:
        credentials.erase(session.config_dir, key)
    except UsageError as error:
        warn(f"WARNING: could not erase credentials:\n{error}")
    return 0
