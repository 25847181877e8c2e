"""Options of ``run`` and ``create`` to Engine API documents; no I/O but named files."""
