"""TLS of the registry's listener.

Owns   certificate, key, client authorities and what is asked of clients.
Runs   once at start, and on SIGHUP for the connections that come afterwards.
Needs  PEM files.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from pallet.registry.auth.settings import TlsConfig

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def tls_context(config: TlsConfig) -> ssl.SSLContext | None:
    """A server's context; None for plain HTTP.

    Raises:
        InvalidParameterError: a file is missing or wrong, or the key is another certificate's.
    """
    if not (config.certificate or config.key or config.client_ca):
        return None
    if not (config.certificate and config.key):
        message = "TLS needs a certificate and its key"
        raise InvalidParameterError(message)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[config.min_version]
    context.set_alpn_protocols(["http/1.1"])
    try:
        # A key with a password would ask for it on the terminal.
        context.load_cert_chain(config.certificate, config.key, password=b"")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        message = f"TLS certificate {config.certificate} and key {config.key}: {error}"
        raise InvalidParameterError(message) from error
    if config.client_ca:
        try:
            context.load_verify_locations(config.client_ca)
        except OSError as error:
            message = f"TLS client authorities {config.client_ca}: {error}"
            raise InvalidParameterError(message) from error
        context.verify_mode = ssl.CERT_REQUIRED if config.require_client else ssl.CERT_OPTIONAL
    return context
