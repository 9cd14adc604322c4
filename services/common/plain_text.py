"""Plain text: HTML tags taken out, everything else left as it was (requirement row 3)."""

from __future__ import annotations

import nh3

# nh3 writes these for characters that would mean something in HTML; `&` is hidden from it, so only these three can appear.
_ESCAPES = {"&lt;": "<", "&gt;": ">", "&nbsp;": "\u00a0"}
_MAX_PASSES = 20


def strip_html(text: str) -> str | None:
    """The text without HTML tags, comments, scripts and styles; `if a < b and c > d` and `&` stay as they are.

    Taking a tag out can make a new one of what stood around it, so this goes on until nothing changes; None when that takes
    more than 20 passes, which no honest text does.
    """
    if "<" not in text:
        return text.strip()
    ampersand = next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in text)
    for _ in range(_MAX_PASSES):
        before = text
        text = nh3.clean(text.replace("&", ampersand), tags=set())
        for escape, character in _ESCAPES.items():
            text = text.replace(escape, character)
        text = text.replace(ampersand, "&")
        if text == before:
            return text.strip()
    return None
