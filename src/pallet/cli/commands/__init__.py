"""One module a command or small family; ``table.py`` says which."""
