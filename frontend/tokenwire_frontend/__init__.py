"""The frontend: text in, streamed text out; token ids to and from the workers behind it."""
