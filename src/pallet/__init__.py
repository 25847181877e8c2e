"""Pallet: the whole of Docker as one Python program.

This module imports nothing: the command line starts from here and every import costs start-up time.
"""

__version__ = "0.1.0"
