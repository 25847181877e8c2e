"""What a registry says of a reference. Spec: Engine API DistributionInspect."""

from __future__ import annotations

from msgspec import Struct

from pallet.spec.engine.oci import Descriptor, DescriptorPlatform


class DistributionInspect(Struct, frozen=True, kw_only=True, rename="pascal"):
    """``platforms`` in the index's order; one for a plain manifest."""

    descriptor: Descriptor
    platforms: list[DescriptorPlatform] = []
