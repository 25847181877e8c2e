"""The process that forks every other one, and the shims it forks."""
