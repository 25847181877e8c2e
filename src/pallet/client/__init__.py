"""Synchronous Engine API client, built to start in a few milliseconds.

Nothing here imports ``json``, ``socket``, ``http`` or ``ssl`` on the way to a unix socket: the
command line pays for every import on every call. TLS, tcp and ssh load what they need when used.
"""
