"""Which versions of the Engine API Pallet speaks."""

from __future__ import annotations

from typing import Final

API_VERSION: Final = "1.51"
"""The newest; what a path without a version means."""
MIN_API_VERSION: Final = "1.24"
"""The oldest that is promised."""
ACCEPTED_SINCE: Final = "1.22"
"""What requests may ask for all the same: ``docker-daemon:`` of skopeo and podman before 2024 speaks 1.22 to
any daemon, and saves and loads as today's clients do."""
