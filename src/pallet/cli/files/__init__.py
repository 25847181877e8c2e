"""Local files as tars and back, for ``pallet cp``."""
