"""The native container runtime: an OCI configuration in, a running process out."""
