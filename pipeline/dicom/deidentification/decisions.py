"""Decisions: what happens to an attribute, from table, options, kind of object and value representation.

The table names attributes that may identify. What it does not name may stay by the standard; here it stays only in
the form in which its representation can hold no name: numbers as numbers, terms as terms, texts as far as a fixed
vocabulary knows them, UIDs and dates as the options say. Private and unknown attributes go.
"""

from functools import lru_cache
from typing import NamedTuple

from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, keyword_for_tag, tag_for_keyword

from pipeline.dicom.deidentification.options import FULL_DATES, MODIFIED_DATES
from pipeline.dicom.deidentification.profile import Row, defined_terms, resolved, row_of

PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
LAST_GROUP = 0x7FE0
# What is done, in words; the receipt counts by them.
ACTIONS = {
    "number": "kept if it is a number, no day of a calendar and not the patient's, else removed",
    "vital": "kept if it is a number and not the patient's, else the whole instance is kept out",
    "binary": "kept if it is as long as its numbers, no text and without a word of the patient's in it, else removed",
    "terms": "kept if it is one of the listed terms, else emptied",
    "term": "kept if its words are in the vocabulary or codes of up to three letters and digits, else emptied",
    "technique": "kept if it looks like a name of a pulse sequence, else only its words of the vocabulary",
    "device": "kept as far as makers are known, models of up to four words; removed with a word of the patient's in it",
    "words": "kept as far as the vocabulary knows its words",
    "code": "kept if its coding scheme is a public one and it looks like a code, else only its words of the vocabulary",
    "meaning": "kept if it is a meaning of the standard's, else only its words of the vocabulary",
    "retained": "kept, as the option asks, unless the patient's name or number stands in it",
    "character_set": "kept: it says how texts are written",
    "class": "kept: a UID of the standard; any other is removed",
    "known_uid": "kept if it is a UID of the standard, else replaced by a keyed UID",
    "uid": "replaced by a keyed UID",
    "retained_uid": "kept if it is a UID",
    "date": "moved back by the patient's own secret number of days; times stay",
    "full_date": "kept if it is a date or a time",
    "time_zone": "kept if it is an offset in hours and minutes, else emptied",
    "pseudonym": "replaced by the patient's pseudonym",
    "age": "kept; above 89 years stated as 90",
    "sequence": "kept; the elements of its items are treated by the same rules",
    "references": "kept, with keyed UIDs",
    "content": "kept item by item, as table E.3.4-1 says for the item's concept",
    "dummy_sequence": "kept, with a dummy for every text, date of an item and measured value in it",
    "dummy": "replaced by a dummy",
    "empty": "emptied",
    "remove": "removed",
    "safe_private": "kept if table E.3.10-1 lists it as safe, else removed",
    "overlay": "kept if it marks a region of interest (its texts as far as the vocabulary knows them), else removed",
}
_VITAL = frozenset(
    tag
    for keyword in (
        "ImagerPixelSpacing", "NominalScannedPixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
        "PixelSpacing", "PixelAspectRatio", "EstimatedRadiographicMagnificationFactor", "SamplesPerPixel",
        "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
        "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope",
        "LUTDescriptor", "LUTData", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
        "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
        "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData", "ModalityLUTSequence",
    )
    if (tag := tag_for_keyword(keyword)) is not None
)  # fmt: skip
_BY_KEYWORD = {
    "SpecificCharacterSet": "character_set",
    "SOPClassUID": "class",
    "ReferencedSOPClassUID": "class",
    "Manufacturer": "device",
    "ManufacturerModelName": "device",
    "SequenceName": "technique",
    "PulseSequenceName": "technique",
    "CodeValue": "code",
    "LongCodeValue": "code",
    "CodingSchemeDesignator": "code",
    "CodingSchemeVersion": "code",
    "MappingResource": "code",
    "ContextIdentifier": "code",
    "CodeMeaning": "meaning",
}
# Written anew in every data set.
_OURS = frozenset(
    {
        "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
        "LongitudinalTemporalInformationModified",
    }
)  # fmt: skip
_LOST_MEANING = frozenset(
    {"LengthToEnd", "DataSetTrailingPadding", "DigitalSignaturesSequence", "MACParametersSequence"}
)
_BY_REPRESENTATION = {
    **dict.fromkeys(("DS", "IS"), "number"),
    **dict.fromkeys(["US", "SS", "UL", "SL", "SV", "UV", "FL", "FD", "AT"], "binary"),
    **dict.fromkeys(["OB", "OD", "OF", "OL", "OV", "OW"], "remove"),  # bytes may be anything, but see `_ARRAYS`
    **dict.fromkeys(("LO", "SH", "LT", "ST", "UC", "UT"), "words"),
    "CS": "term",
    "UI": "known_uid",
    "SQ": "sequence",
    "PN": "empty",  # a name nobody listed
    "AS": "age",
}
# What is known to be an array of numbers. Profiles of colours, keys and documents are no such thing.
_ARRAYS = frozenset(
    {
        "AlphaPaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
        "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
        "SegmentedAlphaPaletteColorLookupTableData", "BlendingLookupTableData", "ExtendedOffsetTable",
        "ExtendedOffsetTableLengths", "TwoDimensionalToThreeDimensionalMapData", "VerticesOfThePolygonalOutline",
        "VectorGridData", "PointCoordinatesData", "DoublePointCoordinatesData", "VectorCoordinateData",
        "TrianglePointIndexList", "EdgePointIndexList", "VertexPointIndexList", "PrimitivePointIndexList",
        "LongTrianglePointIndexList", "LongEdgePointIndexList", "LongVertexPointIndexList",
        "LongPrimitivePointIndexList", "TrackPointIndexList", "AnnotationIndexList", "FloatingPointValues",
        "RecommendedDisplayCIELabValueList", "UValueData", "VValueData", "WaveformData", "WaveformPaddingValue",
        "ChannelMinimumValue", "ChannelMaximumValue", "FirstOrderPhaseCorrectionAngle", "SpectroscopyData",
        "CompensatorProximalThicknessMap", "CompensatorDistalThicknessMap", "BlockEdgeData",
        "VolumetricCurvePoints", "VolumetricCurveUpDirections",
    }
)  # fmt: skip
_WORD_BYTES = {
    **dict.fromkeys(("US", "SS", "US or SS"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "AT"), 4),
    **dict.fromkeys(("UV", "SV", "FD"), 8),
}
_DATES = frozenset({"DA", "DT", "TM"})
_NOTHING_TO_CLEAN = frozenset({"PN", "AE", "UR"})  # names through and through
_NAMING = frozenset({"retain_device_identity", "retain_institution_identity"})
_TEXTS = frozenset({"LO", "SH", "LT", "ST", "UC", "UT", "PN", "AE", "UR"})
_ALIKE = {"term": "empty", **dict.fromkeys(("words", "code", "meaning", "technique", "device", "age"), "dummy")}
# What a content item says (PS3.3, C.17.3 and C.18.1): without its texts and concepts nobody knows what it is about,
# and it may be a birth date or an age. Measured values may be absent (type 2), dates may not.
_SAID = {
    **dict.fromkeys(("Date", "Time", "DateTime", "ReferencedDateTime", "NumericValue"), "dummy"),
    **dict.fromkeys(("FloatingPointValue", "RationalNumeratorValue", "RationalDenominatorValue"), "remove"),
    "MeasuredValueSequence": "empty",
    "GraphicLayer": "term",  # by the same name the layer is listed at the top
}


class Decision(NamedTuple):
    """What happens to one attribute."""

    action: str  # of `ACTIONS`
    representation: str  # the standard's, as pydicom's dictionary names it ("US or SS" where it is open)
    keyword: str = ""
    terms: frozenset[str] = frozenset()
    word_bytes: int = 1  # of one number in binary form
    most_bytes: int = 0  # of all that the standard lets an attribute have; 0 if it sets no bound


class Place(NamedTuple):
    """Where in an object an attribute stands."""

    options: frozenset[str]
    sop_class: str
    parent: str = ""  # keyword of the sequence around it
    is_dummy: bool = False  # whether every text is to be replaced

    def within(self, parent: str, *, is_dummy: bool) -> "Place":
        """Give the place of the elements of a sequence."""
        return Place(self.options, self.sop_class, parent, self.is_dummy or is_dummy)


@lru_cache(maxsize=100_000)
def decision(tag: int, place: Place) -> Decision:
    """Decide about an attribute.

    Parameters
    ----------
    tag
        The attribute; group lengths and pixel data are removed here, because others write them.
    place
        Options, kind of object, and the sequence around the attribute.
    """
    group = tag >> 16
    if group % 2:
        return Decision("safe_private" if "retain_safe_private" in place.options else "remove", "UN")
    if group & 0xFF00 == 0x6000:
        return Decision("overlay" if "clean_graphics" in place.options else "remove", "UN")
    if group < 0x0008 or group > LAST_GROUP or tag & 0xFFFF == 0 or tag in PIXELS or not dictionary_has_tag(tag):
        return Decision("remove", "UN")
    representation = dictionary_VR(tag)
    keyword = keyword_for_tag(tag)
    action = _action(tag, keyword, representation, place)
    if place.is_dummy:
        action = "remove" if action == "remove" else _SAID.get(keyword, _ALIKE.get(action, action))
    return Decision(action, representation, keyword, defined_terms().get(keyword, frozenset()), *_room(tag))


def _room(tag: int) -> tuple[int, int]:
    """Give the length of one number in binary form and of all of them, by value multiplicity (PS3.5, section 6.4)."""
    word = _WORD_BYTES.get(dictionary_VR(tag), 0)
    most = dictionary_VM(tag).rpartition("-")[2]
    return (word, word * int(most) if most.isdecimal() else 0) if word else (1, 0)


def _action(tag: int, keyword: str, representation: str, place: Place) -> str:
    if keyword in _OURS or keyword in _LOST_MEANING:
        return "remove"
    if keyword in {"PatientID", "PatientName"} and not place.parent:
        return "pseudonym"
    row = row_of(tag)
    if row is None:
        return _unlisted(tag, keyword, representation, place.options)
    code = resolved(row.action(place.options), place.sop_class, place.parent, tag)
    is_dated = {FULL_DATES, MODIFIED_DATES} & row.options.keys() & place.options
    if code in {"K", "C"} and keyword == "TimezoneOffsetFromUTC":
        return "time_zone"
    if code in {"K", "C"} and representation in _DATES:
        return _date(place.options) or _plain(resolved(row.basic, place.sop_class, place.parent, tag), representation)
    if code == "C" and (is_dated or representation in _NOTHING_TO_CLEAN):
        return _plain(resolved(row.basic, place.sop_class, place.parent, tag), representation)
    if code == "C":
        return _clean(keyword, representation)
    if code == "K":
        return _retain(tag, keyword, representation, row, place.options)
    return _plain(code, representation)


def _retain(tag: int, keyword: str, representation: str, row: Row, options: frozenset[str]) -> str:
    """Keep, as an option asks: names of devices and institutions as they are, all else as if it were not listed."""
    if representation == "UI":
        return "retained_uid"
    is_name = any(row.options.get(word) == "K" for word in _NAMING & options)
    return "retained" if is_name and representation in _TEXTS else _unlisted(tag, keyword, representation, options)


def _plain(code: str, representation: str) -> str:
    if code == "U":
        return "references" if representation == "SQ" else "uid"
    if code == "D":
        if representation == "UI":
            return "uid"
        return "dummy_sequence" if representation == "SQ" else "dummy"
    return {"X": "remove", "Z": "empty"}[code]


def _clean(keyword: str, representation: str) -> str:
    if representation == "SQ":
        return "content" if keyword in {"ContentSequence", "AcquisitionContextSequence"} else "sequence"
    return _BY_REPRESENTATION.get(representation, "binary" if representation == "US or SS" else "remove")


def _unlisted(tag: int, keyword: str, representation: str, options: frozenset[str]) -> str:
    """Decide about an attribute that may stay by the standard."""
    if tag in _VITAL and representation != "SQ":
        return "vital"
    if keyword in defined_terms():
        return "terms"
    if keyword in _BY_KEYWORD:
        return _BY_KEYWORD[keyword]
    if representation in _DATES:
        return _date(options) or "remove"
    if representation == "UI":
        return "retained_uid" if "retain_uids" in options else "known_uid"
    if keyword in _ARRAYS or representation == "US or SS":
        return "binary"
    return _BY_REPRESENTATION.get(representation, "remove")  # AE, UR, UN


def _date(options: frozenset[str]) -> str:
    if FULL_DATES in options:
        return "full_date"
    return "date" if MODIFIED_DATES in options else ""
