"""Frames: each slice of an object that holds several, described as if it stood alone.

Enhanced multi-frame objects say what is common to all frames in one functional group, and what is a frame's own
in another. Here the two are laid out flat, under the names that single slices use, so that everything behind
(triage, de-identification, stacking) knows one kind of slice.

References
----------
DICOM PS3.3, section C.7.6.16 (Multi-frame Functional Groups); annexes A.36 (Enhanced MR), A.38 (Enhanced CT),
A.56 (Enhanced PET), A.70 to A.72 (Legacy Converted).
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from pipeline.core.records import Instance, MultiFrameInstance, Plane
from pipeline.dicom.reading import elements
from pipeline.dicom.reading.files import FileFault, Source, opened, read_elements
from pipeline.dicom.slices.geometry import is_orientation
from pipeline.dicom.slices.mosaic import MOSAIC_TAGS, is_mosaic, tiles

# The storage class of single slices that say the same.
CLASSIC = {
    EnhancedCTImageStorage: CTImageStorage,
    EnhancedMRImageStorage: MRImageStorage,
    EnhancedPETImageStorage: PositronEmissionTomographyImageStorage,
    LegacyConvertedEnhancedCTImageStorage: CTImageStorage,
    LegacyConvertedEnhancedMRImageStorage: MRImageStorage,
    LegacyConvertedEnhancedPETImageStorage: PositronEmissionTomographyImageStorage,
}
_SHARED_GROUPS = 0x52009229
_PER_FRAME_GROUPS = 0x52009230
_NUMBER_OF_FRAMES = 0x00280008
GROUP_TAGS = (_SHARED_GROUPS, _PER_FRAME_GROUPS)
# Groups of a hundred thousand frames; longer ones are no header any more.
LARGEST_GROUPS_BYTES = 256_000_000
# A frame has a few dozen sequences; a million items take a gigabyte once they are parsed.
_ITEM_TAG = b"\xfe\xff\x00\xe0"
_MOST_ITEMS = 500_000
_ITEMS_OF_ALL = 5_000
_ITEMS_OF_A_FRAME = 300
_CHUNK_BYTES = 1 << 24
# Functional group: which of its elements stand for which element of a single slice.
_NAMES: Mapping[str, Mapping[str, str]] = {
    "PlanePositionSequence": {"ImagePositionPatient": "ImagePositionPatient"},
    "PlaneOrientationSequence": {"ImageOrientationPatient": "ImageOrientationPatient"},
    "PixelMeasuresSequence": {"PixelSpacing": "PixelSpacing", "SliceThickness": "SliceThickness"},
    "PixelValueTransformationSequence": {
        "RescaleIntercept": "RescaleIntercept",
        "RescaleSlope": "RescaleSlope",
        "RescaleType": "RescaleType",
    },
    "FrameVOILUTSequence": {"WindowCenter": "WindowCenter", "WindowWidth": "WindowWidth"},
    "FrameContentSequence": {
        "StackID": "StackID",
        "TemporalPositionIndex": "TemporalPositionIdentifier",
        "FrameAcquisitionNumber": "AcquisitionNumber",
    },
    "MRImageFrameTypeSequence": {"FrameType": "ImageType"},
    "CTImageFrameTypeSequence": {"FrameType": "ImageType"},
    "PETFrameTypeSequence": {"FrameType": "ImageType"},
    "MREchoSequence": {"EffectiveEchoTime": "EchoTime"},
    "MRDiffusionSequence": {"DiffusionBValue": "DiffusionBValue"},
    "DiffusionGradientDirectionSequence": {"DiffusionGradientOrientation": "DiffusionGradientOrientation"},
    "CardiacSynchronizationSequence": {"NominalCardiacTriggerDelayTime": "TriggerTime"},
}


def _tag(keyword: str) -> int:
    found = tag_for_keyword(keyword)
    if found is None:
        message = f"{keyword} is no attribute of the standard"
        raise ValueError(message)
    return found


_GROUPS = {_tag(group): {_tag(own): _tag(name) for own, name in names.items()} for group, names in _NAMES.items()}
# What a wrong value of would make a wrong volume: there may be one item only.
_VITAL = frozenset(
    map(
        _tag,
        (
            "PlanePositionSequence",
            "PlaneOrientationSequence",
            "PixelMeasuresSequence",
            "PixelValueTransformationSequence",
        ),
    )
)
_TRANSFORMATION = _tag("PixelValueTransformationSequence")
_RESCALE_TYPE = _tag("RescaleType")
_LOOKUP_TABLE = _tag("ModalityLUTSequence")
_DIRECTIONS = _tag("DiffusionGradientDirectionSequence")  # within the group of diffusion
_DIRECTION = "DiffusionGradientOrientation"
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_PLANE_KEYWORDS = (
    "ImagePositionPatient", "ImageOrientationPatient", *_SPACINGS, "SliceThickness", "ImageType", "AcquisitionNumber",
    "TemporalPositionIdentifier", "EchoTime", "TriggerTime", "DiffusionBValue", _DIRECTION, "AcquisitionTime",
    "StackID",
)  # fmt: skip
_PLANE_TAGS = tuple(map(_tag, _PLANE_KEYWORDS))


def plane_facts(dataset: Dataset) -> dict[str, Any]:
    """Read what a slice says of its place, and of what tells it from others in the same place.

    Returns
    -------
    dict
        The fields of `Plane`; position, orientation and spacing are None where there is none.
    """
    return {
        "image_position_mm": elements.triple(dataset, "ImagePositionPatient"),
        "image_orientation": elements.cosines(dataset, "ImageOrientationPatient"),
        "pixel_spacing_mm": next((pair for word in _SPACINGS if (pair := elements.positive_pair(dataset, word))), None),
        "slice_thickness_mm": elements.number(dataset, "SliceThickness"),
        "image_type": elements.texts(dataset, "ImageType"),
        "acquisition_number": elements.integer(dataset, "AcquisitionNumber"),
        "temporal_position": elements.integer(dataset, "TemporalPositionIdentifier"),
        "echo_time_ms": elements.number(dataset, "EchoTime"),
        "trigger_time_ms": elements.number(dataset, "TriggerTime"),
        "b_value_s_mm2": elements.number(dataset, "DiffusionBValue"),
        "diffusion_direction": elements.triple(dataset, _DIRECTION),
        "acquisition_time": elements.text(dataset, "AcquisitionTime"),
        "stack_id": elements.text(dataset, "StackID"),
    }


def with_planes(path: Path | str, instance: Instance, room_bytes: int) -> Instance:
    """Read where each frame of a file lies, if it holds several slices; other files come back as they are.

    Parameters
    ----------
    path
        The file, whose header and length have been checked.
    instance
        What its header says.
    room_bytes
        Most that a deflated file may inflate to.

    Raises
    ------
    FileFault
        ``BAD_DIMENSIONS`` if header and number of frames disagree, ``BAD_GEOMETRY`` if a frame's place is missing or
        no place, ``UNSUPPORTED_IMAGE`` if a frame says one thing twice or half a transformation,
        ``UNREADABLE_HEADER`` if there are far more items than frames can need.
    """
    if instance.kind != "slice":
        return instance
    if instance.sop_class_uid in CLASSIC:
        with opened(path, room_bytes) as source:
            _require_few_items(source, instance.frames)
            tags = (*GROUP_TAGS, *_PLANE_TAGS, _LOOKUP_TABLE)
            top = read_elements(source, tags, largest_value_bytes=LARGEST_GROUPS_BYTES)
        whole = EnhancedObject(top)
        if len(whole) != instance.frames:
            raise FileFault("BAD_DIMENSIONS")
        planes = tuple(_plane(whole.header(frame)) for frame in range(1, len(whole) + 1))
        return MultiFrameInstance.model_construct(**{**dict(instance), "planes": planes})
    if is_mosaic(instance.image_type):
        with opened(path, room_bytes) as source:
            private = read_elements(source, MOSAIC_TAGS)
        return tiles(instance, private) or instance  # a mosaic that says too little is refused by triage
    return instance


class EnhancedObject:
    """An object with functional groups: what is common to its frames, and what is each frame's own.

    Parameters
    ----------
    top
        The object's elements, its functional groups (`GROUP_TAGS`) among them; it is not changed.

    Raises
    ------
    FileFault
        As `with_planes`.
    """

    def __init__(self, top: Dataset) -> None:
        shared = _items(top, _SHARED_GROUPS)
        if len(shared) > 1:
            raise FileFault("BAD_DIMENSIONS")
        if _LOOKUP_TABLE in top:  # of all frames, beside the transformation of each
            raise FileFault("UNSUPPORTED_IMAGE")
        self._said = frozenset(element.tag for group in shared for element in group.values()) & _VITAL
        self._frames = _items(top, _PER_FRAME_GROUPS)
        self._common = Dataset()
        for element in top.values():
            if element.tag not in GROUP_TAGS and element.tag != _NUMBER_OF_FRAMES:
                self._common[element.tag] = element
        for group in shared:
            _lay_out(group, self._common)
        set_element(self._common, "SOPClassUID", CLASSIC.get(UID(elements.text(top, "SOPClassUID")), UID("")))

    def __len__(self) -> int:
        """Count the frames."""
        return len(self._frames)

    def header(self, frame: int) -> Dataset:
        """Lay out what is said about a frame (from 1) as the header of a single slice.

        Returns
        -------
        Dataset
            The object's own elements, overlaid by the shared and by the frame's functional groups, in the classic
            storage class of its modality.
        """
        if not 1 <= frame <= len(self):
            raise FileFault("BAD_DIMENSIONS")
        flat = Dataset()
        for element in self._common.values():
            flat[element.tag] = element
        own = self._frames[frame - 1]
        if any(element.tag in self._said for element in own.values()):
            raise FileFault("UNSUPPORTED_IMAGE")  # a group is shared, or a frame's own (PS3.3, C.7.6.16.1.1)
        _lay_out(own, flat)
        set_element(flat, "InstanceNumber", str(frame))
        return flat


def set_element(dataset: Dataset, keyword: str, value: Any) -> None:
    """Give a data set an element of its own: setting the attribute would change the one that others share with it."""
    tag = tag_for_keyword(keyword)
    if tag is not None:
        dataset.add_new(tag, dictionary_VR(tag), value)


def _require_few_items(source: Source, frames: int) -> None:
    """Refuse a made-up file whose sequences would fill the memory, before they are parsed; 8 bytes make an item."""
    position = source.body.tell()
    most = min(_MOST_ITEMS, _ITEMS_OF_ALL + frames * _ITEMS_OF_A_FRAME)
    found, rest = 0, b""
    while chunk := source.body.read(_CHUNK_BYTES):
        found += (rest + chunk).count(_ITEM_TAG)
        rest = chunk[1 - len(_ITEM_TAG) :]
        if found > most:
            raise FileFault("UNREADABLE_HEADER")
    source.body.seek(position)


def _plane(header: Dataset) -> Plane:
    facts = plane_facts(header)
    orientation = facts["image_orientation"]
    spacing = elements.positive_pair(header, "PixelSpacing")  # that of a detector is no spacing of slices
    if not facts["image_position_mm"] or not spacing or orientation is None:
        raise FileFault("BAD_GEOMETRY")
    if not _is_orientation(orientation):
        raise FileFault("BAD_GEOMETRY")
    return Plane.model_construct(**facts)


_is_orientation = lru_cache(maxsize=64)(is_orientation)  # frames share theirs


def _items(dataset: Dataset, tag: int) -> list[Dataset]:
    """Give the items of a sequence; none if it is missing or no sequence."""
    try:
        value = dataset[tag].value if tag in dataset else []
        return [item for item in value if isinstance(item, Dataset)]
    except Exception:  # noqa: BLE001  a damaged sequence makes pydicom raise nearly anything
        raise FileFault("UNREADABLE_HEADER") from None


def _lay_out(group: Dataset, flat: Dataset) -> None:
    """Give a flat header what the functional groups of an item say."""
    for tag in [element.tag for element in group.values()]:
        names = _GROUPS.get(tag)
        if names is None:
            continue
        items = _items(group, tag)
        if len(items) > 1 and tag in _VITAL:
            raise FileFault("UNSUPPORTED_IMAGE")
        for item in items[:1]:
            if tag == _TRANSFORMATION and not all(part in item for part in names if part != _RESCALE_TYPE):
                raise FileFault("UNSUPPORTED_IMAGE")
            for element in list(item.values()):
                target = names.get(element.tag)
                if target is None:
                    continue
                if target == element.tag:
                    flat[target] = element
                else:
                    _rename(item, element.tag, target, flat)
            if _DIRECTIONS in item:
                _lay_out(item, flat)


def _rename(item: Dataset, tag: int, target: int, flat: Dataset) -> None:
    """Copy a value under another name, as the text that this name holds."""
    number = elements.number(item, tag)
    representation = dictionary_VR(target)
    if representation == "CS":
        flat.add_new(target, representation, list(elements.texts(item, tag)))
    elif number is not None:
        flat.add_new(target, representation, f"{number:.10g}")
