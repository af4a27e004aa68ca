"""Receipt: what was done to which attribute how often, without any value of any file."""

from collections import Counter
from collections.abc import Iterable

from pydicom.datadict import dictionary_has_tag, keyword_for_tag

from pipeline.core.records import ReceiptLine
from pipeline.dicom.deidentification.confidentiality import PRIVATE_TAG

_UNKNOWN = "unknown to the standard"
_REPEATED = frozenset({0x5000, 0x6000})  # curves and overlays


class Receipt:
    """Adds up what was done to the elements of many files."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, str]] = Counter()

    def add(self, counts: Iterable[tuple[int, str, int]]) -> None:
        """Add the counts of a file: tag, outcome, how often."""
        for tag, outcome, number in counts:
            self._counts[tag, outcome] += number

    def lines(self) -> list[ReceiptLine]:
        """Give the table, in order of the tags."""
        named: Counter[tuple[str, str, str]] = Counter()
        for (tag, outcome), number in self._counts.items():
            named[(*_named(tag), outcome)] += number
        return [
            ReceiptLine(tag=tag, keyword=keyword, action=action, elements=number)
            for (tag, keyword, action), number in sorted(named.items())
        ]


def _named(tag: int) -> tuple[str, str]:
    """Give tag and keyword. An unknown tag is not shown: its maker may have put a number of the patient's there."""
    if tag == PRIVATE_TAG:
        return "PRIVATE", ""
    group, element = tag >> 16, tag & 0xFFFF
    if group & 0xFF00 in _REPEATED:
        return f"({group >> 8:02X}xx,{element:04X})" if group & 0xFF00 == 0x6000 else "(50xx,xxxx)", ""
    if not dictionary_has_tag(tag):
        return _UNKNOWN, ""
    return f"({group:04X},{element:04X})", keyword_for_tag(tag)
