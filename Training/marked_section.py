"""A section of a page that a program writes between two marks."""

from __future__ import annotations


def around_marks(text: str, begin: str, end: str) -> tuple[str, str]:
    """What stands before and after the section, each with its mark.

    Raises:
        ValueError: a mark is missing.
    """
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{begin!r} and {end!r} are needed, in this order")
    return before + begin, end + after
