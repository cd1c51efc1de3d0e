"""Texts whose bytes were no UTF-8: found out, and shown."""

from __future__ import annotations


def is_unicode(text: str) -> bool:
    """Whether the text is whole: bytes that were no UTF-8 have been read as lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """The text with its broken bytes shown as such."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
