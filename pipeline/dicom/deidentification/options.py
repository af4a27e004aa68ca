"""Options: the words by which a study says what its de-identified files may keep, and their codes.

References
----------
DICOM PS3.15, sections E.2 and E.3 (profile and options); PS3.16, context group 7050 (their codes).
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

OptionWord = Literal[
    "retain_longitudinal_full_dates",
    "retain_longitudinal_modified_dates",
    "retain_patient_characteristics",
    "retain_device_identity",
    "retain_institution_identity",
    "retain_uids",
    "retain_safe_private",
    "clean_descriptors",
    "clean_structured_content",
    "clean_graphics",
    "clean_pixel_data",
]
OPTIONS: tuple[OptionWord, ...] = get_args(OptionWord)
DEFAULT_OPTIONS: tuple[OptionWord, ...] = ("retain_longitudinal_modified_dates", "retain_patient_characteristics")
CLEAN_PIXELS = "clean_pixel_data"
FULL_DATES = "retain_longitudinal_full_dates"
MODIFIED_DATES = "retain_longitudinal_modified_dates"


class Code(NamedTuple):
    """A coded concept of the scheme DCM."""

    value: str
    meaning: str


BASIC_PROFILE = Code("113100", "Basic Application Confidentiality Profile")
CODES = {
    "clean_pixel_data": Code("113101", "Clean Pixel Data Option"),
    "clean_graphics": Code("113103", "Clean Graphics Option"),
    "clean_structured_content": Code("113104", "Clean Structured Content Option"),
    "clean_descriptors": Code("113105", "Clean Descriptors Option"),
    "retain_longitudinal_full_dates": Code(
        "113106", "Retain Longitudinal Temporal Information Full Dates Option"
    ),
    "retain_longitudinal_modified_dates": Code(
        "113107", "Retain Longitudinal Temporal Information Modified Dates Option"
    ),
    "retain_patient_characteristics": Code("113108", "Retain Patient Characteristics Option"),
    "retain_device_identity": Code("113109", "Retain Device Identity Option"),
    "retain_uids": Code("113110", "Retain UIDs Option"),
    "retain_safe_private": Code("113111", "Retain Safe Private Option"),
    "retain_institution_identity": Code("113112", "Retain Institution Identity Option"),
}  # fmt: skip
WORDS = {
    "retain_longitudinal_full_dates": "dates and times stay as they are",
    "retain_longitudinal_modified_dates": "dates move back by the patient's own secret number of days; times stay",
    "retain_patient_characteristics": "sex, size, weight and the like stay, and the age up to 89 years",
    "retain_device_identity": "serial numbers, station names and the like stay",
    "retain_institution_identity": "names and addresses of the institution stay",
    "retain_uids": "UIDs stay as they are",
    "retain_safe_private": "private elements stay that PS3.15 table E.3.10-1 lists as safe",
    "clean_descriptors": "descriptions stay, of which only words of a fixed vocabulary",
    "clean_structured_content": "the content of reports stays item by item, by PS3.15 table E.3.4-1",
    "clean_graphics": "annotations and region-of-interest overlays stay, of whose texts only words of the vocabulary",
    "clean_pixel_data": "pixels that may show text are cleaned by rule instead of the image being kept out",
}


def contradiction(options: Iterable[str], *, has_pixel_rules: bool = True) -> str:
    """Say why options cannot be had together, or give an empty text.

    Examples
    --------
    >>> contradiction(["retain_uids"])
    ''
    >>> contradiction(["retain_longitudinal_full_dates", "retain_longitudinal_modified_dates"])
    'dates cannot both stay (retain_longitudinal_full_dates) and move (retain_longitudinal_modified_dates)'
    """
    chosen = list(options)
    unknown = [word for word in chosen if word not in OPTIONS]
    if unknown:
        return f"unknown options: {', '.join(unknown)}"
    if len(set(chosen)) != len(chosen):
        return "an option stands twice"
    if FULL_DATES in chosen and MODIFIED_DATES in chosen:
        return f"dates cannot both stay ({FULL_DATES}) and move ({MODIFIED_DATES})"
    if CLEAN_PIXELS in chosen and not has_pixel_rules:
        return f"{CLEAN_PIXELS} needs rules (pixel_rules): without one nothing is cleaned"
    return ""


def method_codes(options: Iterable[str]) -> tuple[Code, ...]:
    """Give the codes of the basic profile and of the options used, in order of their values.

    That of Clean Pixel Data is not among them: it is for files whose pixels were cleaned by a rule that vouches for
    what is left (see `burned_in.declare`).
    """
    return (BASIC_PROFILE, *sorted(CODES[word] for word in set(options) - {CLEAN_PIXELS}))


def temporal_information(options: Iterable[str]) -> str:
    """Give the value of (0028,0303), Longitudinal Temporal Information Modified."""
    chosen = set(options)
    if FULL_DATES in chosen:
        return "UNMODIFIED"
    return "MODIFIED" if MODIFIED_DATES in chosen else "REMOVED"
