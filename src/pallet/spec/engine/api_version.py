"""Which versions of the Engine API Pallet speaks."""

from __future__ import annotations

from typing import Final

API_VERSION: Final = "1.51"
"""The newest; what a path without a version means."""
MIN_API_VERSION: Final = "1.24"
"""The oldest."""
