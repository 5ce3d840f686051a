"""Grammars of guided outputs: what they are made of, how they are read and how written."""
