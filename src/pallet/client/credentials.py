"""Registry credentials: ``auths``, ``credsStore`` and ``credHelpers`` of config.json.

Owns   finding, storing and erasing credentials, with docker-credential helpers as processes.
Spec   docker CLI "Credential stores" and "Credential helpers"; X-Registry-Auth is URL-safe base64 JSON.
"""

from __future__ import annotations

import binascii
import os

from pallet.client import wire
from pallet.client.config import load_config
from pallet.client.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

INDEX_SERVER = "https://index.docker.io/v1/"
_DOING = {"list": "listing", "get": "getting", "store": "storing", "erase": "erasing"}
_TOKEN_USER = "<token>"  # noqa: S105 - a helper's marker, not a secret


def registry_auth_header(directory: str, env: Mapping[str, str], key: str) -> str:
    """Return X-Registry-Auth for the registry ``key``: an empty object where nothing is stored."""
    return encode_auth(find(directory, env, key))


def registry_config_header(directory: str, env: Mapping[str, str], warn: Callable[[str], None]) -> str:
    """Return X-Registry-Config: credentials for every registry that config.json names.

    A helper that fails is told of by ``warn`` and left out.
    """
    config = load_config(directory)
    inline = _object(env.get("DOCKER_AUTH_CONFIG") or "{}", "DOCKER_AUTH_CONFIG")
    keys = {*(inline.get("auths") or {}), *(config.get("auths") or {}), *(config.get("credHelpers") or {})}
    found = {}
    try:
        if config.get("credsStore"):
            listed = _run_helper(str(config["credsStore"]), "list", "")
            keys.update(_object(listed or "{}", str(config["credsStore"])))
    except UsageError as error:
        warn(str(error))
    for key in sorted(keys):
        try:
            if auth := find(directory, env, key):
                found[key] = auth
        except UsageError as error:
            warn(str(error))
    return encode_auth(found)


def encode_auth(auth: Mapping[str, object]) -> str:
    """Return the header's value for an AuthConfig document, or several by registry."""
    data = binascii.b2a_base64(wire.encode(dict(auth)), newline=False).decode()
    return data.replace("+", "-").replace("/", "_")


def find(directory: str, env: Mapping[str, str], key: str) -> dict[str, str]:
    """Return the AuthConfig for registry ``key``, empty when there is none.

    DOCKER_AUTH_CONFIG wins over the file, a helper over ``auths``.

    Raises:
        UsageError: config.json is broken.
    """
    inline = env.get("DOCKER_AUTH_CONFIG", "")
    if inline:
        found = _from_auths(_object(inline, "DOCKER_AUTH_CONFIG").get("auths") or {}, key)
        if found:
            return found
    config = load_config(directory)
    helper = helper_for(config, key)
    if helper:
        found = _ask_helper(helper, key)
        if found:
            return found
    return _from_auths(config.get("auths") or {}, key)


def helper_for(config: Mapping[str, Any], key: str) -> str:
    """Return the credential helper responsible for ``key``, empty for the file itself."""
    host = hostname(key)
    helpers = config.get("credHelpers") or {}
    return str(helpers.get(key) or helpers.get(host) or config.get("credsStore") or "")


def hostname(key: str) -> str:
    """Return the host of a registry key: scheme and path are dropped."""
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = wire.decode(text)
    except wire.WireError as error:
        raise UsageError(f"{where}: {error}") from None
    return value if isinstance(value, dict) else {}


def _from_auths(auths: Mapping[str, Any], key: str) -> dict[str, str]:
    entry = auths.get(key)
    if entry is None:
        host = hostname(key)
        entry = next((value for name, value in auths.items() if hostname(name) == host), None)
    if not isinstance(entry, dict):
        return {}
    found = {name: str(entry[source]) for name, source in (
        ("username", "username"), ("password", "password"), ("email", "email"),
        ("identitytoken", "identitytoken"), ("registrytoken", "registrytoken"))
        if entry.get(source)}
    if entry.get("auth"):
        try:
            pair = binascii.a2b_base64(entry["auth"], strict_mode=True).decode()
        except (ValueError, UnicodeDecodeError):
            raise UsageError("invalid auth configuration file") from None
        user, _, password = pair.partition(":")
        found["username"], found["password"] = user, password.strip("\x00")
    return {**found, "serveraddress": key} if found else {}


def _ask_helper(helper: str, key: str) -> dict[str, str]:
    output = _run_helper(helper, "get", key)
    if output is None:
        return {}
    answer = _object(output, f"docker-credential-{helper}")
    user, secret = str(answer.get("Username", "")), str(answer.get("Secret", ""))
    if user == _TOKEN_USER:
        return {"identitytoken": secret, "serveraddress": key}
    return {"username": user, "password": secret, "serveraddress": key}


def _run_helper(helper: str, verb: str, data: str) -> str | None:
    """Return a helper's stdout, None when it knows no credentials.

    Raises:
        UsageError: the helper is missing or failed.
    """
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, verb], input=data.encode(), capture_output=True,
                              check=False)
    except OSError as error:
        reason = ("executable file not found in $PATH" if isinstance(error, FileNotFoundError)
                  else os.strerror(error.errno or 0).lower())
        raise UsageError(f"error {_DOING[verb]} credentials - err: exec: \"{program}\": "
                         f"{reason}, out: ``") from None
    text = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode == 0:
        return text
    if "credentials not found" in text:
        return None
    raise UsageError(f"error {_DOING[verb]} credentials - err: exit status {done.returncode}, "
                     f"out: `{text}`")


def store(directory: str, key: str, auth: Mapping[str, str]) -> str:
    """Keep credentials for ``key`` and return where: a helper's name, or the file's path."""
    config = load_config(directory)
    helper = helper_for(config, key)
    path = f"{directory}/config.json"
    auths = dict(config.get("auths") or {})
    if helper:
        user = auth.get("username", "")
        secret = auth.get("password", "")
        if auth.get("identitytoken"):
            user, secret = _TOKEN_USER, auth["identitytoken"]
        _run_helper(helper, "store", wire.encode_text(
            {"ServerURL": key, "Username": user, "Secret": secret}))
        auths[key] = {}
    else:
        pair = f"{auth.get('username', '')}:{auth.get('password', '')}".encode()
        entry = {"auth": binascii.b2a_base64(pair, newline=False).decode()}
        if auth.get("identitytoken"):
            pair = f"{auth.get('username', '')}:".encode()
            entry = {"auth": binascii.b2a_base64(pair, newline=False).decode(),
                     "identitytoken": auth["identitytoken"]}
        auths[key] = entry
    _write(directory, path, {**config, "auths": auths})
    return helper or path


def erase(directory: str, key: str) -> bool:
    """Forget the credentials of ``key``; return whether there were any."""
    config = load_config(directory)
    auths = dict(config.get("auths") or {})
    host = hostname(key)
    names = [name for name in auths if name == key or hostname(name) == host]
    helper = helper_for(config, key)
    if helper:
        _run_helper(helper, "erase", key)
    for name in names:
        del auths[name]
    if names:
        _write(directory, f"{directory}/config.json", {**config, "auths": auths})
    return bool(names)


def _write(directory: str, path: str, config: Mapping[str, Any]) -> None:
    """Replace the file in one step, readable by its owner only, through a symlink if it is one."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    target = os.path.realpath(path)
    temporary = f"{target}.{os.getpid()}.tmp"
    text = wire.indent(wire.encode_text(dict(config)), "\t")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
