"""The ``pallet`` command line: a client of the Engine API and nothing else.

Start-up is the budget: a command imports its own module and what that needs. ``main.py`` is the
entry, ``commands/table.py`` the tree of commands as data, ``flags.py`` the option parser.
"""
