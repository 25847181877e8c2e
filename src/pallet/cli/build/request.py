"""Options of ``pallet build`` to the request that the daemon gets and what the client offers for it.

Owns   the syntax of ``--output``, ``--secret``, ``--ssh``, ``--cache-from``, ``--build-context``, ….
Spec   docker buildx build; messages are buildx's.
"""

from __future__ import annotations

import binascii
import os

from pallet.cli.build.talk import Sources
from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pallet.cli.flags import Flags
    from pallet.cli.session import Session

_REMOTE = ("http://", "https://", "git://", "ssh://", "git@", "github.com/")
_CLIENT_KINDS = ("local", "tar", "oci", "docker")
_COMPRESSED = (b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_ENTITLEMENTS = ("network.host", "security.insecure")


class Secret:
    """A secret of the user's: a file or a variable, read when it is asked for."""

    def __init__(self, *, path: str = "", env: str = "", environment: Mapping[str, str]) -> None:
        self._path = path
        self._env = env
        self._environment = environment

    def read(self) -> bytes | None:
        """Return its bytes; None where there is nothing."""
        if self._env:
            value = self._environment.get(self._env)
            return None if value is None else os.fsencode(value)
        try:
            with open(self._path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None


class Prepared:
    """All that a build needs of the command line."""

    def __init__(self) -> None:
        self.call: dict[str, Any] = {}
        self.sources = Sources()
        self.stdout_taken = False


def prepare(session: Session, flags: Flags, dockerfile: bytes | None = None) -> Prepared:
    """Read the options.

    Args:
        session: the command line's.
        flags: options of ``pallet build``.
        dockerfile: its text, where it is in no file.

    Raises:
        CommandError: they contradict each other, or a file is not there.
    """
    made = Prepared()
    made.call = {
        "ref": binascii.b2a_hex(os.urandom(12)).decode(),
        "target": flags["target"], "no_cache": flags["no-cache"],
        "no_cache_stages": flags["no-cache-filter"], "pull": flags["pull"],
        "network": flags["network"] or "default", "cgroup_parent": flags["cgroup-parent"],
        "shm_size": flags["shm-size"], "squash": flags["squash"], "debug": flags["debug-shell"],
        "build_args": _build_args(session, flags["build-arg"]),
        "labels": _pairs(flags["label"]),
        "platforms": _platforms(session, flags), "resources": _resources(flags),
        "cpuset_cpus": flags["cpuset-cpus"], "cpuset_mems": flags["cpuset-mems"],
        "extra_hosts": [_extra_host(text) for text in flags["add-host"]],
        "ulimits": [(item["Name"], item["Soft"], item["Hard"]) for item in flags["ulimit"]],
        "entitlements": _entitlements(flags["allow"]),
        "attestations": _attestations(flags),
        "cache_from": [_cache(text, "from") for text in flags["cache-from"]],
        "cache_to": [_cache(text, "to") for text in flags["cache-to"]],
        "call": "check" if flags["check"] else _call(flags["call"]),
    }
    _context(made, flags, dockerfile)
    _contexts(made, flags)
    _outputs(made, flags)
    _caches(made)
    for text in flags["secret"]:
        name, secret = _secret(session, text)
        made.sources.secrets[name] = secret
    for text in flags["ssh"]:
        name, path = _agent(session, text)
        made.sources.agents[name] = path
    if _over_ssh(made.call.get("remote", "")) and "default" not in made.sources.agents:
        made.sources.agents["default"] = _agent(session, "default")[1]
    made.sources.credentials = lambda host: _credentials(session, host)
    return made


def csv(text: str) -> list[str]:
    """Split at commas; a part in double quotes may hold some."""
    parts, part, quoted = [], "", False
    for char in text:
        if char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            parts.append(part)
            part = ""
        else:
            part += char
    return [*parts, part]


def attributes(text: str, what: str) -> dict[str, str]:
    """Read ``name=value,…``.

    Raises:
        CommandError: a part has no ``=``.
    """
    found = {}
    for part in csv(text):
        name, equals, value = part.partition("=")
        if not equals:
            raise CommandError(f"invalid {what} {part!r}: must be a key=value pair".replace("'", '"'))
        found[name.strip().lower()] = value
    return found


def _build_args(session: Session, given: list[str]) -> dict[str, str]:
    from pallet.client.config import proxy_environment

    found: dict[str, str] = {}
    for text in proxy_environment(session.config, session.endpoint.host_header(), given):
        name, _, value = text.partition("=")
        found[name] = value
    if "SOURCE_DATE_EPOCH" in session.env:
        found["SOURCE_DATE_EPOCH"] = session.env["SOURCE_DATE_EPOCH"]
    for text in given:
        name, equals, value = text.partition("=")
        if equals:
            found[name] = value
        elif name in session.env:
            found[name] = session.env[name]
    return found


def _pairs(given: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (text.partition("=") for text in given)}


def _platforms(session: Session, flags: Flags) -> list[str]:
    given = [part for text in flags["platform"] for part in text.split(",") if part]
    default = session.env.get("DOCKER_DEFAULT_PLATFORM", "")
    return given or ([default] if default else [])


def _resources(flags: Flags) -> dict[str, int]:
    names = {"memory": "memory", "memory-swap": "memswap", "cpu-shares": "cpushares",
             "cpu-period": "cpuperiod", "cpu-quota": "cpuquota"}
    return {ours: flags[name] for name, ours in names.items() if flags[name]}


def _extra_host(text: str) -> tuple[str, str]:
    """``name=address`` or ``name:address``; an IPv6 address may be in brackets."""
    at = text.find("=")
    at = text.find(":") if at < 0 else at
    name, address = text[:at], text[at + 1:].removeprefix("[").removesuffix("]")
    if at <= 0 or not address:
        raise CommandError(f"bad format for add-host: \"{text}\"")
    return name, address


def _entitlements(given: list[str]) -> list[str]:
    for text in given:
        if text.partition("=")[0] != "device" and text not in _ENTITLEMENTS:
            raise CommandError(f"invalid entitlement: {text}")
    return list(given)


def _attestations(flags: Flags) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in flags["attest"]:
        fields = attributes(text, "attestation")
        kind = fields.pop("type", "")
        if not kind:
            raise CommandError(f"attestation type not specified: {text}")
        found[kind] = ",".join(f"{name}={value}" for name, value in fields.items())
    for kind in ("provenance", "sbom"):
        text = flags[kind]
        if text in ("", "false"):
            if text:
                found.pop(kind, None)
            continue
        found[kind] = "" if text == "true" else (text if "=" in text else f"mode={text}")
    return {kind: text for kind, text in found.items() if text != "disabled=true"}


def _call(text: str) -> str:
    name = text.partition(",")[0]
    if name in ("", "build"):
        return ""
    if name not in ("check", "lint", "outline", "targets"):
        raise CommandError(f'invalid call name "{name}"')
    return "check" if name == "lint" else name


def _cache(text: str, direction: str) -> dict[str, Any]:
    if "=" not in text:
        return {"kind": "registry" if text != "inline" else text, "attributes": {"ref": text} if text != "inline"
                else {}}
    fields = attributes(text, "value")
    kind = fields.pop("type", "")
    if not kind:
        raise CommandError(f"type required for {text!r}".replace("'", '"'))
    if kind == "local":
        key = "src" if direction == "from" else "dest"
        if key not in fields:
            raise CommandError(f"local cache {'importer' if direction == 'from' else 'exporter'} requires {key}")
        fields[key] = os.path.abspath(fields[key])
    return {"kind": kind, "attributes": fields}


def _caches(made: Prepared) -> None:
    """Directories of local caches are layouts that the client serves."""
    for key, attribute in (("cache_from", "src"), ("cache_to", "dest")):
        for cache in made.call[key]:
            if cache["kind"] == "local":
                made.sources.layouts[cache["attributes"][attribute]] = cache["attributes"][attribute]


# --- the context -----------------------------------------------------------------------------------


def _context(made: Prepared, flags: Flags, dockerfile: bytes | None) -> None:
    path, filename = flags.args[0], flags["file"]
    call = made.call
    if path == "-" and filename == "-":
        raise CommandError("invalid argument: can't use stdin for both build context and dockerfile")
    if path == "-":
        _piped(made)
        call["filename"] = filename or "Dockerfile"
        return
    if path.startswith(_REMOTE):
        call["remote"], call["filename"] = path, filename or "Dockerfile"
        if filename == "-" or dockerfile is not None:
            call["dockerfile"] = _base64(_stdin() if dockerfile is None else dockerfile)
        return
    if not os.path.isdir(path):
        problem = "not a directory" if os.path.exists(path) else "no such file or directory"
        raise CommandError(f'unable to prepare context: path "{path}" not found' if problem.startswith("no ")
                           else f'unable to prepare context: "{path}" is {problem}')
    _source(made, "context", path)
    if filename == "-" or dockerfile is not None:
        call["filename"] = "Dockerfile"
        call["dockerfile"] = _base64(_stdin() if dockerfile is None else dockerfile)
        return
    if filename.startswith(_REMOTE[:2]):
        raise CommandError("a Dockerfile at a URL is not supported: download it first")
    file = filename or f"{path}/Dockerfile"
    if not filename and not os.path.exists(file) and os.path.exists(f"{path}/dockerfile"):
        file = f"{path}/dockerfile"
    directory, call["filename"] = os.path.split(os.path.abspath(file))
    try:
        with open(file, "rb") as found:
            call["dockerfile"] = _base64(found.read())
    except OSError as error:
        raise CommandError(
            f"failed to read dockerfile: open {os.path.basename(file)}: "
            f"{os.strerror(error.errno or 0).lower()}") from None
    _source(made, "dockerfile", directory)
    for candidate in (f"{file}.dockerignore", f"{path}/.dockerignore"):
        if os.path.isfile(candidate):
            with open(candidate, "rb") as found:
                call["ignore"] = _base64(found.read())
            break


def _piped(made: Prepared) -> None:
    """What is piped in is a Dockerfile or a tar, told apart by its first bytes."""
    head = os.read(0, 1 << 16)
    while head and len(head) < 512 and (more := os.read(0, 1 << 16)):
        head += more
    if not head:
        raise CommandError("failed to peek context header from STDIN: EOF")
    if _is_archive(head):
        made.call["remote"] = "-"
        made.sources.upload_fd, made.sources.upload_head = 0, head
        return
    made.call["dockerfile"] = _base64(head + _stdin())
    made.call["sources"] = {}


def _is_archive(head: bytes) -> bool:
    if head[257:262] == b"ustar" or head.startswith(_COMPRESSED):
        return True
    return len(head) >= 512 and head[257:262] == bytes(5) and head[148:155].strip(b" \0").isdigit()


def _stdin() -> bytes:
    parts = []
    while data := os.read(0, 1 << 16):
        parts.append(data)
    return b"".join(parts)


def _source(made: Prepared, name: str, path: str) -> None:
    real = os.path.realpath(path)
    made.sources.directories[name] = real
    made.call.setdefault("sources", {})[name] = f"{os.uname().nodename}:{real}"


def _contexts(made: Prepared, flags: Flags) -> None:
    found: dict[str, str] = {}
    for text in flags["build-context"]:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise CommandError(f'invalid context value: {text}, expected key=value')
        if value.startswith("oci-layout://"):
            directory, _, reference = value.removeprefix("oci-layout://").partition("@")
            directory, colon, tag = directory.partition(":") if not reference else (directory, "", "")
            real = os.path.abspath(directory)
            made.sources.layouts[real] = real
            found[name] = f"oci-layout://{real}" + (f"@{reference}" if reference else f"{colon}{tag}")
        elif value.startswith(("docker-image://", "target:", *_REMOTE)):
            found[name] = value
        else:
            if not os.path.isdir(value):
                raise CommandError(f'failed to get build context {name}: stat {value}: no such file or directory')
            _source(made, name, value)
            found[name] = f"local:{name}"
    made.call["contexts"] = found


# --- outputs -----------------------------------------------------------------------------------------


def _outputs(made: Prepared, flags: Flags) -> None:
    names = ",".join(flags["tag"])
    given = [_output(text) for text in flags["output"]]
    if flags["push"] and flags["load"]:
        given += [("image", {"push": "true"}), ("image", {})]
    elif flags["push"]:
        given = [(kind, {**fields, "push": "true"}) if kind == "image" else (kind, fields)
                 for kind, fields in given] or [("image", {"push": "true"})]
    elif flags["load"] and not any(kind == "image" for kind, _ in given):
        given.append(("image", {}))
    if not given:
        given = [("image", {})]
    annotations: dict[str, str] = {}
    for text in flags["annotation"]:
        annotations |= _annotation(text)
    made.call["exports"] = [
        _export(made, str(number), kind, {**fields, **annotations}, names)
        for number, (kind, fields) in enumerate(given)]


def _export(made: Prepared, identity: str, kind: str, fields: dict[str, str], names: str) -> dict[str, Any]:
    dest = fields.pop("dest", "")
    if kind == "docker" and not dest:
        kind = "image"
    if kind in _CLIENT_KINDS:
        if not dest:
            raise CommandError(f"dest is required for {kind} exporter" if kind == "local"
                               else f"dest file is required for {kind} exporter. refusing to write to console")
        from pallet.cli.build.outputs import target_of

        made.sources.outputs[identity] = target_of(kind, dest)
        made.stdout_taken = made.stdout_taken or dest == "-"
    if kind in ("image", "oci", "docker") and names:
        fields.setdefault("name", names)
    return {"kind": kind, "attributes": {**fields, "pallet.output": identity}}


def _output(text: str) -> tuple[str, dict[str, str]]:
    if "=" not in text:
        return ("tar", {"dest": "-"}) if text == "-" else ("local", {"dest": text})
    fields = attributes(text, "value")
    kind = fields.pop("type", "")
    if not kind:
        raise CommandError("type is required for output")
    if kind == "registry":
        return "image", {**fields, "push": "true"}
    if kind not in ("image", "local", "tar", "oci", "docker", "cacheonly"):
        raise CommandError(f'unknown exporter "{kind}"')
    return kind, fields


def _annotation(text: str) -> dict[str, str]:
    """``[type[,type][platform]:]key=value`` to exporter attributes."""
    key, equals, value = text.partition("=")
    if not equals:
        raise CommandError(f"invalid annotation \"{text}\": must be a key=value pair")
    kinds, colon, name = key.partition(":")
    if not colon:
        return {f"annotation.{key}": value}
    return {(f"annotation-{kind}.{name}" if "[" not in kind else f"annotation-{kind.replace('[', '[', 1)}.{name}"):
            value for kind in kinds.split(",")}


# --- what the daemon may ask for ---------------------------------------------------------------------


def _secret(session: Session, text: str) -> tuple[str, Secret]:
    fields = attributes(text, "field")
    kind = fields.get("type", "")
    if kind not in ("", "file", "env"):
        raise CommandError(f'unsupported secret type "{kind}"')
    name = fields.get("id", "")
    path = fields.get("src") or fields.get("source") or ""
    env = fields.get("env", "")
    if kind == "env" and not env:
        env, path = path, ""
    name = name or os.path.basename(path) or env
    if not name:
        raise CommandError(f"invalid secret \"{text}\": id is required")
    if not env and not path:
        env, path = (name, "") if name in session.env else ("", name)
    if path and not os.path.isfile(path):
        raise CommandError(f"failed to stat {path}: stat {path}: no such file or directory")
    return name, Secret(path=path, env=env, environment=session.env)


def _agent(session: Session, text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    path = path or session.env.get("SSH_AUTH_SOCK", "")
    if not path:
        raise CommandError("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set")
    if os.path.isfile(path):
        raise CommandError(f"{path} is a key: load it into an agent (ssh-add) and give the agent's socket")
    return name or "default", path


def _over_ssh(remote: str) -> bool:
    """Whether a context is a repository that is fetched with ssh: the daemon needs an agent, then."""
    return remote.startswith(("ssh://", "git@"))


def _credentials(session: Session, host: str) -> dict[str, str]:
    from pallet.client.credentials import INDEX_SERVER, find

    key = INDEX_SERVER if host in ("docker.io", "registry-1.docker.io", "index.docker.io") else host
    return find(session.config_dir, session.env, key)


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()
