"""Images as tar archives: ``docker save`` and ``docker load``."""
