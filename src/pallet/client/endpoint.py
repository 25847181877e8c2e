"""Where the daemon is: ``-H``, ``DOCKER_HOST``, contexts, or the default socket.

Owns   the rules of precedence and the parsing of addresses. Reading a context's files is in
       ``contexts.py``, loaded only when a context is named somewhere.
Spec   docker CLI: ``--host`` over ``DOCKER_HOST`` over ``--context``/``DOCKER_CONTEXT`` over
       ``currentContext`` in config.json over the default.
"""

from __future__ import annotations

import os

from pallet.client.errors import ConnectionFailedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.client.transport import Transport

DEFAULT_SOCKET = "/run/pallet.sock"
_NOT_RUNNING = "Cannot connect to the Docker daemon at {}. Is the docker daemon running?"
_DENIED = (
    "permission denied while trying to connect to the Docker daemon socket at {}: "
    "dial unix {}: connect: permission denied"
)


class TlsFiles:
    """TLS material of an endpoint; None leaves a part out."""

    __slots__ = ("ca", "cert", "key", "verify")

    def __init__(self, ca: str | None, cert: str | None, key: str | None, *, verify: bool) -> None:
        """``verify`` checks the server's certificate and name."""
        self.ca, self.cert, self.key, self.verify = ca, cert, key, verify


class Endpoint:
    """One daemon address, for example ``unix:///run/pallet.sock``."""

    __slots__ = ("address", "context", "implicit", "scheme", "tls", "url")

    def __init__(
        self, url: str, *, tls: TlsFiles | None = None, context: str = "default",
        implicit: bool = False,
    ) -> None:
        """``implicit``: nobody named it, so a daemon may be started there.

        Raises:
            UsageError: the scheme is unknown or the address is empty.
        """
        scheme, separator, address = url.partition("://")
        if not separator or scheme not in ("unix", "tcp", "ssh", "http", "https"):
            message = ("Failed to initialize: unable to resolve docker endpoint: "
                       f"invalid bind address format: {url}")
            raise UsageError(message)
        if scheme == "unix" and not address:
            address = DEFAULT_SOCKET
        self.url = url
        self.scheme = scheme
        self.address = address
        self.tls = tls
        self.context = context
        self.implicit = implicit

    def connect(self) -> Transport:
        """Open a new stream to the daemon.

        Raises:
            ConnectionFailedError: nothing listens there, or it may not be used.
        """
        if self.scheme == "unix":
            return self._connect_unix()
        if self.scheme == "ssh":
            from pallet.client.ssh import SshTransport

            return SshTransport(self.url)
        from pallet.client.tcp import connect_tcp

        return connect_tcp(self)

    def host_header(self) -> str:
        """Return the Host header: Docker's placeholder for sockets, ``host:port`` for tcp."""
        return "api.moby.localhost" if self.scheme in ("unix", "ssh") else self.address

    def _connect_unix(self) -> Transport:
        from pallet.client.transport import UnixTransport

        try:
            return UnixTransport(self.address)
        except PermissionError as error:
            message = _DENIED.format(self.url, self.address)
            raise ConnectionFailedError(message, error.errno) from None
        except OSError as error:
            raise ConnectionFailedError(_NOT_RUNNING.format(self.url), error.errno) from None


def config_directory(flag: str, env: Mapping[str, str]) -> str:
    """Return the client's configuration directory: ``--config``, DOCKER_CONFIG, ``~/.docker``."""
    return flag or env.get("DOCKER_CONFIG") or home_directory(env) + "/.docker"


def home_directory(env: Mapping[str, str]) -> str:
    """Return the user's home directory, from HOME or the password file."""
    if home := env.get("HOME"):
        return home
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"


def resolve(
    *, host: str, context: str, config: str, tls: bool, verify: bool,
    files: tuple[str, str, str], env: Mapping[str, str],
) -> Endpoint:
    """Return the daemon to talk to.

    Args:
        host: ``-H``, empty if not given. A bare path or ``host:port`` is completed.
        context: ``--context``, empty if not given.
        config: ``--config``, empty if not given.
        tls: ``--tls`` was given.
        verify: ``--tlsverify`` was given.
        files: ``--tlscacert``, ``--tlscert``, ``--tlskey``, each empty if not given.
        env: the environment.

    Raises:
        UsageError: the address is malformed or the context does not exist.
    """
    if host and context:
        message = "conflicting options: cannot specify both --host and --context"
        raise UsageError(message)
    if not host and not context:
        host = env.get("DOCKER_HOST", "")
    if host:
        return Endpoint(complete(host, tls=tls or verify), tls=_tls_files(
            config=config, tls=tls, verify=verify, files=files, env=env))
    name = context or env.get("DOCKER_CONTEXT", "")
    directory = config_directory(config, env)
    if not name and os.path.exists(directory + "/config.json"):
        from pallet.client.contexts import current_context

        name = current_context(directory)
    if name and name != "default":
        from pallet.client.contexts import load_context

        return load_context(directory, name)
    return Endpoint("unix://" + DEFAULT_SOCKET, implicit=True)


def complete(host: str, *, tls: bool) -> str:
    """Return ``host`` as a URL: ``/path``, ``host:port`` and ``tcp://host`` are accepted."""
    host = host.strip()
    if "://" not in host:
        host = ("unix://" if host.startswith("/") else "tcp://") + host
    scheme, _, address = host.partition("://")
    if scheme == "fd":
        scheme, address = "unix", DEFAULT_SOCKET
    if scheme == "tcp":
        address = address.rstrip("/") or "localhost"
        if ":" not in address.rpartition("]")[2]:
            address += ":2376" if tls else ":2375"
    return f"{scheme}://{address}"


def _tls_files(
    *, config: str, tls: bool, verify: bool, files: tuple[str, str, str], env: Mapping[str, str]
) -> TlsFiles | None:
    verify = verify or bool(env.get("DOCKER_TLS_VERIFY"))
    if not (verify or tls or env.get("DOCKER_TLS")):
        return None
    directory = env.get("DOCKER_CERT_PATH") or config_directory(config, env)
    found = [given or f"{directory}/{name}" for given, name in
             zip(files, ("ca.pem", "cert.pem", "key.pem"), strict=True)]
    usable = [path if given or os.path.exists(path) else None
              for path, given in zip(found, files, strict=True)]
    return TlsFiles(usable[0], usable[1], usable[2], verify=verify)
