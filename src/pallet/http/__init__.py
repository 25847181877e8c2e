"""A small HTTP/1.1 server with hijack and half-close, and the stream formats of the Engine API."""
