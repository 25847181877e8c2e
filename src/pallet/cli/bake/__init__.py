"""``pallet bake``: build definitions in HCL, JSON and Compose files, and builds of several targets at once."""
