"""Manifest lists made by hand: the local store and the registries they come from and go to."""
