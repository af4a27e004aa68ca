"""What stands at a path that somebody named, told without an exception where nobody may look."""

import stat
from pathlib import Path
from typing import Literal

Standing = Literal["file", "folder", "other", "nothing", "closed"]


def standing_at(path: Path) -> Standing:
    """Say what stands at a path; links are followed.

    `Path.exists` and its like raise an exception where a folder on the way may not be entered (before Python 3.14), as
    is usual on shared disks: that is `closed` here, and so is every other path that the system refuses to look up.

    Returns
    -------
    str
        ``file``, ``folder``, ``other`` (a device, a pipe), ``nothing``, or ``closed``.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte in the name
        return "nothing"
    except OSError:
        return "closed"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"
