"""The kernel boundary: constants, structures and thin calls; standard library only."""
