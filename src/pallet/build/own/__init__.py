"""The door of ``pallet build``: one conversation over a raw stream."""
