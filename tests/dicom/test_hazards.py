import pytest
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    VLPhotographicImageStorage,
)

from pipeline.dicom.deidentification.hazards import hazard
from tests.dicom.samples import ct, radiograph


@pytest.mark.parametrize(
    "dataset",
    [
        radiograph(),
        radiograph(BurnedInAnnotation="NO"),
        radiograph(SOPClassUID=DigitalXRayImageStorageForPresentation, Modality="DX"),
        radiograph(ImageType=["DERIVED", "SECONDARY"]),
        radiograph(RecognizableVisualFeatures="NO"),
        ct(),
    ],
)
def test_images_of_a_detector_pass(dataset):
    assert hazard(dataset) == ""


@pytest.mark.parametrize("value", ["YES", "yes", "Y", "UNKNOWN"])
def test_burned_in_text_is_a_hazard(value):
    assert hazard(radiograph(BurnedInAnnotation=value)) == "BURNED_IN_ANNOTATION"


@pytest.mark.parametrize(
    "elements",
    [
        {"Modality": "US"},
        {"Modality": "SC"},
        {"Modality": "XC"},
        {"Modality": "ES"},
        {"Modality": "OT"},
        {"Modality": "NEW"},
        {"Modality": None},
        {"SOPClassUID": SecondaryCaptureImageStorage},
        {"SOPClassUID": UltrasoundImageStorage},
        {"SOPClassUID": VLPhotographicImageStorage},
        {"SOPClassUID": "1.2.3"},
        {"SOPClassUID": None},
        {"ConversionType": "WSD"},
        {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
        {"ImageType": ["DERIVED", "SECONDARY", "screenshot"]},
        {"RecognizableVisualFeatures": "YES"},
    ],
)
def test_pictures_of_screens_and_people_are_hazards(elements):
    assert hazard(radiograph(**elements)) == "PIXELS_MAY_IDENTIFY"


@pytest.mark.parametrize("group", [0x6000, 0x6002, 0x601E, 0x6020, 0x60FE])
def test_an_overlay_in_the_unused_bits_is_a_hazard(group):
    dataset = radiograph()
    dataset.add_new((group, 0x0102), "US", 0)
    assert hazard(dataset) == ""
    dataset.add_new((group, 0x0102), "US", 12)
    assert hazard(dataset) == "PIXELS_MAY_IDENTIFY"
