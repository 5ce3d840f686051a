"""A served model's text side: tokenizer, chat template, limits, and the threads that run them."""
