"""Routes of the Engine API, one module an object. Thin: decode, call the backend, encode."""
