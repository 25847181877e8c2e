"""Storage drivers: ``driver`` is the Protocol, the others implement it."""
