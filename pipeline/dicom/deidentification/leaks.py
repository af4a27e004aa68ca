"""Leaks: the words that would give a patient away, and the search for them in what is about to be written."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pydicom.dataset import Dataset

from pipeline.dicom.reading import elements

NAME_KEYWORDS = (
    "PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ResponsiblePerson",
    "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "NameOfPhysiciansReadingStudy",
    "PhysiciansOfRecord", "RequestingPhysician",
)  # fmt: skip
CODE_KEYWORDS = (
    "PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "IssuerOfPatientID", "InstitutionName",
    "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "DeviceSerialNumber", "PatientTelephoneNumbers",
    "PatientAddress", "RequestedProcedureID", "PerformedProcedureStepID",
)  # fmt: skip
UID_KEYWORDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
# Shorter words ("LI", "1") stand in nearly every file by chance.
_SHORTEST = 4
_SHORTEST_NUMBER = 5
# Digits alone are frequent in coordinates; in bytes only long ones mean something.
_SHORTEST_DIGITS_IN_BYTES = 8
_SEPARATORS = re.compile(r"[\^=\\\s,;]+")


@dataclass(frozen=True)
class Tokens:
    """Words of one patient's identity, in lower case.

    Examples
    --------
    >>> tokens = Tokens(frozenset({"doe-smith", "48213390"}))
    >>> tokens.are_in("CT of Doe-Smith"), tokens.is_number("48213390"), tokens.are_in("Siemens")
    (True, True, False)
    """

    words: frozenset[str]

    def are_in(self, text: str) -> bool:
        """Tell whether a text holds one of the words, whatever the capitals."""
        folded = text.casefold()
        return any(word in folded for word in self.words)

    def is_number(self, text: str) -> bool:
        """Tell whether a text is one of the words and a whole number of some length."""
        plain = text.strip().lstrip("+")
        return plain.isdecimal() and len(plain) >= _SHORTEST_NUMBER and plain in self.words

    def are_in_bytes(self, data: bytes, *, generated: Iterable[str] = (), fixed_words: str = "") -> bool:
        """Tell whether encoded data hold one of the words, in ASCII, UTF-8, Latin-1 or UTF-16, whatever the capitals.

        Parameters
        ----------
        data
            What is about to be written, without pixels.
        generated
            Texts that the de-identification wrote itself (pseudonyms, UIDs, dates): a chance hit inside of them
            means nothing, and would depend on the key.
        fixed_words
            Lower-case text of all words that the rules may write: a patient called "Chest" is not given away by
            the body part.
        """
        folded = data.lower()
        for text in sorted(set(generated), key=len, reverse=True):
            folded = folded.replace(text.lower().encode(), b"\0")
        return any(
            form in folded
            for word in self.words
            if word not in fixed_words and not (word.isdecimal() and len(word) < _SHORTEST_DIGITS_IN_BYTES)
            for form in _encodings(word)
        )


def identity_tokens(dataset: Dataset) -> Tokens:
    """Collect the words of names, numbers and UIDs of a data set's top level that are long enough to mean something."""
    found: set[str] = set()
    for keyword in NAME_KEYWORDS:
        for value in elements.texts(dataset, keyword):
            found.update(_SEPARATORS.split(value))
    for keyword in CODE_KEYWORDS:
        found.update(elements.texts(dataset, keyword))
    words = {word.strip(" .\0").casefold() for word in found}
    uids = {elements.text(dataset, keyword) for keyword in UID_KEYWORDS}
    return Tokens(frozenset(word for word in {*words, *uids} if len(word) >= _SHORTEST))


def _encodings(word: str) -> set[bytes]:
    forms = {word.encode("utf-8", "replace"), word.encode("utf-16-le", "replace"), word.encode("utf-16-be", "replace")}
    return {*forms, word.encode("latin-1", "ignore")} - {b""}
