"""Layouts: runs of elements that recur from file to file, so that a header like the last one is not walked again.

The slices of a series have the same elements with the same lengths, but for a few values. What was walked once is
kept as runs: the headers of successive elements, and where the wanted values stand between them. A run counts
only where every one of its element headers stands, byte for byte, at its place: then walking would find the same.

References
----------
DICOM PS3.5, section 7.1 (data elements).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct, error
from typing import Any, NamedTuple

_HEADER_BYTES = 8  # tag, value representation and length; tag and length in implicit encoding
_LONGEST_RUN = 512
# An archive whose headers have nothing in common must not fill the memory.
_MOST_PIECES = 50_000
# Learning an element costs as much as walking over five; it ends where that does not come back.
_PATIENCE = 20_000


class Piece(NamedTuple):
    """One element of a run: its header, where it stands, the length of its value, and its tag if it is wanted."""

    header: bytes
    at: int
    length: int
    wanted: int | None


class _Run(NamedTuple):
    pieces: tuple[Piece, ...]
    headers: Callable[[bytes, int], tuple[Any, ...]]
    expected: tuple[bytes, ...]
    tags: tuple[int, ...]
    values: Callable[[bytes, int], tuple[Any, ...]]
    length: int


@dataclass(slots=True)
class Layouts:
    """The runs known for one list of wanted elements and one encoding."""

    _runs: dict[bytes, _Run] = field(default_factory=dict)
    _pieces: int = 0  # of all runs kept
    _learned: int = 0  # elements, ever
    _leapt: int = 0

    def leap(self, head: bytes, at: int, found: dict[int, bytes]) -> int:
        """Pass over as many elements as known runs hold.

        Parameters
        ----------
        head
            The file, or its beginning.
        at
            Where an element begins.
        found
            Takes up the wanted values, by tag as stored.

        Returns
        -------
        int
            Where the first element begins that is in no known run; `at` itself if there is none.
        """
        runs = self._runs
        while (run := runs.get(head[at : at + _HEADER_BYTES])) is not None:
            try:
                headers = run.headers(head, at)
                if headers != run.expected:
                    run = self._shortened(run, headers)
                values = run.values(head, at)
            except error:  # the head ends within the run: the walker finds out where
                return at
            found.update(zip(run.tags, values, strict=True))
            self._leapt += len(run.pieces)
            at += run.length
        return at

    def knows(self, head: bytes, at: int) -> bool:
        """Tell whether a run begins here."""
        return head[at : at + _HEADER_BYTES] in self._runs

    def learn(self, pieces: list[Piece]) -> None:
        """Keep elements that were walked one after the other as a run."""
        if pieces and self._learned <= _PATIENCE + self._leapt:
            if self._pieces >= _MOST_PIECES:
                self._runs.clear()
                self._pieces = 0
            self._keep(tuple(pieces[:_LONGEST_RUN]))

    def _keep(self, pieces: tuple[Piece, ...]) -> _Run:
        begin = pieces[0].at
        last = pieces[-1]
        length = last.at + _HEADER_BYTES + last.length - begin
        headers = "".join(f"{_HEADER_BYTES}s{piece.length}x" for piece in pieces)
        values = "".join(f"{_HEADER_BYTES}x{piece.length}{'x' if piece.wanted is None else 's'}" for piece in pieces)
        run = _Run(
            pieces,
            Struct(f"<{headers}").unpack_from,
            tuple(piece.header for piece in pieces),
            tuple(piece.wanted for piece in pieces if piece.wanted is not None),
            Struct(f"<{values}").unpack_from,
            length,
        )
        self._runs[pieces[0].header] = run
        self._pieces += len(pieces)
        self._learned += 5 * len(pieces)
        return run

    def _shortened(self, run: _Run, headers: tuple[bytes, ...]) -> _Run:
        """Cut a run in front of the first header that is another one; the first of all is never one."""
        same = next(index for index, header in enumerate(headers) if header != run.expected[index])
        return self._keep(run.pieces[:same])
