"""The classic ``POST /build``: a tar in, dockerd's lines out."""
