"""What engines share about guides: trying them before an engine sees them, and writing choices."""
