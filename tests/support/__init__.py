"""What tests share: host probes, namespaces, scratch images, daemons, clients, leak checks."""
