"""How the registry's requests are served: an epoll loop for replies, threads for what blocks."""
