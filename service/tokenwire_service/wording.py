"""Numbers in messages."""


def counted(count: int, noun: str) -> str:
    """Returns the count with its noun, such as `1 token` or `2 tokens`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
