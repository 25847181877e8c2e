"""Build caches elsewhere: in registries, in layouts at the client's, in the configs of images."""
