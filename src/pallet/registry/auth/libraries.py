"""The packages that access control needs, of the extra ``registry``.

Owns   the error when one is missing.
Runs   at start and in commands; before workers are forked, so that these share the modules.
Needs  nothing.
"""

from __future__ import annotations

import importlib

from pallet.errors import InvalidParameterError

HASHING = ("bcrypt",)
SIGNING = ("jwt", "cryptography.x509")


def require(names: tuple[str, ...], purpose: str) -> None:
    """Import packages.

    Raises:
        InvalidParameterError: one is not installed.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            message = f"{purpose} need {error.name}: pip install 'pallet[registry]'"
            raise InvalidParameterError(message) from error
