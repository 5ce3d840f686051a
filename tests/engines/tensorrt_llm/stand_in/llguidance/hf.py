"""Tokenizers of transformers as llguidance takes them."""


def from_tokenizer(tokenizer, n_vocab):
    return tokenizer, n_vocab
