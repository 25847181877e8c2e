"""Dockerfile text to a build graph."""
