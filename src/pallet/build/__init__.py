"""The builder: Dockerfiles to images. ``docs/dev/build.md`` tells how the parts fit."""
