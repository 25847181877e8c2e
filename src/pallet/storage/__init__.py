"""Storage: content by digest, snapshots of layers, and the records about everything."""
