"""Images: the index over image records, names and layers."""
