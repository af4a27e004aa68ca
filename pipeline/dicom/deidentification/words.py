"""Words: texts of which only what a fixed vocabulary knows is kept.

A name that nobody listed cannot be found by looking for names. Looking for what is no name can: words of radiology
and of the standard, short numbers and short codes stay; everything else goes.
"""

import re
from collections.abc import Callable
from functools import cache

from pydicom.datadict import DicomDictionary  # type: ignore[attr-defined]

from pipeline.dicom.deidentification.profile import defined_terms, read_rows

REMOVED = "REMOVED"  # stands where a text had to go and none would break the object
_PIECES = re.compile(r"[A-Za-z0-9.]*[A-Za-z0-9][A-Za-z0-9.]*")
_NUMBER = re.compile(r"\d{1,3}(\.\d{1,3})?")
_CODE = re.compile(r"[A-Za-z]{1,2}\d{1,3}[A-Za-z]{0,2}|\d{1,3}[A-Za-z]{1,2}")
_NUMBERED = re.compile(r"([a-z]{3,})\d{1,3}")
_TERM_CODE = re.compile(r"[A-Z]{1,3}|[A-Z]{1,3}\d{1,3}[A-Z]{0,2}|\d{1,3}[A-Z]{0,2}")
# Dates, telephone and insurance numbers come in groups of a few digits.
_JOINED = re.compile(r"\d[^A-Za-z0-9]+\d")
# A month, by whatever name or in Roman numerals, may stand between them; T2_TSE_3mm is no such thing.
_JOINED_BY_A_WORD = re.compile(r"(?<![A-Za-z0-9])\d+[^A-Za-z0-9]+[A-Za-z]+[^A-Za-z0-9]+\d+(?![A-Za-z0-9])")
_DECIMAL = re.compile(r"[^A-Za-z0-9]*\d{1,3}[.,]\d{1,3}[^A-Za-z0-9]*")
_LEVELS = re.compile(r"[^A-Za-z0-9]*[A-Za-z]{1,2}\d{1,2}[/-]\d{1,2}[^A-Za-z0-9]*")  # of the spine: L4/5
_DIGITS = re.compile(r"[^A-Za-z0-9]*\d+(?:st|nd|rd|th)?([^A-Za-z0-9]+\d*)*", re.IGNORECASE)
_ORDINAL = re.compile(r"\d(?:st|nd|rd|th)\b", re.IGNORECASE)
_LETTERS = re.compile(r"[a-z]+")
_UNITS = frozenset(
    ["mm", "cm", "m", "ms", "s", "sec", "min", "h", "kv", "kvp", "ma", "mas", "ml", "hz", "t", "deg", "%", "x"]
)
_MONTHS = frozenset(
    {
        *("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"),
        *("mai", "okt", "dez", "avr", "abr", "ene"),
    }
)
# Behind these comes a name. MR in capitals is a modality.
_TITLES = re.compile(
    r"\b(?:Mr|(?i:mrs|ms|miss|dr|drs|doctor|prof|professor|sir|frau|herr|mme|madame|monsieur|sra|senor|senora)"
    r"|(?i:daughter|son|wife|husband|mother|father|sister|brother) of)\b\.?((?:[ ^]+\S+){1,2})"
)
# Ages above 89 years (see `values.OLDEST_SHOWN_YEARS`). 90Y is an isotope.
_GREAT_AGE = re.compile(
    r"(?<![0-9.,])0*(?:(?:9[1-9]|1[0-2]\d)[ -]*y|(?:9\d|1[0-2]\d)[ -]*(?:yo|yrs?|years?))(?![a-z])", re.IGNORECASE
)
_BLANKS = re.compile(r"[ \t]{2,}")
_SEPARATORS = " ^,;:.-_/\\|+&()[]{}\"'=<>*#@!?~"


@cache
def vocabulary() -> frozenset[str]:
    """Give every word that tells nothing about a person, in lower case."""
    listed = {row["word"] for row in read_rows("vocabulary.tsv")}
    names = {word.lower() for entry in DicomDictionary.values() for word in re.findall("[A-Za-z]+", entry[2])}
    return frozenset(listed | names)


@cache
def fixed_text() -> str:
    """Give all words that may stay, in lower case, as one text: finding one of them tells nothing about a patient."""
    terms = [term.lower() for known in defined_terms().values() for term in known]
    return "\n".join(sorted({*vocabulary(), *terms, *standard_phrases(), REMOVED.lower()}))


@cache
def standard_phrases() -> frozenset[str]:
    """Give the meanings of coded concepts that pydicom knows, as letters and digits in lower case."""
    from pydicom.sr.codedict import codes

    return frozenset(word.lower() for scheme in codes.schemes() for word in getattr(codes, scheme).dir())


def cleaned(text: str, is_name: Callable[[str], bool]) -> str:
    """Keep of a free text what the vocabulary knows.

    Parameters
    ----------
    text
        Decoded, of one value.
    is_name
        Tells whether a word belongs to the patient's identity, whatever the vocabulary says.

    Examples
    --------
    >>> cleaned("CT chest of Mrs White, Erika, 5 mm", lambda word: word == "erika")
    'CT chest of 5 mm'
    >>> cleaned("Knee 20240301 B70f", lambda word: False)
    'Knee B70f'
    """
    without_names = _GREAT_AGE.sub(" ", _TITLES.sub(" ", text))
    chunks = [_cleaned_chunk(chunk, is_name) for chunk in without_names.split(" ")]
    return _BLANKS.sub(" ", " ".join(_without_runs([one for one in chunks if one]))).strip(_SEPARATORS)


def is_digits(text: str) -> bool:
    """Tell whether a text is digits and signs."""
    return _DIGITS.fullmatch(text) is not None


def is_grouped(chunk: str) -> bool:
    """Tell whether what stands between two blanks has groups of digits as dates and telephone numbers have.

    Examples
    --------
    >>> [is_grouped(chunk) for chunk in ("12/03/24", "8-5", "078-05-1120", "2.50", "L4/5", "T2", "512x512")]
    [True, True, True, False, False, False, False]
    >>> [is_grouped(chunk) for chunk in ("12-MAR-24", "MAR24", "12/III/24", "T2_TSE_3mm")]
    [True, True, True, False]
    """
    if any(map(str.isdigit, chunk)) and not _MONTHS.isdisjoint(_LETTERS.findall(chunk.lower())):
        return True
    if _JOINED_BY_A_WORD.search(chunk):
        return True
    if not _JOINED.search(chunk):
        return False
    return not (_DECIMAL.fullmatch(chunk) or _LEVELS.fullmatch(chunk))


def _without_runs(chunks: list[str]) -> list[str]:
    """Leave out numbers that follow each other, a unit behind the second of two excepted, and numbers at a month."""
    kept: list[str] = []
    start = 0
    while start < len(chunks):
        end = start
        while end < len(chunks) and (is_digits(chunks[end]) or _is_month(chunks[end]) or _is_joint(chunks, end, start)):
            end += 1
        run = chunks[start : max(end, start + 1)]
        months, numbers = sum(map(_is_month, run)), sum(map(is_digits, run))
        is_measured = numbers == 2 and not months and end < len(chunks) and chunks[end].lower() in _UNITS
        is_harmful = numbers > 1 or (numbers and months)
        kept += [one for one in run if _is_month(one)] if is_harmful and not is_measured else run
        start += len(run)
    return kept


def _is_joint(chunks: list[str], at: int, start: int) -> bool:
    """Tell whether a word joins an ordinal number to what follows: the first of May."""
    return at > start and chunks[at].lower() == "of" and _ORDINAL.search(chunks[at - 1]) is not None


def _is_month(chunk: str) -> bool:
    return chunk.lower().strip(_SEPARATORS) in _MONTHS


def _cleaned_chunk(chunk: str, is_name: Callable[[str], bool]) -> str:
    """Clean what stands between two blanks; all of it goes if it is written in other than ASCII letters."""
    if not (chunk.isascii() and chunk.isprintable()) or is_grouped(chunk):
        return ""

    def kept(match: re.Match[str]) -> str:
        word = match[0]
        return word if is_harmless(word.strip("."), is_name) else ""

    left = _PIECES.sub(kept, chunk)
    return left if any(character.isalnum() for character in left) else ""


def is_harmless(word: str, is_name: Callable[[str], bool]) -> bool:
    """Tell whether a single word may stay in a free text."""
    lower = word.lower()
    if is_name(lower):
        return False
    return _is_known(lower) or bool(_NUMBER.fullmatch(word) or _CODE.fullmatch(word))


def _is_known(word: str) -> bool:
    """Tell whether the vocabulary has a word, or a word and a short number at its end."""
    match = _NUMBERED.fullmatch(word)
    return word in vocabulary() or (match is not None and match[1] in vocabulary())


def cleaned_term(text: str, is_name: Callable[[str], bool]) -> str:
    """Give a coded string (CS) in capitals if all its words are known or short, else nothing."""
    term = text.upper()
    found = _PIECES.findall(term)
    is_plain = len(term) <= 16 and term.isascii() and term.isprintable() and not _GREAT_AGE.search(term)
    chunks = term.split()
    if any(map(is_grouped, chunks)) or sum(map(is_digits, chunks)) > 1 or _without_runs(chunks) != chunks:
        return ""
    if not is_plain or any(is_name(word.lower()) for word in (*found, term)):
        return ""
    return term if all(_is_known(word.lower()) or _TERM_CODE.fullmatch(word) for word in found) else ""


def is_standard_meaning(text: str) -> bool:
    """Tell whether a code meaning is one of the standard's, to the letter but for blanks and signs."""
    return re.sub("[^a-z0-9]", "", text.lower()) in standard_phrases()


@cache
def _standard_codes() -> frozenset[str]:
    from pydicom.sr.codedict import codes

    schemes = [getattr(codes, name) for name in codes.schemes()]
    return frozenset(getattr(scheme, word).value for scheme in schemes for word in scheme.dir())


def is_standard_code(text: str) -> bool:
    """Tell whether a code value is one of the standard's."""
    return text in _standard_codes()
