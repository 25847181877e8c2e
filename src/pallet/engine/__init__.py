"""The engine: containers, their life, and what the API's backends promise.

Runs on the daemon's event loop. Blocking work goes through ``pallet.aio``.
"""
