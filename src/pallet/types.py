"""Identifiers and units shared by every layer. Imports nothing of Pallet."""

from __future__ import annotations

from typing import NewType

ContainerId = NewType("ContainerId", str)
"""64 lower-case hex digits."""
ExecId = NewType("ExecId", str)
"""64 lower-case hex digits."""
NetworkId = NewType("NetworkId", str)
"""64 lower-case hex digits."""
EndpointId = NewType("EndpointId", str)
"""64 lower-case hex digits."""
Digest = NewType("Digest", str)
"""``algorithm:hex``, for example ``sha256:…``; never bare hex. Made by ``pallet.spec.digest``."""
DiffID = NewType("DiffID", str)
"""Digest of a layer's uncompressed tar (image-spec config.md#layer-diffid)."""
ImageId = NewType("ImageId", str)
"""Digest of the image's config, ``sha256:…``."""
