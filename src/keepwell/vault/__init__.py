"""The repository in a store: encrypted, deduplicated, append-only. The format is docs/format.md."""
