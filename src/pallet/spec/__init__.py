"""Documents only: wire and disk formats, names and grammar. No I/O."""
