"""RSA decryption of small texts (PKCS #1 v1.5), for ``rsadecrypt``.

Owns   reading of a private key; it needs no library, which few definitions are worth.
Spec   RFC 8017 sections 5.1.2, 7.2.2, appendix A.1.2.
"""

from __future__ import annotations

import binascii

_BEGIN, _END = "-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----"
_SEQUENCE, _INTEGER = 0x30, 0x02


def decrypt(ciphertext: str, key: str) -> str:
    """Decrypt what is written in base64.

    Args:
        key: a key in PEM, as ``openssl genrsa -traditional`` makes it.

    Raises:
        ValueError: either is malformed, or they do not belong together.
    """
    try:
        data = binascii.a2b_base64(ciphertext.encode(), strict_mode=True)
    except (ValueError, UnicodeEncodeError):
        raise ValueError(f'failed to decode input "{ciphertext}": cipher text must be base64-encoded') from None
    modulus, private = _key(key)
    size = (modulus.bit_length() + 7) // 8
    number = int.from_bytes(data, "big")
    if len(data) != size or number >= modulus:
        raise ValueError("crypto/rsa: decryption error")
    plain = pow(number, private, modulus).to_bytes(size, "big")
    head, _, text = plain[2:].partition(b"\0")
    if plain[:2] != b"\0\2" or len(head) < 8 or len(head) + 3 > size:
        raise ValueError("crypto/rsa: decryption error")
    return text.decode("utf-8", "replace")


def _key(text: str) -> tuple[int, int]:
    """Modulus and private exponent."""
    _, begun, rest = text.partition(_BEGIN)
    body, ended, _ = rest.partition(_END)
    if not begun or not ended:
        if "PRIVATE KEY-----" in text:
            raise ValueError("x509: failed to parse private key (use ParsePKCS8PrivateKey instead for this key format)")
        raise ValueError("failed to parse key: no key found")
    try:
        numbers = _integers(binascii.a2b_base64(body))
        return numbers[1], numbers[3]
    except (ValueError, IndexError):
        raise ValueError("failed to parse key: asn1: structure error") from None


def _integers(data: bytes) -> list[int]:
    """The integers of a DER sequence."""
    kind, data, _ = _value(data)
    if kind != _SEQUENCE:
        raise ValueError("no sequence")
    found = []
    while data:
        kind, content, data = _value(data)
        if kind != _INTEGER:
            raise ValueError("no integer")
        found.append(int.from_bytes(content, "big"))
    return found


def _value(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag, content and what follows."""
    kind, length, at = data[0], data[1], 2
    if length & 0x80:
        at += length & 0x7F
        length = int.from_bytes(data[2:at], "big")
    if len(data) < at + length:
        raise ValueError("cut off")
    return kind, data[at:at + length], data[at + length:]
