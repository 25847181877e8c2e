"""Output: Go templates, tables, units, and the fields of each kind of object."""
