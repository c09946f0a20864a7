"""What a user's files hold, as parts of lines of ours."""

from __future__ import annotations

from collections.abc import Sequence


def shortened(items: Sequence[str], count: int = 3) -> str:
    """The first few items, and how many more there are."""
    more = f" and {len(items) - count:,} more" if len(items) > count else ""
    return ", ".join(items[:count]) + more


def how_many(count: int, thing: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def quoted(items: Sequence[str]) -> str:
    return shortened([f"'{safe(item)}'" for item in items])


def safe(word: str, most: int = 60) -> str:
    """What a user's file holds, as part of a line of ours: control characters spelled out, the end of a long word left out."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in word[: most + 1])
    return line if len(line) <= most else f"{line[:most]}..."
