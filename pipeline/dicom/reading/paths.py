r"""Paths of the input as text that can be written anywhere, and back.

File systems know bytes; names that are not UTF-8 are common in old archives and must not cost an image.
"""

import os
import re

_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2})")


def as_text(path: str) -> str:
    r"""Write a path as plain text: bytes that are not UTF-8 become ``\xNN``, a backslash is doubled.

    Examples
    --------
    >>> as_text("folder/image.dcm"), as_text(os.fsdecode(b"M\xfcller")), as_text("a\\b")
    ('folder/image.dcm', 'M\\xfcller', 'a\\\\b')
    """
    escaped = path.replace("\\", "\\\\")
    return os.fsencode(escaped).decode("utf-8", "backslashreplace")


def from_text(text: str) -> str:
    r"""Turn the text of `as_text` into the path it stands for.

    Examples
    --------
    >>> from_text(as_text("a\\xff")) == "a\\xff", os.fsencode(from_text("M\\xfcller"))
    (True, b'M\xfcller')
    """
    return _ESCAPE.sub(_unescaped, text)


def _unescaped(match: re.Match[str]) -> str:
    code = match.group(1)
    return "\\" if code == "\\" else os.fsdecode(bytes([int(code[1:], 16)]))
