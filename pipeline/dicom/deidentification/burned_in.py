"""Burned-in text: an image passes if nothing says that its pixels identify somebody, or if a rule covers it.

References
----------
DICOM PS3.15, section E.3.1 (Clean Pixel Data Option); PS3.3, section C.8.5.5 (US Region Calibration Module).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from pipeline.dicom.decoding.pixel_format import PIXEL_FORMAT_KEYWORDS
from pipeline.dicom.deidentification.blanking import Mask, blanked, hidden_pictures, mask_of, pictures, rectangles_of
from pipeline.dicom.deidentification.hazards import HAZARD_TAGS, hazard, is_beyond_rules
from pipeline.dicom.deidentification.pixel_rules import PixelRule, Rectangle
from pipeline.dicom.deidentification.splitting import Single
from pipeline.dicom.deidentification.text_detection import text_lines
from pipeline.dicom.reading import elements
from pipeline.dicom.reading.files import FileFault
from pipeline.dicom.slices.frames import set_element

SUSPECTED = "BURNED_IN_TEXT_SUSPECTED"
REFUSALS = frozenset({"BURNED_IN_ANNOTATION", "PIXELS_MAY_IDENTIFY", SUSPECTED, "UNDECODABLE_PIXELS"})
NEEDS_DECODER = "NEEDS_DECODER"  # no reason of any report: such a file is tried again where a decoder may fail
# Fewer in all are no text: side markers, and now and then a row of vessels.
FEWEST_CHARACTERS = 4
_EVERY_SLICE = 8  # of a volume: what a scanner writes into slices it writes into all
CLEANED_CODE = ("113101", "Clean Pixel Data Option")  # PS3.16, context group 7050
FIXED_WORDS = "\n".join(CLEANED_CODE).casefold()  # that `declare` may write
_REGIONS = "SequenceOfUltrasoundRegions"
_CORNERS = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")
# Two-dimensional, M-mode, spectral, wave form (PS3.3, C.8.5.5.1.1). Graphics and "none" may well be text.
_IMAGE_FORMATS = frozenset({1, 2, 3, 4})
_MOST_REGIONS = 100
_KEYWORDS = (
    *PIXEL_FORMAT_KEYWORDS, _REGIONS, "Manufacturer", "ManufacturerModelName", "RescaleSlope",
    "LossyImageCompression", "LossyImageCompressionMethod", "ConversionType",
)  # fmt: skip
SCREENING_TAGS = (
    *HAZARD_TAGS,
    *(tag for keyword in _KEYWORDS if (tag := tag_for_keyword(keyword)) is not None),
)


# How a picture was captured (PS3.3, C.8.6.1).
_CONVERSIONS = frozenset({"DV", "DI", "DF", "WSD", "SD", "SI", "DRW", "SYN"})


@dataclass(frozen=True)
class Screen:
    """What is let through.

    Attributes
    ----------
    rules
        No two for the same images.
    suspected_text
        What becomes of an image without a rule in which the detector sees much text.
    tolerated_characters
        How many are not much.
    """

    rules: tuple[PixelRule, ...] = ()
    suspected_text: Literal["note", "quarantine"] = "quarantine"
    tolerated_characters: int = 8


@dataclass(frozen=True)
class Screened:
    """An image that may leave: as it was, or cleaned.

    Attributes
    ----------
    single
        The image.
    rule
        By which it was cleaned; None if it was not.
    rectangles
        What was blanked; they do not overlap.
    characters
        About how many the detector sees in it as it is now; 0 if they are too few to be a text.
    """

    single: Single
    rule: PixelRule | None = None
    rectangles: tuple[Rectangle, ...] = ()
    characters: int = 0

    @property
    def rule_name(self) -> str:
        """Name of the rule; empty if there is none."""
        return self.rule.name if self.rule else ""


def screened(single: Single, screen: Screen, *, may_decode: bool = True) -> Screened:
    """Let an image through, clean it by the rule that covers it, or refuse it.

    Parameters
    ----------
    single, screen
        The image, and what is let through.
    may_decode
        Whether its pixels may be decoded here.

    Raises
    ------
    FileFault
        With one of `REFUSALS`; with `NEEDS_DECODER` if the pixels would have to be decoded and may not.
    """
    code = hazard(single.header)
    rule = covering_rule(single.header, screen.rules)
    if rule is None:
        if code:
            raise FileFault(code)
        return _without_much_text(single, screen, may_decode)
    if is_beyond_rules(single.header) or (code == "BURNED_IN_ANNOTATION" and not rule.vouches):
        raise FileFault(code)
    mask = pixels_to_blank(single.header, rule)
    if mask is None:
        raise FileFault(code or "PIXELS_MAY_IDENTIFY")
    _require_decoder(may_decode)
    cleaned = blanked(single, mask)
    return Screened(cleaned, rule, rectangles_of(mask), suspected_characters(cleaned))


def is_looked_at(slice_number: int | None) -> bool:
    """Tell whether the pixels of an image are looked at: all but most slices, None being no slice."""
    return slice_number is None or slice_number % _EVERY_SLICE == 1


def needed_looks(numbers: Sequence[int | None]) -> list[int]:
    """Choose slices of a volume that are to be looked at although their numbers do not say so.

    Numbers need not hold one by which a slice is looked at: those of one echo of two, a single key slice, a stack that
    was cut out of a longer one.

    Parameters
    ----------
    numbers
        Of all slices of the volume that are there; None for a slice without one.

    Returns
    -------
    list
        Places in `numbers`: of every eighth slice in the order of the numbers, from the first one; none if one of the
        slices is looked at by its number.
    """
    known = [number for number in numbers if number is not None and not is_looked_at(number)]
    if len(known) < len(numbers):
        return []
    return sorted(range(len(known)), key=known.__getitem__)[::_EVERY_SLICE]


def suspected_characters(single: Single) -> int:
    """Count the characters that the detector sees in an image, in the frame with the most; 0 if there are few.

    Bits that store no value are pictures of their own: an overlay stays there when its description has gone.
    """
    step = _EVERY_SLICE if single.frames_are_slices else 1
    frames = chain(pictures(single)[::step], hidden_pictures(single, step))
    most = max(sum(line.characters for line in text_lines(picture)) for picture in frames)
    return most if most >= FEWEST_CHARACTERS else 0


def _without_much_text(single: Single, screen: Screen, may_decode: bool) -> Screened:
    """Refuse an image without a rule if it seems to bear a text longer than markers are."""
    if not is_looked_at(single.slice_number):
        return Screened(single)
    _require_decoder(may_decode)
    characters = suspected_characters(single)
    if screen.suspected_text == "quarantine" and characters > screen.tolerated_characters:
        raise FileFault(SUSPECTED)
    return Screened(single, characters=characters)


def _require_decoder(may_decode: bool) -> None:
    if not may_decode:
        raise FileFault(NEEDS_DECODER)


def declare(result: Dataset, screened_image: Screened) -> None:
    """Say in a de-identified data set what was done to its pixels, and what the rule says that the profile does not.

    The code of the Clean Pixel Data Option promises that nothing identifying is left: it stands there only if the
    rule vouches for that.
    """
    rule = screened_image.rule
    if rule is None:
        return
    set_element(result, "Modality", rule.modality)
    conversion = elements.text(screened_image.single.header, "ConversionType")
    if conversion in _CONVERSIONS:
        set_element(result, "ConversionType", conversion)
    if rule.vouches:
        set_element(result, "BurnedInAnnotation", "NO")
        item = Dataset()
        item.CodeValue, item.CodeMeaning = CLEANED_CODE
        item.CodingSchemeDesignator = "DCM"
        # An element of its own: the one that is there is shared by all files.
        codes = Items([*result.DeidentificationMethodCodeSequence, item])
        set_element(result, "DeidentificationMethodCodeSequence", codes)


def covering_rule(header: Dataset, rules: Iterable[PixelRule]) -> PixelRule | None:
    """Find the rule for an image: everything that a rule names must be as it says, to the letter."""
    words = ("Modality", "Manufacturer", "ManufacturerModelName")
    if any(elements.is_unreadable(header, keyword) for keyword in words):
        return None
    size = elements.integer(header, "Rows"), elements.integer(header, "Columns")
    photometric = elements.text(header, "PhotometricInterpretation")
    subject = (*(elements.text(header, keyword) for keyword in words), *size, photometric)
    return next((rule for rule in rules if rule.subject == subject), None)


def pixels_to_blank(header: Dataset, rule: PixelRule) -> Mask | None:
    """Mark what a rule blanks of an image.

    Returns
    -------
    Mask | None
        Shape (rows, columns), true where pixels are blanked; None if the rule cannot be kept to: the image declares
        no regions, or some that are none, or nothing would be blanked, or everything.
    """
    mask = mask_of(rule.blank, rule.rows, rule.columns)
    if rule.keep == "regions":
        regions = image_regions(header, rule.rows, rule.columns)
        if not regions:
            return None
        mask |= ~mask_of(regions, rule.rows, rule.columns)
    return mask if mask.any() and not mask.all() else None


def image_regions(header: Dataset, rows: int, columns: int) -> tuple[Rectangle, ...]:
    """Read the regions of an ultrasound image that hold an image; none if one of them is not to be trusted.

    A region that reaches beyond the image, or whose corners are missing or crossed, is a sign that the matrix was
    changed after the regions had been declared: then all of them may be wrong.
    """
    if _REGIONS not in header or elements.is_unreadable(header, _REGIONS):
        return ()
    items = header[_REGIONS].value
    if not items or len(items) > _MOST_REGIONS:
        return ()
    found = []
    for item in items:
        left, top, right, bottom = (elements.integer(item, keyword) for keyword in _CORNERS)
        if left is None or top is None or right is None or bottom is None:
            return ()
        if not (0 <= left <= right < columns and 0 <= top <= bottom < rows):
            return ()
        if elements.integer(item, "RegionSpatialFormat") in _IMAGE_FORMATS:
            found.append(Rectangle(top=top, left=left, rows=bottom - top + 1, columns=right - left + 1))
    return tuple(found)
