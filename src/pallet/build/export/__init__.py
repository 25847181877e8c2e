"""What a build becomes: an image in the store, a push, an archive, a directory."""
