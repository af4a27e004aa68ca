"""Write docs/transfer-syntaxes.md: what becomes of public DICOM corpora, by transfer syntax.

``python docs/transfer_syntaxes.py DIR`` where DIR holds the folders ``wg04`` and ``pydicom_data``.
"""

import sys
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.dicom.corpora import outcomes  # noqa: E402  found by the line above

HEAD = """\
# Transfer syntaxes

What became of every file of two public corpora: the compression samples of DICOM Working Group 4 with the test files
of pydicom, and the collection pydicom-data (damaged, odd and exotic files among them). Made by
`docs/transfer_syntaxes.py`; do not edit by hand. What each code means stands in [reason-codes.md](reason-codes.md).

| transfer syntax | files | decoded | left out |
|---|---|---|---|
"""
NO_SYNTAX = "none, or no DICOM file"


def main() -> None:
    """Take both corpora through header and pixels and write the table."""
    data = Path(sys.argv[1])
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for name in ("wg04", "pydicom_data"):
        for one in outcomes(data / name):
            table[one.syntax or NO_SYNTAX][one.result] += 1
    lines = []
    for syntax in sorted(table, key=lambda key: (key == NO_SYNTAX, key)):
        counts = table[syntax]
        left_out = ", ".join(f"`{code}` {n}" for code, n in sorted(counts.items()) if code != "decoded")
        lines.append(f"| {syntax} | {counts.total()} | {counts['decoded']} | {left_out} |\n")
    (ROOT / "docs" / "transfer-syntaxes.md").write_text(HEAD + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
