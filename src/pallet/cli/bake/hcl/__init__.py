"""HCL's native syntax: text to blocks and expressions, their evaluation, the functions of bake files."""
