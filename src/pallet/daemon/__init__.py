"""palletd: options, listeners, signals and the composition root."""
