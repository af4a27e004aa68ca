"""Hazards: images whose pixels may show who the patient is, and which are therefore kept out."""

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicVoiceAudioWaveformStorage,
    BreastProjectionXRayImageStorageForPresentation,
    BreastProjectionXRayImageStorageForProcessing,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalIntraOralXRayImageStorageForPresentation,
    DigitalIntraOralXRayImageStorageForProcessing,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    GeneralAudioWaveformStorage,
    MRImageStorage,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    RTImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

from pipeline.dicom.reading import elements
from pipeline.dicom.slices.frames import CLASSIC

# What comes from a detector and nothing else. All other storage classes (secondary capture, ultrasound, visible
# light, ophthalmology, classes of tomorrow) may show names, screens or faces: kept out until a rule covers them.
DETECTOR_CLASSES = frozenset(
    {
        BreastProjectionXRayImageStorageForPresentation,
        BreastProjectionXRayImageStorageForProcessing,
        ComputedRadiographyImageStorage,
        CTImageStorage,
        DigitalIntraOralXRayImageStorageForPresentation,
        DigitalIntraOralXRayImageStorageForProcessing,
        DigitalMammographyXRayImageStorageForPresentation,
        DigitalMammographyXRayImageStorageForProcessing,
        DigitalXRayImageStorageForPresentation,
        DigitalXRayImageStorageForProcessing,
        MRImageStorage,
        NuclearMedicineImageStorage,
        PositronEmissionTomographyImageStorage,
        RTImageStorage,
        XRayAngiographicImageStorage,
        XRayRadiofluoroscopicImageStorage,
    }
)
_CLASSES = DETECTOR_CLASSES | frozenset(CLASSIC)  # the enhanced ones are like those of single slices
DETECTOR_MODALITIES = frozenset({"CR", "CT", "DX", "IO", "MG", "MR", "NM", "PT", "PX", "RF", "RG", "RTIMAGE", "XA"})
# A voice identifies who speaks, and says what no rule reads.
SOUND_CLASSES = frozenset({BasicVoiceAudioWaveformStorage, GeneralAudioWaveformStorage})
SOUND_MODALITY = "AU"
_SCREEN_WORDS = ("SCREEN", "CAPTURE")
# One for each overlay plane: PS3.5, section 7.6, knows sixteen, but files of the past may hold more.
_OVERLAY_BIT_POSITIONS = frozenset(0x60000102 + (plane << 17) for plane in range(128))
_KEYWORDS = (
    "SOPClassUID", "Modality", "ImageType", "BurnedInAnnotation", "RecognizableVisualFeatures", "ConversionType",
)  # fmt: skip
HAZARD_TAGS = (
    *(tag for keyword in _KEYWORDS if (tag := tag_for_keyword(keyword)) is not None),
    *sorted(_OVERLAY_BIT_POSITIONS),
)


def hazard(dataset: Dataset) -> str:
    """Give the reason code why an image's pixels may identify somebody, or an empty text.

    In doubt the answer is yes: an annotation flag with any value but NO counts as YES, and a modality or
    storage class that is not known to come from a detector counts as a photograph.

    References
    ----------
    DICOM PS3.15, section E.3.1 (Clean Pixel Data Option) and E.3.2 (Clean Recognizable Visual Features Option).
    """
    annotation = elements.text(dataset, "BurnedInAnnotation").upper()
    if annotation not in {"", "NO"} or elements.is_unreadable(dataset, "BurnedInAnnotation"):
        return "BURNED_IN_ANNOTATION"
    is_captured = (
        any(elements.is_unreadable(dataset, keyword) for keyword in _KEYWORDS)
        or elements.text(dataset, "SOPClassUID") not in _CLASSES
        or elements.text(dataset, "Modality") not in DETECTOR_MODALITIES
        or elements.text(dataset, "ConversionType") != ""
        or elements.text(dataset, "RecognizableVisualFeatures").upper() not in {"", "NO"}
        or any(word in value.upper() for value in elements.texts(dataset, "ImageType") for word in _SCREEN_WORDS)
    )
    return "PIXELS_MAY_IDENTIFY" if is_captured or _has_overlay_in_pixels(dataset) else ""


def is_beyond_rules(dataset: Dataset) -> bool:
    """Tell whether no rule of rectangles covers an image: it shows a face, or does not say readably what it shows."""
    return elements.text(dataset, "RecognizableVisualFeatures").upper() not in {"", "NO"} or any(
        elements.is_unreadable(dataset, keyword) for keyword in _KEYWORDS
    )


def _has_overlay_in_pixels(dataset: Dataset) -> bool:
    """Tell whether a retired overlay hides in the unused bits of the pixels (PS3.5, section 8.1.2)."""
    if _OVERLAY_BIT_POSITIONS.isdisjoint(dataset.keys()):  # nearly always
        return False
    return any(elements.integer(dataset, tag) != 0 for tag in sorted(_OVERLAY_BIT_POSITIONS) if tag in dataset)
