"""New headers: from a header as found to the bytes that are written, searched once more for the patient's words."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from pipeline.dicom.deidentification.burned_in import FIXED_WORDS
from pipeline.dicom.deidentification.confidentiality import METHOD, Outcome, deidentify_dataset, texts_to_search
from pipeline.dicom.deidentification.encoding import encoded_header
from pipeline.dicom.deidentification.leaks import Tokens
from pipeline.dicom.deidentification.options import method_codes
from pipeline.dicom.deidentification.raw import text_of
from pipeline.dicom.deidentification.values import Identity
from pipeline.dicom.deidentification.words import fixed_text
from pipeline.dicom.reading.files import FileFault

FAILED = "DEIDENTIFICATION_FAILED"
STUDY_UID = 0x0020000D
NAMING_UIDS = (STUDY_UID, 0x0020000E, 0x00080018)  # of study, series and object
# What `codestreams` may have missed would stand in front of the data or behind them. Short words turn up by chance.
_CODESTREAM_ENDS_BYTES = 1 << 16


@dataclass(frozen=True)
class NewHeader:
    """All of a file but its pixels.

    Attributes
    ----------
    encoded
        Preamble with file meta information, and data set.
    uids
        Of study, series and object, as written.
    counts
        Tag, what was done, and how often: for the receipt.
    """

    encoded: tuple[bytes, bytes]
    uids: tuple[str, ...]
    counts: tuple[tuple[int, str, int], ...]


def new_header(
    found: Dataset,
    transfer_syntax_uid: str,
    identity: Identity,
    options: frozenset[str],
    declare: Callable[[Dataset], None] | None = None,
) -> tuple[NewHeader, Dataset]:
    """De-identify, encode and search a header.

    Parameters
    ----------
    found
        The header; values of it may be converted in place.
    transfer_syntax_uid
        How the file will be encoded.
    identity
        Whose it is, with the words to search for.
    options
        Words of `options.OPTIONS`.
    declare
        Adds to the result what was done to the pixels.

    Returns
    -------
    tuple
        The header, and the data set that it encodes.

    Raises
    ------
    FileFault
        ``DEIDENTIFICATION_FAILED`` if a word of the patient's is left, or what gives pixels their meaning is not.
    """
    order = transfer_syntax_uid != ExplicitVRBigEndian
    outcome = deidentify_dataset(found, identity, options, is_little_endian=order)
    if declare is not None:
        declare(outcome.dataset)
    encoded = encoded_header(outcome.dataset, transfer_syntax_uid)
    _refuse_leaks(outcome, identity.tokens, options)
    counts = tuple([(tag, word, number) for (tag, word), number in outcome.counts.items()])
    uids = tuple([text_of(outcome.dataset, tag) for tag in NAMING_UIDS])
    return NewHeader(encoded, uids, counts), outcome.dataset


def _refuse_leaks(outcome: Outcome, tokens: Tokens, options: frozenset[str]) -> None:
    """Search what is about to be written for the source's identity; the rules should leave nothing to be found."""
    texts, numbers = texts_to_search(dict(outcome.dataset.items()))
    if tokens.are_in_bytes(texts, generated=filter(None, outcome.made), fixed_words=words_written(options)):
        raise FileFault(FAILED)
    if tokens.long_in_bytes(numbers):
        raise FileFault(FAILED)


def refuse_comments(codestream: bytes | memoryview, tokens: Tokens) -> None:
    """Search the ends of compressed pixels, whose comments have been emptied, once more.

    Raises
    ------
    FileFault
        ``DEIDENTIFICATION_FAILED``.
    """
    ends = bytes(codestream[:_CODESTREAM_ENDS_BYTES]) + bytes(codestream[-_CODESTREAM_ENDS_BYTES:])
    if tokens.long_in_bytes(ends):
        raise FileFault(FAILED)


@cache
def words_written(options: frozenset[str]) -> str:
    """Give every word that the rules themselves may write, in lower case."""
    codes = [word for code in method_codes(options) for word in code]
    return "\n".join([fixed_text(), METHOD, "DICM", FIXED_WORDS, *codes]).casefold()
