"""Devices of the Container Device Interface: what the host has of them, and what they do to a container."""
