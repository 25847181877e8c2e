"""What the registry knows: ``records`` is the vocabulary, ``sql`` the statements, the rest databases."""
