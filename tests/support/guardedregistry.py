"""``pallet registry serve`` with users, rules and TLS, and a token issuer that is another process."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import ipaddress
import json
import signal
import ssl
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.support.daemon import ROOT, pallet_command
from tests.support.registry import PalletRegistry, Registry, basic, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class GuardedRegistry(PalletRegistry):
    """One with a configuration file; ``config`` is the text of it without ``[storage]``."""

    config: str = ""
    store: Path | None = None
    certificates: Certificates | None = None
    flags: list[str] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """The configuration file."""
        return self.root / "registry.toml"

    def write(self, config: str) -> None:
        """Change the configuration."""
        store = self.store or self.root / "store"
        self.file.write_text(f'[storage]\nroot = "{store}"\nmin_free_bytes = 0\n{config}')

    def argv(self) -> list[str]:
        """Write the configuration and serve by it."""
        self.write(self.config)
        return [*pallet_command(), "registry", "serve", "--address", self.address, "--config", str(self.file),
                *self.flags]

    def reload(self, config: str | None = None) -> None:
        """SIGHUP, with another configuration if one is given."""
        if config is not None:
            self.write(config)
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """SIGKILL the supervisor; its workers notice."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None,
        *, context: ssl.SSLContext | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """One call, over TLS where there are certificates."""
        if self.certificates is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        else:
            context = context or self.certificates.client()
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            return reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()

    def token(self, user: str, password: str, *scopes: str, **fields: str) -> str:
        """An ``Authorization`` with a token from its own endpoint."""
        query = urlencode({"service": "pallet-registry", "scope": scopes, **fields}, doseq=True)
        headers = {"Authorization": basic(user, password)} if user else {}
        status, _, body = self.request("GET", f"/token?{query}", headers=headers)
        assert status == 200, body
        return f"Bearer {json.loads(body)['token']}"

    def log(self) -> str:
        """What it printed."""
        return (self.root / "log").read_text(errors="replace")


class Certificates:
    """An authority, a server's and a client's certificate below a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._root = self._make("authority", self._key.public_key(), authority=True)
        self.authority = directory / "ca.crt"
        self.authority.write_bytes(self._root.public_bytes(serialization.Encoding.PEM))
        self.renew()
        self._write("client", "client")

    def renew(self) -> None:
        """Make another certificate for the server."""
        self._write("server", "server")

    @property
    def settings(self) -> str:
        """The section ``[tls]``."""
        return f'[tls]\ncertificate = "{self.directory}/server.crt"\nkey = "{self.directory}/server.key"\n'

    def client(self, *, certificate: bool = False) -> ssl.SSLContext:
        """A client's context, which trusts the authority alone."""
        context = ssl.create_default_context(cafile=str(self.authority))
        if certificate:
            context.load_cert_chain(self.directory / "client.crt", self.directory / "client.key")
        return context

    def _write(self, name: str, subject: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._make(subject, key.public_key())
        (self.directory / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (self.directory / f"{name}.key").write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))

    def _make(self, subject: str, key: ec.EllipticCurvePublicKey, *, authority: bool = False) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
        issuer = own if authority else self._root.subject
        builder = x509.CertificateBuilder().subject_name(own).issuer_name(issuer).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return builder.add_extension(names, critical=False).sign(self._key, hashes.SHA256())


@dataclass(slots=True)
class TokenIssuer(Registry):
    """A token server in a process of its own: any scope for ``joe`` with ``secret``, pull for everybody.

    Its keys are at ``/keys``; with ``certified`` tokens carry its self-signed certificate, which is in
    ``root/issuer.crt``, instead of a key id.
    """

    port: int = field(default_factory=free_port)
    certified: bool = False

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{self.address}"

    def argv(self) -> list[str]:
        """This file as a program."""
        return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
                "from tests.support.guardedregistry import issue; issue(*sys.argv[1:])",
                str(self.port), str(self.root), "x5c" if self.certified else "kid"]


def issue(port: str, root: str, kind: str) -> None:
    """Run the issuer: PyJWT alone, nothing of ours."""
    import base64
    import time
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from urllib.parse import parse_qs, urlsplit

    import jwt

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    jwk = {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())), "kid": "one", "use": "sig"}
    signed = _self_signed(key)
    Path(root, "issuer.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    Path(root, "issuer.key").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    der = base64.b64encode(signed.public_bytes(serialization.Encoding.DER)).decode()
    head = {"x5c": [der]} if kind == "x5c" else {"kid": "one"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/v2/":
                self._send(200, {})
            elif parts.path == "/keys":
                self._send(200, {"keys": [jwk]})
            else:
                self._grant(parse_qs(parts.query))

        def _grant(self, fields: Mapping[str, list[str]]) -> None:
            user, header = "", self.headers.get("Authorization")
            if header is not None:
                if header != basic("joe", "secret"):
                    self._send(401, {"errors": [{"code": "UNAUTHORIZED", "message": "go away"}]})
                    return
                user = "joe"
            access = []
            for scope in fields.get("scope", []):
                kind, repository, actions = scope.split(":")
                wanted = [action for action in actions.split(",") if user or action == "pull"]
                access.append({"type": kind, "name": repository, "actions": wanted})
            at = int(time.time())
            token = jwt.encode({"iss": "elsewhere", "sub": user, "aud": fields["service"][0], "exp": at + 60,
                                "nbf": at, "iat": at, "access": access}, key, algorithm="RS256", headers=head)
            self._send(200, {"token": token})

        def _send(self, status: int, document: object) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


def _self_signed(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(hours=1))
    return builder.not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())


def run_pallet(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """``pallet WORDS`` without a daemon."""
    return subprocess.run([*pallet_command(), *words], input=stdin, capture_output=True, text=True, timeout=60,
                          check=False)
