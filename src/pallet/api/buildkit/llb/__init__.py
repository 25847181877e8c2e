"""BuildKit's low-level builds (LLB) as graphs of the builder's own."""
