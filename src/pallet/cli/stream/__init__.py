"""Attached sessions: terminal modes, stream copying, signals."""
