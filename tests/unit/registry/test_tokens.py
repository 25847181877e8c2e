"""Bearer tokens: what is taken and, above all, what is not (RFC 8725)."""

from __future__ import annotations

import base64
import datetime
import hmac
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from pallet.errors import ConflictError, InvalidParameterError, SystemFailureError
from pallet.registry.auth import keys
from pallet.registry.auth.keys import KeySet
from pallet.registry.auth.tokens import Issuer, Verifier

if TYPE_CHECKING:
    from pathlib import Path

    from pallet.registry.auth.keys import PrivateKey

ISSUER, SERVICE = "https://issuer", "registry"
ACCESS = [{"type": "repository", "name": "a/b", "actions": ["pull"]}]
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    found = {"iss": ISSUER, "sub": "joe", "aud": SERVICE, "exp": now + 300, "nbf": now, "iat": now, "jti": "1",
             "access": ACCESS, **changes}
    return {name: value for name, value in found.items() if value is not None}


def signed(body: dict[str, Any], key: PrivateKey = RSA, algorithm: str = "RS256", **head: Any) -> str:
    fields = {"kid": "k", **head}
    return jwt.encode(body, key, algorithm=algorithm,
                      headers={name: value for name, value in fields.items() if value is not None})


def handmade(head: dict[str, Any], body: dict[str, Any], secret: bytes | None = None) -> str:
    parts = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, body))
    mac = hmac.digest(secret, parts, "sha256") if secret is not None else b""
    return (parts + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


@pytest.fixture
def verifier() -> Verifier:
    return Verifier(KeySet({"k": keys.verifying(RSA.public_key(), "test")}), issuer=ISSUER, service=SERVICE)


def test_good_tokens(verifier: Verifier) -> None:
    """auth-24: what is granted is what the token says; ``aud`` may be a list, ``typ`` anything but refresh."""
    found = verifier.verify(signed(claims()))
    assert found is not None
    assert found.subject == "joe"
    assert found.covers("repository", "a/b", {"pull"})
    assert not found.covers("repository", "a/b", {"pull", "push"})
    assert not found.covers("registry", "a/b", {"pull"})
    assert verifier.verify(signed(claims(aud=["x", SERVICE])))
    assert verifier.verify(signed(claims(), algorithm="PS256"))
    assert verifier.verify(signed(claims(nbf=None, iat=None, jti=None, sub=None, access=None)))
    several = [*ACCESS, {"type": "repository", "name": "a/b", "actions": ["push"]}]
    found = verifier.verify(signed(claims(access=several)))
    assert found is not None
    assert found.covers("repository", "a/b", {"pull", "push"})


@pytest.mark.parametrize("changes", [
    {"exp": int(time.time()) - 3600}, {"exp": None}, {"exp": "soon"}, {"nbf": int(time.time()) + 3600},
    {"aud": "other"}, {"aud": None}, {"aud": []}, {"aud": SERVICE + "2"}, {"iss": "https://other"}, {"iss": None},
    {"iat": int(time.time()) + 3600}, {"access": "*"}, {"access": [["repository"]]}, {"access": [{"type": "x"}]},
    {"access": [{"type": "repository", "name": "a/b", "actions": "pull"}]}, {"access": ACCESS * 1000},
    {"access": [{"type": 1, "name": "a/b", "actions": []}]}, {"sub": 5}])
def test_claims_that_are_refused(verifier: Verifier, changes: dict[str, Any]) -> None:
    assert verifier.verify(signed(claims(**changes))) is None


def test_algorithms_are_the_key_s(verifier: Verifier) -> None:
    """No token without a signature, none whose secret is our public key, none of another kind of key."""
    pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    der = RSA.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    for algorithm in ("none", "None", "nOnE", "", None):
        assert verifier.verify(handmade({"alg": algorithm, "kid": "k"}, claims())) is None
    for secret in (pem, pem.strip(), der, b""):
        assert verifier.verify(handmade({"alg": "HS256", "kid": "k"}, claims(), secret)) is None
        assert verifier.verify(handmade({"alg": "RS256", "kid": "k"}, claims(), secret)) is None
    assert verifier.verify(signed(claims(), EC, "ES256")) is None
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert verifier.verify(signed(claims(), other)) is None


@pytest.mark.parametrize("head", [
    {"kid": "other"}, {"kid": "../../etc/passwd"}, {"crit": ["exp"]}, {"b64": False}, {"typ": "refresh+jwt"},
    {"x5c": ["AAAA"]}, {"x5c": []}])
def test_heads_that_are_refused(verifier: Verifier, head: dict[str, Any]) -> None:
    """A key that comes along with the token (``jwk``, ``jku``) is not looked at."""
    assert verifier.verify(signed(claims(), **head)) is None
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    own = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(other.public_key()))
    assert verifier.verify(signed(claims(), other, jwk=own, jku="http://evil/keys")) is None


def test_texts_that_are_no_tokens(verifier: Verifier) -> None:
    good = signed(claims())
    head, body, signature = good.split(".")
    wrong = base64.urlsafe_b64encode(json.dumps(claims(sub="root")).encode()).rstrip(b"=").decode()
    nested = base64.urlsafe_b64encode(b'{"alg":"RS256","kid":"k","x":' + b"[" * 11_000).decode().rstrip("=")
    assert verifier.verify(f"{nested}.{body}.{signature}") is None
    for text in ("", ".", "..", "...", "a.b.c", "é.é.é", "\0", good + "x", good + ".x", good[:-4], f"{head}.{body}",
                 f"{head}.{body}.", f"{head}.{wrong}.{signature}", f"{head}..{signature}", good * 50,
                 "x" * 100_000, good.replace("-", "+").replace("_", "/") + "="):
        assert text == good or verifier.verify(text) is None


def test_good_tokens_are_remembered_until_they_end() -> None:
    clock = Clock()
    key = keys.SigningKey(key=EC, algorithm="ES256", key_id="k", jwk={})
    issuer = Issuer(key, issuer=ISSUER, service=SERVICE, lifetime_s=300, refresh_s=600, now=clock)
    clock.now = time.time()
    token, issued_at = issuer.access("joe", {("repository", "a"): frozenset({"pull"})})
    assert issued_at == int(clock.now)
    verifier = issuer.verifier
    assert verifier.recall(token) is None
    assert verifier.verify(token) is not None
    assert verifier.recall(token) is not None
    clock.now += 400
    assert verifier.recall(token) is None


def test_long_tokens_are_not_remembered() -> None:
    key = keys.SigningKey(key=EC, algorithm="ES256", key_id="k", jwk={})
    issuer = Issuer(key, issuer=ISSUER, service=SERVICE, lifetime_s=300, refresh_s=600)
    token, _ = issuer.access("joe", {("repository", f"a{number}" * 10): frozenset({"pull"}) for number in range(60)})
    assert issuer.verifier.verify(token) is not None
    assert issuer.verifier.recall(token) is None
    token, _ = issuer.access("joe", {("repository", "a" * 255 + str(at)): frozenset({"pull"}) for at in range(64)})
    assert issuer.verifier.verify(token) is None


def test_refresh_tokens_are_no_access_tokens() -> None:
    key = keys.SigningKey(key=EC, algorithm="ES256", key_id="k", jwk={})
    issuer = Issuer(key, issuer=ISSUER, service=SERVICE, lifetime_s=300, refresh_s=600)
    refresh, (access, _) = issuer.refresh("joe", "f"), issuer.access("joe", {})
    assert issuer.verifier.verify(refresh) is None
    assert issuer.verifier.verify_refresh(access) is None
    found = issuer.verifier.verify_refresh(refresh)
    assert found is not None
    assert (found.subject, found.fingerprint) == ("joe", "f")


# --- keys


@pytest.mark.parametrize(("kind", "algorithm"), [("ec", "ES256"), ("rsa", "RS256")])
def test_key_files(tmp_path: Path, kind: keys.KeyType, algorithm: str) -> None:
    """Mode 0600, never overwritten unasked, whole; what one process makes another reads."""
    path = tmp_path / "key.pem"
    keys.write(path, keys.make(kind))
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConflictError, match="exists already"):
        keys.write(path, b"x")
    made, again = keys.load(path), keys.load_or_make(path)
    assert (made.algorithm, made.key_id) == (algorithm, again.key_id)
    token, _ = Issuer(made, issuer=ISSUER, service=SERVICE, lifetime_s=9, refresh_s=9).access("joe", {})
    assert jwt.get_unverified_header(token) == {"typ": "JWT", "alg": algorithm, "kid": made.key_id}
    other = Issuer(again, issuer=ISSUER, service=SERVICE, lifetime_s=9, refresh_s=9)
    assert other.verifier.verify(token) is not None
    published = keys.parse_jwks(keys.jwk_set([made.jwk]), "test")
    assert Verifier(KeySet(published), issuer=ISSUER, service=SERVICE).verify(token) is not None
    keys.write(path, keys.make("ec"), replace=True)
    assert keys.load(path).key_id != made.key_id
    assert [entry.name for entry in tmp_path.iterdir()] == ["key.pem"]


def test_processes_that_start_together_agree_on_a_key(tmp_path: Path) -> None:
    path, found = tmp_path / "data" / "key.pem", []
    threads = [threading.Thread(target=lambda: found.append(keys.load_or_make(path).key_id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["key.pem"]


def test_files_that_are_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(InvalidParameterError, match="No such file"):
        keys.load(path)
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    for pem, message in (
            (b"x", "not a private key"),
            (EC.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                              serialization.BestAvailableEncryption(b"x")), "without a password"),
            (short.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                 serialization.NoEncryption()), "too short")):
        path.write_bytes(pem)
        with pytest.raises(InvalidParameterError, match=message):
            keys.load(path)


def test_key_ids() -> None:
    """RFC 7638 3.1, its own example; libtrust: twelve groups of four."""
    modulus = ("0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCi"
               "FV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9"
               "c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1j"
               "F44-csFCur-kEgU8awapJzKnqDKgw")
    assert keys.thumbprint({"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256"}) == (
        "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs")
    groups = keys.libtrust_id(RSA.public_key()).split(":")
    assert [len(group) for group in groups] == [4] * 12


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"keys": []}', b'{"keys": [{"kty": "oct", "k": "AAAA"}]}',
                                 b'{"keys": 5}', b'{"keys": ["x"]}', b'{"keys": [{"kty": "EC", "crv": "P-256"}]}'])
def test_documents_that_are_no_key_sets(raw: bytes) -> None:
    with pytest.raises(InvalidParameterError):
        keys.parse_jwks(raw, "test")


def test_keys_for_encryption_and_other_algorithms_do_not_verify() -> None:
    entry = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key()))
    use = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(EC.public_key()))
    raw = json.dumps({"keys": [{**entry, "kid": "enc", "use": "enc"}, {**entry, "kid": "k", "alg": "RS512"},
                               {**use, "kid": "e"}]}).encode()
    found = keys.parse_jwks(raw, "test")
    assert found.keys() == {"k", "e"}
    verifier = Verifier(KeySet(found), issuer=ISSUER, service=SERVICE)
    assert verifier.verify(signed(claims(), algorithm="RS512"))
    assert verifier.verify(signed(claims(), algorithm="RS256")) is None
    assert verifier.verify(signed(claims(), EC, "ES256", kid="e"))
    assert verifier.verify(signed(claims(), kid="e")) is None


def test_key_sets_are_fetched_when_a_new_key_appears() -> None:
    """Not more often than every half minute, and a failure keeps what is known."""
    clock = Clock()
    answers: list[dict[str, keys.VerifyingKey] | SystemFailureError] = []
    key = keys.verifying(RSA.public_key(), "test")

    def fetch() -> dict[str, keys.VerifyingKey]:
        answer = answers.pop(0)
        if isinstance(answer, SystemFailureError):
            raise answer
        return answer

    found = KeySet({}, fetch=fetch, now=clock)
    answers[:] = [{"one": key}]
    assert found.find({"kid": "one"}) is key
    assert found.find({"kid": "two"}) is None
    clock.now += 31
    answers[:] = [SystemFailureError("away")]
    assert found.find({"kid": "two"}) is None
    assert found.find({"kid": "one"}) is key
    clock.now += 31
    answers[:] = [{"two": key}]
    assert found.find({"kid": "two"}) is key
    assert found.find({"kid": "one"}) is None
    clock.now += 3601
    answers[:] = [{"three": key}]
    assert found.find({"kid": "two"}) is None


# --- certificates


def certificate(subject: str, key: PrivateKey, issuer: x509.Certificate | None = None,
                issuer_key: PrivateKey | None = None, *, authority: bool = False, days: int = 1) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer.subject if issuer else name)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=2))
    builder = builder.not_valid_after(now + datetime.timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    return builder.sign(issuer_key or key, hashes.SHA256())


def chain(*certificates: x509.Certificate) -> list[str]:
    return [base64.b64encode(one.public_bytes(serialization.Encoding.DER)).decode() for one in certificates]


def test_certificate_chains(tmp_path: Path) -> None:
    """x5c: a chain to a root, all valid, only authorities vouch; and the roots' own signatures."""
    root_key, middle_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = certificate("root", root_key, authority=True)
    middle = certificate("middle", middle_key, root, root_key, authority=True)
    leaf = certificate("leaf", RSA, middle, middle_key)
    bundle = tmp_path / "roots.pem"
    bundle.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    verifier = Verifier(KeySet({}, roots=keys.read_roots(bundle)), issuer=ISSUER, service=SERVICE)

    def takes(*certificates: x509.Certificate) -> bool:
        return verifier.verify(signed(claims(), x5c=chain(*certificates), kid=None)) is not None

    assert takes(leaf, middle)
    assert takes(leaf, middle, root)
    assert takes(certificate("direct", RSA, root, root_key))
    assert not takes(leaf)
    assert not takes(middle, leaf)
    assert not takes(certificate("self", RSA))
    assert not takes(certificate("leaf", RSA, middle, root_key), middle)
    assert not takes(certificate("old", RSA, root, root_key, days=-1))
    assert not takes(leaf, certificate("middle", middle_key, root, root_key, authority=True, days=-1))
    assert not takes(leaf, certificate("middle", middle_key, root, root_key))
    fake = certificate("root", middle_key, authority=True)
    assert not takes(certificate("leaf", RSA, fake, middle_key), fake)
    assert verifier.verify(signed(claims(), x5c=["!"], kid=None)) is None
    assert verifier.verify(signed(claims(), x5c="x", kid=None)) is None
    own = signed(claims(jti="own"), root_key, "ES256", kid=keys.libtrust_id(root_key.public_key()))
    assert verifier.verify(own) is not None
    with pytest.raises(InvalidParameterError, match="no certificates"):
        keys.read_roots(tmp_path / "key" if (tmp_path / "key").write_bytes(b"x") else tmp_path)


def test_a_signer_that_is_itself_in_the_bundle(tmp_path: Path) -> None:
    """distribution's ``rootcertbundle`` often holds just the signer's own certificate."""
    signer = certificate("signer", RSA)
    verifier = Verifier(KeySet({}, roots=[signer]), issuer=ISSUER, service=SERVICE)
    assert verifier.verify(signed(claims(), x5c=chain(signer)))
    assert verifier.verify(signed(claims(jti="2"), kid=keys.libtrust_id(RSA.public_key())))
    vouched = certificate("leaf", EC, signer, RSA)
    assert verifier.verify(signed(claims(jti="3"), EC, "ES256", x5c=chain(vouched, signer))) is None
