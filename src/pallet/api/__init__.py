"""The Engine API over HTTP: routes, version shapes, errors; the engine is behind ``backends``."""
