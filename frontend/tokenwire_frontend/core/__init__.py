"""What the frontend decides: pure, without transport, event loop or tokenizer."""
