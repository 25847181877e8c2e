"""The Engine API over HTTP: routes, version shapes, errors. Reaches the engine through ``backends`` only."""
