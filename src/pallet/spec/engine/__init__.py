"""Documents of the Engine API, one module an object.

Attribute names are Python's, wire names Docker's (``field(name=...)`` where they are irregular).
Replies are shaped for the newest API version; ``api/version.py`` makes the older shapes.

How Go's rules are kept:

* a slice, map or pointer that Go sends as ``null`` when empty has ``None`` in its type;
* a field with ``omitempty`` has ``UNSET`` in its type (``Maybe[...]``) and is absent then;
* everything else is always sent. ``None``, ``UNSET``, ``""`` and ``[]`` are all falsy, so
  ``value or default`` reads each of them.

Documents from clients go through ``decode.py``, which reads ``null`` as Go does.
"""
