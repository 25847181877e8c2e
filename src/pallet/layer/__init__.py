"""Layers: from a layer's tar to a tree of files and back. Sync, single-threaded, no event loop."""
