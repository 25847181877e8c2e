"""The daemon's side of zygote and shims."""
