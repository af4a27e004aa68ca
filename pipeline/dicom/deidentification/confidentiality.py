"""De-identification of a data set by the Basic Application Level Confidentiality Profile and its options.

What the standard's table names is treated as it says (`profile`); what it does not name stays in forms that can hold
no name only (`decisions`, `values`); private, unknown and trailing elements go. A result is built anew: what no rule
lets through is not copied.

References
----------
DICOM PS3.15, annex E (Attribute Confidentiality Profiles).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple, cast

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from pipeline.dicom.deidentification.decisions import Decision, Place, decision
from pipeline.dicom.deidentification.leaks import Tokens
from pipeline.dicom.deidentification.options import DEFAULT_OPTIONS, method_codes, temporal_information
from pipeline.dicom.deidentification.profile import EDITION, safe_private
from pipeline.dicom.deidentification.raw import copied, has_text_value, raw_element, text_of, values_of
from pipeline.dicom.deidentification.structured import kept_content
from pipeline.dicom.deidentification.values import OLDEST_SHOWN_YEARS, PUBLIC_SCHEMES, Identity, Values
from pipeline.dicom.reading import elements
from pipeline.dicom.reading.files import FileFault
from pipeline.dicom.slices.headers import age_years

METHOD = f"imaging-transfer: PS3.15 {EDITION}, keyed UIDs, words by vocabulary"
DEEPEST_SEQUENCE = 32
PRIVATE_TAG = -1  # stands for all private attributes in counts: their names are no standard's
_MOST_KNOWN = 20_000  # treated values of one patient that are remembered
_LONGEST_KNOWN_BYTES = 4096
_LAST_ELEMENT_OF_CREATORS = 0xFF
_SEQUENCES = frozenset({"sequence", "references", "content", "dummy_sequence"})
_CODES = frozenset({"code", "meaning"})
_GRAPHICS = frozenset({"GraphicObjectSequence", "CompoundGraphicSequence"})  # drawings may be handwriting
_OVERLAY_TYPE, _OVERLAY_COMMENTS, _OVERLAY_TEXTS = 0x0040, 0x4000, frozenset({0x0022, 0x1500})
_PATIENT_AGE = 0x00101010
_BIRTH_DATE = 0x00100030
_STUDY_DATE = 0x00080020
_SOP_CLASS = 0x00080016
_METHOD_CODES = Tag(0x00120064)
_SCHEME = 0x00080102


Element = DataElement | RawDataElement


class Treated(NamedTuple):
    """What became of one element."""

    element: Element | None
    counts: tuple[tuple[int, str], ...]  # tag and outcome, of the element and of all within it
    made: frozenset[str]  # pseudonyms, UIDs and dates written


@dataclass
class Outcome:
    """A de-identified data set, and what was done to make it.

    Attributes
    ----------
    dataset
        The new data set, without pixel data.
    counts
        How many elements of a tag ended how, nested ones included.
    made
        Pseudonyms, UIDs and dates that were written.
    """

    dataset: Dataset = field(default_factory=Dataset)
    counts: Counter[tuple[int, str]] = field(default_factory=Counter)
    made: set[str] = field(default_factory=set)


def deidentified(source: Dataset, identity: Identity, options: Iterable[str] = DEFAULT_OPTIONS) -> Dataset:
    """Build a new data set from what the rules let through; `source` is not changed. See `deidentify_dataset`."""
    return deidentify_dataset(source, identity, frozenset(options)).dataset


def deidentify_dataset(
    source: Dataset, identity: Identity, options: frozenset[str], *, is_little_endian: bool = True
) -> Outcome:
    """Build a new data set from what the rules let through; `source` is not changed.

    Pixel data are not handled here: they are copied as bytes (see `rewriting`).

    Parameters
    ----------
    source
        The data set as read.
    identity
        The patient and the key.
    options
        Words of `options.OPTIONS`.
    is_little_endian
        How the result will be encoded.

    Raises
    ------
    FileFault
        ``DEIDENTIFICATION_FAILED`` if something without which the pixels would mean something else cannot be kept.
    """
    walk = walk_of(identity, is_little_endian)
    outcome = Outcome()
    place = Place(options, text_of(source, _SOP_CLASS))
    kept = walk.walk(source, place, outcome, 0)
    kept |= required(source, walk.values.pseudonym, options)
    outcome.dataset = Dataset(kept)
    outcome.made.add(walk.values.pseudonym)
    return outcome


def walk_of(identity: Identity, is_little_endian: bool) -> "Walk":
    """Give the walk for a patient: files of one patient have most values in common."""
    # UIDs differ from file to file; everything else that is remembered is the patient's.
    words = Tokens(identity.tokens.words, identity.tokens.short_words)
    return _known_walk(replace(identity, tokens=words), is_little_endian)


@lru_cache(maxsize=4)
def _known_walk(identity: Identity, is_little_endian: bool) -> "Walk":
    values = Values(identity, identity.shift, identity.pseudonyms.patient(identity.patient_id))
    return Walk(values, is_little_endian)


@dataclass
class Walk:
    """Walks over data sets of one patient."""

    values: Values
    is_little_endian: bool
    known: dict[tuple[object, ...], Treated] = field(default_factory=dict)

    def element(self, element: RawDataElement, place: Place, source: Dataset) -> Treated | None:
        """Treat an element of the top level by itself; None if what becomes of it depends on others beside it."""
        found = decision(int(element.tag), place)
        if found.action in _CODES or found.action in {"safe_private", "overlay"}:
            return None
        if found.action in _SEQUENCES:  # their items are read by pydicom, which knows the character set
            whole = copied(source)
            whole[element.tag] = element
            return self._sequence(element.tag, whole, found, place, 0)
        return self._treated_anew(element.tag, element, found, place, source, 0)

    def walk(self, source: Dataset, place: Place, outcome: Outcome, depth: int) -> dict[BaseTag, Element]:
        """Treat the elements of a data set or of an item."""
        if depth > DEEPEST_SEQUENCE:
            raise FileFault("DEIDENTIFICATION_FAILED")
        kept: dict[BaseTag, Element] = {}
        overlays: list[tuple[BaseTag, Element]] = []
        privates: list[BaseTag] = []
        for tag, element in list(source.items()):
            found = _decided(int(tag), place, source)
            if found.action == "safe_private":
                privates.append(tag)
                continue
            if found.action == "overlay":
                overlays.append((tag, element))
                continue
            treated = self._treated(tag, element, found, place, source, depth)
            for one in treated.counts:
                outcome.counts[one] += 1
            if treated.made:
                outcome.made |= treated.made
            if treated.element is not None:
                kept[tag] = treated.element
        self._keep_overlays(overlays, place, source, kept, outcome)
        self._keep_private(source, privates, place, kept, outcome, depth)
        return kept

    def _treated(
        self,
        tag: BaseTag,
        element: Element,
        found: Decision,
        place: Place,
        source: Dataset,
        depth: int,
    ) -> Treated:
        """Treat one element, or remember how an equal one was treated."""
        value = element.value if found.action != "remove" else None
        key = None
        if isinstance(element, RawDataElement) and type(value) is bytes and len(value) <= _LONGEST_KNOWN_BYTES:
            key = (int(tag), element.VR, value, place, found.action, element.is_implicit_VR)
            if (known := self.known.get(key)) is not None:
                return known
        treated = self._treated_anew(tag, element, found, place, source, depth)
        if key is not None:
            if len(self.known) > _MOST_KNOWN:
                self.known.clear()
            self.known[key] = treated
        return treated

    def _treated_anew(
        self, tag: BaseTag, element: Element, found: Decision, place: Place, source: Dataset, depth: int
    ) -> Treated:
        if found.action == "remove":
            counted = PRIVATE_TAG if tag.is_private else int(tag)
            return Treated(None, ((counted, "removed"),) if tag.element else (), frozenset())
        if found.action in _SEQUENCES:
            return self._sequence(tag, source, found, place, depth)
        return self._value(tag, element, found, source)

    def _sequence(self, tag: BaseTag, source: Dataset, found: Decision, place: Place, depth: int) -> Treated:
        try:
            items = source[tag].value
        except Exception:  # noqa: BLE001  conversion of a damaged value makes pydicom raise nearly anything
            items = None
        if not isinstance(items, Sequence):
            if found.keyword == "ModalityLUTSequence":
                raise FileFault("DEIDENTIFICATION_FAILED")  # without it the pixels would mean something else
            return Treated(None, ((int(tag), "removed"),), frozenset())
        inner = place.within(found.keyword, is_dummy=found.action == "dummy_sequence")
        within = Outcome()
        kept = Sequence()
        for item in items:
            chosen = kept_content(item, place) if found.action == "content" else item
            if chosen is None:
                within.counts[int(tag), "content item removed"] += 1
                continue
            whole = self.walk(chosen, inner, within, depth + 1)
            if inner.is_dummy:
                whole = {key: one for key, one in whole.items() if decision(key, inner).keyword not in _GRAPHICS}
            kept.append(Dataset(whole))
        within.counts[int(tag), "kept"] += 1
        counts = tuple((key, word) for (key, word), number in within.counts.items() for _ in range(number))
        return Treated(DataElement(tag, "SQ", kept), counts, frozenset(within.made))

    def _value(self, tag: BaseTag, element: Element, found: Decision, source: Dataset) -> Treated:
        if found.action == "empty" and isinstance(element.value, Sequence):  # pydicom has read its items
            count = (int(tag), "emptied" if element.value else "kept")
            return Treated(raw_text(tag, "SQ", ""), (count,), frozenset())
        raw = raw_element(tag, element, found.representation, source, is_little_endian=self.is_little_endian)
        if raw is None:  # the value is of another kind than the standard says, or cannot be read
            if found.action == "vital":
                raise FileFault("DEIDENTIFICATION_FAILED")
            return Treated(None, ((int(tag), "removed"),), frozenset())
        self.values.made = set()
        before = raw.value or b""
        after = self.values.treat(before, found)
        counts = ((int(tag), _outcome(found.action, before, after)),)
        if after is None:
            return Treated(None, counts, frozenset())
        kept = raw if after is before else raw._replace(value=after, length=len(after))
        return Treated(kept, counts, frozenset(self.values.made - {""}))

    def _keep_overlays(
        self,
        found: list[tuple[BaseTag, Element]],
        place: Place,
        source: Dataset,
        kept: dict[BaseTag, Element],
        outcome: Outcome,
    ) -> None:
        """Keep overlays that mark a region of interest; drawings and letters are of the other type, G."""
        regions = {
            tag.group for tag, _ in found if tag.element == _OVERLAY_TYPE and elements.text(source, int(tag)) == "R"
        }
        for tag, element in found:
            action = "words" if tag.element in _OVERLAY_TEXTS else "binary"
            if tag.group not in regions or tag.element in {0, _OVERLAY_COMMENTS}:
                outcome.counts[int(tag), "removed"] += 1
                continue
            representation = element.VR or _overlay_representation(tag)
            if has_text_value(representation) and action == "binary":
                action = "term" if representation == "CS" else "number" if representation in {"IS", "DS"} else "words"
            treated = self._treated(tag, element, Decision(action, representation), place, source, 0)
            outcome.counts.update(treated.counts)
            if treated.element is not None:
                kept[tag] = treated.element

    def _keep_private(
        self,
        source: Dataset,
        tags: Iterable[BaseTag],
        place: Place,
        kept: dict[BaseTag, Element],
        outcome: Outcome,
        depth: int,
    ) -> None:
        """Keep private elements that are listed as safe, together with the creators of their blocks."""
        safe = safe_private()
        for tag in tags:
            if tag.element <= _LAST_ELEMENT_OF_CREATORS:
                continue  # written with the first element kept of its block
            owner = Tag(tag.group, tag.element >> 8)
            creator = text_of(source, int(owner))
            representation = safe.get((tag.group, tag.element & 0xFF, creator), "")
            action = _safe_action(representation)
            treated = Treated(None, ((PRIVATE_TAG, "removed"),), frozenset())
            if action:
                found = Decision(action, representation)
                treated = self._treated(tag, source.get_item(tag), found, place, source, depth)
            if treated.element is not None:
                kept[tag] = treated.element
                kept[owner] = raw_text(owner, "LO", creator)
                treated = treated._replace(counts=((PRIVATE_TAG, "kept"),))
            outcome.counts.update(treated.counts)
            outcome.made |= treated.made


def _decided(tag: int, place: Place, source: Dataset) -> Decision:
    """Decide about an attribute; codes are taken for texts if their scheme is nobody's but their maker's."""
    found = decision(tag, place)
    if found.action in _CODES and text_of(source, _SCHEME) not in PUBLIC_SCHEMES:
        return found._replace(action="dummy" if place.is_dummy else "words")
    return found


def _safe_action(representation: str) -> str:
    """Say how a safe private element is treated; listed or not, bytes whose meaning only a maker knows go."""
    if representation in {"DS", "IS"}:
        return "number"
    if representation in {"SS", "US", "SL", "UL", "FL", "FD"}:
        return "binary"
    return {"CS": "term", "LO": "words", "SH": "words", "LT": "words", "UI": "known_uid"}.get(representation, "")


def _overlay_representation(tag: BaseTag) -> str:
    try:
        return dictionary_VR(tag).split(" or ")[0]
    except KeyError:
        return "UN"


def _outcome(action: str, before: bytes, after: bytes | None) -> str:
    """Say in a word or two what was done to a value."""
    if after is None:
        return "removed"
    if after == before:
        return "kept"
    if not after:
        return "emptied"
    words = {"date": "moved", "pseudonym": "pseudonym", "dummy": "dummy", "age": "age limited"}
    return words.get(action, "keyed UID" if action.endswith("uid") else "cleaned")


def raw_text(tag: int, representation: str, text: str) -> RawDataElement:
    """Make an element of ASCII text."""
    value = text.encode("ascii", "replace")
    return RawDataElement(Tag(tag), representation, len(value), value, 0, False, True)


def required(source: Dataset, pseudonym: str, options: frozenset[str]) -> dict[BaseTag, Element]:
    """Give what every data set must say, whether or not its source did."""
    found = {element.tag: element for element in _required(pseudonym, options)}
    codes = cast("Sequence", found[_METHOD_CODES].value)
    found[_METHOD_CODES] = DataElement(_METHOD_CODES, "SQ", Sequence(codes))  # its own: that of others may not grow
    age = _age(source) if "retain_patient_characteristics" in options else ""
    if age:
        found[Tag(_PATIENT_AGE)] = raw_text(_PATIENT_AGE, "AS", age)
    return found


@lru_cache(maxsize=64)
def _required(pseudonym: str, options: frozenset[str]) -> tuple[Element, ...]:
    """Make the elements that are the same in all files of a patient."""
    codes = Sequence()
    for code in method_codes(options):
        item = (raw_text(0x00080100, "SH", code.value), raw_text(_SCHEME, "SH", "DCM"))
        codes.append(Dataset({one.tag: one for one in (*item, raw_text(0x00080104, "LO", code.meaning))}))
    return (
        raw_text(0x00100010, "PN", pseudonym),
        raw_text(0x00100020, "LO", pseudonym),
        raw_text(0x00120062, "CS", "YES"),
        raw_text(0x00120063, "LO", METHOD),
        DataElement(_METHOD_CODES, "SQ", codes),
        raw_text(0x00280303, "CS", temporal_information(options)),
    )


def _age(source: Dataset) -> str:
    found = text_of(source, _PATIENT_AGE)
    years = age_years(found, text_of(source, _BIRTH_DATE), text_of(source, _STUDY_DATE))
    if years is None:
        return ""
    if years > OLDEST_SHOWN_YEARS:
        return f"{OLDEST_SHOWN_YEARS + 1:03d}Y"
    if age_years(found, "", "") is not None:
        return found
    return f"{years:03.0f}Y" if years >= 2 else f"{years * 12:03.0f}M"


def texts_to_search(result: Mapping[BaseTag, Element]) -> tuple[bytes, bytes]:
    """Give the values of a result as two long texts: those that are written as text, and those in binary form."""
    texts: list[bytes] = []
    numbers: list[bytes] = []
    for representation, value in values_of(result):
        (texts if has_text_value(representation) else numbers).append(value)
    return b"\0\0".join(texts), b"\0\0".join(numbers)
