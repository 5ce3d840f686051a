"""GGUF files: their header, and the text files that it stands for."""
