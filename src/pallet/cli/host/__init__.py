"""What concerns this machine: starting a daemon, diagnosis, base images."""
