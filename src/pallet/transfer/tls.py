"""TLS settings of a registry: system roots, extra roots and client certificates.

Owns   reading ``certs.d`` directories into ``ssl.SSLContext``.
Runs   in transfer threads; touches disk once a host.
Needs  read access to /etc/docker/certs.d and /etc/pallet/certs.d.
Spec   Docker "Verify repository client with certificates": ``*.crt`` are roots, ``x.cert`` with
       ``x.key`` are client certificates, in a directory named after ``host[:port]``.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from pallet.errors import SystemFailureError

CERTIFICATE_DIRECTORIES = (Path("/etc/docker/certs.d"), Path("/etc/pallet/certs.d"))


def context_for(
    authority: str, *, insecure: bool, directories: tuple[Path, ...] = CERTIFICATE_DIRECTORIES
) -> ssl.SSLContext:
    """Build the context for connections to ``authority`` (``host`` or ``host:port``).

    Args:
        insecure: accept any certificate, as for registries listed as insecure.

    Raises:
        SystemFailureError: a certificate without its key or the other way round, or unreadable.
    """
    found = [directory / authority for directory in directories]
    if insecure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = ssl.create_default_context()
    for directory in found:
        if directory.is_dir():
            _load(context, directory)
    return context


def _load(context: ssl.SSLContext, directory: Path) -> None:
    names = sorted(entry.name for entry in directory.iterdir())
    try:
        for name in names:
            if name.endswith(".crt"):
                context.load_verify_locations(cafile=str(directory / name))
            elif name.endswith(".cert"):
                key = name.removesuffix(".cert") + ".key"
                if key not in names:
                    message = (f"missing key {key} for client certificate {name}. Note that CA "
                               "certificates should use the extension .crt")
                    raise SystemFailureError(message)
                context.load_cert_chain(str(directory / name), str(directory / key))
            elif name.endswith(".key"):
                cert = name.removesuffix(".key") + ".cert"
                if cert not in names:
                    message = f"missing client certificate {cert} for key {name}"
                    raise SystemFailureError(message)
    except (OSError, ssl.SSLError) as error:
        message = f"could not load certificates from {directory}: {error}"
        raise SystemFailureError(message) from error
