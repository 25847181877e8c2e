"""``pallet login`` and ``pallet logout``."""

from __future__ import annotations

import sys

from pallet.cli.errors import CommandError
from pallet.cli.session import out, warn
from pallet.client import credentials
from pallet.client.config import load_config
from pallet.client.credentials import INDEX_SERVER

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
        raise CommandError("--password and --password-stdin are mutually exclusive")
    if password:
        warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    if flags["password-stdin"]:
        if not user:
            raise CommandError("Must provide --username with --password-stdin")
        password = sys.stdin.read().rstrip("\n").rstrip("\r")
    key = registry_key(flags.args[0] if flags.args else "")
    stored = credentials.find(session.config_dir, session.env, key)
    if not password and not user and stored.get("username") and stored.get("password"):
        out(f"Authenticating with existing credentials... [Username: {stored['username']}]")
        user, password = stored["username"], stored["password"]
    user, password = _ask(user, password, stored.get("username", ""))
    answer = session.engine.json("POST", "/auth", body={
        "username": user, "password": password, "serveraddress": key})
    auth = {"username": user, "password": password}
    if answer and answer.get("IdentityToken"):
        auth = {"username": user, "identitytoken": answer["IdentityToken"]}
    where = credentials.store(session.config_dir, key, auth)
    if "/" in where:
        warn(f"\nWARNING! Your credentials are stored unencrypted in '{where}'.\n"
             "Configure a credential helper to remove this warning. See\n"
             "https://docs.docker.com/go/credential-store/\n")
    out((answer or {}).get("Status") or "Login Succeeded")
    return 0


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
    config = load_config(session.config_dir)
    known = {credentials.hostname(name) for name in config.get("auths") or {}}
    if credentials.hostname(key) not in known:
        out(f"Not logged in to {shown}")
        return 0
    out(f"Removing login credentials for {shown}")
    credentials.erase(session.config_dir, key)
    return 0
