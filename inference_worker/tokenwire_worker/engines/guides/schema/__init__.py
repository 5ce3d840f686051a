"""JSON Schema as a grammar: whatever the grammar matches is valid, or the schema is refused."""
