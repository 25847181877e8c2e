"""Keys of tokens: the one that signs, those that verify, and their forms: PEM, JWK set, certificates.

Owns   key files (mode 0600), key ids, chains of certificates.
Runs   at start, and in the server's threads.
Needs  the ``cryptography`` and ``PyJWT`` packages.
Spec   RFC 7515 (``kid``, ``x5c``), RFC 7517 (JWK set), RFC 7638 (thumbprint as key id); libtrust key ids,
       which issuers for distribution's ``rootcertbundle`` write.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import json
import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pallet.errors import ConflictError, InvalidParameterError, SystemFailureError
from pallet.registry.auth import files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
    from cryptography.x509 import Certificate

    PublicKey = EllipticCurvePublicKey | RSAPublicKey
    PrivateKey = EllipticCurvePrivateKey | RSAPrivateKey

logger = logging.getLogger(__name__)

KeyType = Literal["ec", "rsa"]
_MIN_RSA_BITS = 2048
_MAX_CHAIN = 8
_FETCH_TIMEOUT_S = 10.0
_MAX_JWKS_BYTES = 1 << 20
_REFRESH_S = 30.0
_STALE_S = 3600.0
_CURVES = {"secp256r1": ("ES256", "P-256"), "secp384r1": ("ES384", "P-384"), "secp521r1": ("ES512", "P-521")}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyingKey:
    """A public key and the only algorithms that it verifies: what a token's head says chooses nothing."""

    key: PublicKey
    algorithms: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key with its algorithm and key id."""

    key: PrivateKey
    algorithm: str
    key_id: str
    jwk: Mapping[str, str]

    @property
    def public(self) -> VerifyingKey:
        """What verifies its signatures."""
        return VerifyingKey(key=self.key.public_key(), algorithms=(self.algorithm,))


def make(kind: KeyType = "ec") -> bytes:
    """A new private key as PEM: P-256, or RSA with 3072 bits."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    key: PrivateKey = (ec.generate_private_key(ec.SECP256R1()) if kind == "ec"
                       else rsa.generate_private_key(public_exponent=65537, key_size=3072))
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption())


def write(path: Path, pem: bytes, *, replace: bool = False) -> None:
    """Store a private key, mode 0600, whole or not at all.

    Raises:
        ConflictError: the file is there and ``replace`` is not wanted.
    """
    path = path.resolve()
    with files.locked(path.parent):
        try:
            files.write(path, pem, replace=replace)
        except FileExistsError as error:
            message = f"{path} exists already"
            raise ConflictError(message) from error


def load(path: Path) -> SigningKey:
    """Read a private key.

    Raises:
        InvalidParameterError: it cannot be read, or is no EC or RSA key that is good enough.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    try:
        key = serialization.load_pem_private_key(read(path), password=None)
    except (ValueError, TypeError) as error:
        message = f"{path}: not a private key in PEM, without a password"
        raise InvalidParameterError(message) from error
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        message = f"{path}: want an EC or RSA key"
        raise InvalidParameterError(message)
    public = verifying(key.public_key(), str(path))
    jwk = _jwk(public.key)
    algorithm, key_id = public.algorithms[0], thumbprint(jwk)
    return SigningKey(key=key, algorithm=algorithm, key_id=key_id,
                      jwk={**jwk, "kid": key_id, "alg": algorithm, "use": "sig"})


def load_or_make(path: Path) -> SigningKey:
    """Read a private key; make it where there is none. Processes that start together agree on one."""
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, make())
        except ConflictError:
            pass  # another process was faster
        except OSError as error:
            message = f"{path}: {error.strerror}"
            raise InvalidParameterError(message) from error
    return load(path)


def verifying(key: object, where: str) -> VerifyingKey:
    """Fix the algorithms of a public key.

    Raises:
        InvalidParameterError: it is no EC or RSA key, or a weak one.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return VerifyingKey(key=key, algorithms=(_CURVES[key.curve.name][0],))
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < _MIN_RSA_BITS:
            message = f"{where}: an RSA key of {key.key_size} bits is too short"
            raise InvalidParameterError(message)
        return VerifyingKey(key=key, algorithms=("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
    message = f"{where}: want an EC (P-256, P-384, P-521) or RSA key"
    raise InvalidParameterError(message)


def jwk_set(keys: Sequence[Mapping[str, str]]) -> bytes:
    """The document of a JWK set."""
    return json.dumps({"keys": list(keys)}).encode()


def _jwk(key: PublicKey) -> dict[str, str]:
    from cryptography.hazmat.primitives.asymmetric import ec
    if isinstance(key, ec.EllipticCurvePublicKey):
        numbers, size = key.public_numbers(), (key.curve.key_size + 7) // 8
        return {"kty": "EC", "crv": _CURVES[key.curve.name][1],
                "x": _number(numbers.x, size), "y": _number(numbers.y, size)}
    rsa = key.public_numbers()
    return {"kty": "RSA", "n": _number(rsa.n, (rsa.n.bit_length() + 7) // 8),
            "e": _number(rsa.e, (rsa.e.bit_length() + 7) // 8)}


def _number(value: int, size: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes(size)).rstrip(b"=").decode()


def thumbprint(jwk: Mapping[str, str]) -> str:
    """Key id of a JWK (RFC 7638)."""
    members = {name: jwk[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in jwk}
    text = json.dumps(members, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def libtrust_id(key: PublicKey) -> str:
    """Key id as Docker's libtrust makes it: 240 bits of a hash in groups of four letters."""
    from cryptography.hazmat.primitives import serialization
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    return ":".join(text[at:at + 4] for at in range(0, len(text), 4))


class KeySet:
    """Keys by id.

    Args:
        roots: certificates that vouch for the keys of an ``x5c`` head, and may sign tokens themselves.
        fetch: brings a JWK set; asked for the first token, for one that names a key which is not here, and
            every hour.
    """

    def __init__(
        self, keys: Mapping[str, VerifyingKey], *, roots: Sequence[Certificate] = (),
        fetch: Callable[[], Mapping[str, VerifyingKey]] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = dict(keys)
        self._roots = tuple(roots)
        self._fetch = fetch
        self._now = now
        self._fetched_at = -_STALE_S if fetch is not None else 0.0
        self._lock = threading.Lock()
        self._certified: dict[str, VerifyingKey] = {}
        for root in roots:
            with contextlib.suppress(InvalidParameterError):
                key = verifying(root.public_key(), "root certificate")
                self._certified[libtrust_id(key.key)] = key
                self._certified[thumbprint(_jwk(key.key))] = key
        self._keys.update(self._certified)

    def find(self, head: Mapping[str, Any]) -> VerifyingKey | None:
        """The key that a token's head names; None when it is none of ours. May fetch."""
        chain = head.get("x5c")
        if chain is not None:
            return self._of_chain(chain) if self._roots else None
        key_id = head.get("kid")
        if self._fetch is not None:
            self._renew(key_id)
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id) if isinstance(key_id, str) else None

    def _renew(self, wanted: object) -> None:
        """Fetch again where that may help, not more often than every half minute: anybody can make up ids."""
        with self._lock:
            age_s = self._now() - self._fetched_at
            missing = not self._keys if wanted is None else wanted not in self._keys
            if self._fetch is None or age_s < (_REFRESH_S if missing else _STALE_S):
                return
            self._fetched_at = self._now()
            try:
                self._keys = {**self._certified, **self._fetch()}
            except (InvalidParameterError, SystemFailureError) as error:
                logger.warning("the issuer's keys stay as they were: %s", error)

    def _of_chain(self, chain: object) -> VerifyingKey | None:
        from cryptography import x509
        if not isinstance(chain, list) or not 0 < len(chain) <= _MAX_CHAIN:
            return None
        try:
            certificates = [x509.load_der_x509_certificate(base64.b64decode(entry, validate=True))
                            for entry in chain]
            if not _leads_to(certificates, self._roots):
                return None
            return verifying(certificates[0].public_key(), "x5c")
        except (ValueError, TypeError, InvalidParameterError) as error:
            logger.debug("x5c of a token: %s", error)
            return None


def _leads_to(chain: Sequence[Certificate], roots: Sequence[Certificate]) -> bool:
    """Whether each certificate is signed by the next, the last by a root, and all are valid now."""
    now = datetime.datetime.now(datetime.UTC)
    for place, certificate in enumerate(chain):
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            return False
        if place and not _is_authority(certificate):
            return False
        if certificate in roots or any(_issued(root, certificate) for root in roots):
            return True
        if place + 1 == len(chain) or not _issued(chain[place + 1], certificate, root=False):
            return False
    return False


def _issued(issuer: Certificate, certificate: Certificate, *, root: bool = True) -> bool:
    from cryptography.exceptions import InvalidSignature
    now = datetime.datetime.now(datetime.UTC)
    if root and not (_is_authority(issuer) and issuer.not_valid_before_utc <= now <= issuer.not_valid_after_utc):
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_authority(certificate: Certificate) -> bool:
    from cryptography import x509
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (x509.ExtensionNotFound, ValueError):
        return False


def read(path: Path) -> bytes:
    """Content of a settings' file; InvalidParameterError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"{path}: {error.strerror}"
        raise InvalidParameterError(message) from error


def read_roots(path: Path) -> list[Certificate]:
    """Certificates of a PEM bundle.

    Raises:
        InvalidParameterError: it cannot be read, or holds none.
    """
    from cryptography import x509
    try:
        return x509.load_pem_x509_certificates(read(path))
    except ValueError as error:
        message = f"{path}: no certificates in PEM"
        raise InvalidParameterError(message) from error


def parse_jwks(raw: bytes, where: str) -> dict[str, VerifyingKey]:
    """Keys of a JWK set; those for encryption, and symmetric ones, are left out.

    Raises:
        InvalidParameterError: it is malformed or has no key to use.
    """
    import jwt
    try:
        entries = json.loads(raw)["keys"]
        found: dict[str, VerifyingKey] = {}
        for entry in entries:
            if entry.get("kty") not in {"EC", "RSA"} or entry.get("use", "sig") != "sig":
                continue
            key = verifying(jwt.PyJWK(entry, algorithm=_algorithm(entry)).key, where)
            alg = entry.get("alg")
            if alg in key.algorithms:
                key = VerifyingKey(key=key.key, algorithms=(alg,))
            found[str(entry.get("kid") or thumbprint(entry))] = key
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, jwt.PyJWTError) as error:
        message = f"{where}: not a JWK set: {error}"
        raise InvalidParameterError(message) from error
    if not found:
        message = f"{where}: no EC or RSA key to verify signatures with"
        raise InvalidParameterError(message)
    return found


def _algorithm(entry: Mapping[str, str]) -> str:
    """One that PyJWT reads the key with; what the key verifies is ``verifying``'s matter."""
    curves = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
    return "RS256" if entry["kty"] == "RSA" else curves[entry["crv"]]


def fetch_jwks(url: str) -> dict[str, VerifyingKey]:
    """Bring a JWK set.

    Raises:
        SystemFailureError: the issuer does not answer. InvalidParameterError: see ``parse_jwks``.
    """
    import urllib3
    pool = urllib3.PoolManager(timeout=_FETCH_TIMEOUT_S, retries=urllib3.Retry(1, redirect=3))
    try:
        reply = pool.request("GET", url, preload_content=False)
        raw = reply.read(_MAX_JWKS_BYTES)
        reply.release_conn()
    except urllib3.exceptions.HTTPError as error:
        message = f"{url}: {error}"
        raise SystemFailureError(message) from error
    finally:
        pool.clear()
    if reply.status != 200:
        message = f"{url}: status {reply.status}"
        raise SystemFailureError(message)
    return parse_jwks(raw, url)
