"""Texts whose bytes were no UTF-8: found out, and shown."""

from __future__ import annotations

INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060"  # marks of byte order and direction, and blanks of no width


def strip_blanks(text: str) -> str:
    """Strip what nobody sees at the ends of a name: blanks, and signs without a width."""
    shorter = text.strip().strip(INVISIBLE)
    return shorter if shorter == text else strip_blanks(shorter)


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
