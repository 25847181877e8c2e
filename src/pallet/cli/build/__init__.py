"""``pallet build``: options, the walk over a context, the conversation, the views."""
