"""The pull-through mirror: repositories of other registries, kept in the registry's own store."""
