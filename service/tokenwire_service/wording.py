"""Numbers and callers' own words in messages."""


def counted(count: int, noun: str) -> str:
    """Returns the count with its noun, such as `1 token` or `2 tokens`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def cut(text: str, limit_bytes: int) -> str:
    """Returns the text, or so much of it that it has at most so many bytes, and valid UTF-8.

    Args:
        text: any text; a lone surrogate, which UTF-8 has no bytes for, becomes a question mark.
        limit_bytes: at least 3, for the ellipsis that stands for the rest.
    """
    raw = text[:limit_bytes].encode(errors="replace")
    if len(raw) <= limit_bytes and len(text) <= limit_bytes:
        return raw.decode()
    return raw[: limit_bytes - 3].decode(errors="ignore") + "\u2026"
