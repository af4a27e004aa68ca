"""Objects with several slices, made from single slices: enhanced multi-frame, and Siemens mosaics."""

import struct
from collections.abc import Iterable, Sequence
from copy import deepcopy

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, MRImageStorage

SHARED = ("PlaneOrientationSequence", "PixelMeasuresSequence")


def item(**elements) -> Items:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return Items([dataset])


def groups(one: Dataset, *, number: int = 1, times: int = 1) -> dict[str, Items]:
    """Say in functional groups what a single slice says."""
    found = {
        "PlanePositionSequence": item(ImagePositionPatient=one.ImagePositionPatient),
        "PlaneOrientationSequence": item(ImageOrientationPatient=one.ImageOrientationPatient),
        "PixelMeasuresSequence": item(PixelSpacing=one.PixelSpacing, SliceThickness=one.get("SliceThickness", 1)),
        "PixelValueTransformationSequence": item(
            RescaleSlope=one.get("RescaleSlope", 1), RescaleIntercept=one.get("RescaleIntercept", 0), RescaleType="US"
        ),
        "FrameContentSequence": item(StackID="1", InStackPositionNumber=number, TemporalPositionIndex=times),
    }
    if "EchoTime" in one:
        found["MREchoSequence"] = item(EffectiveEchoTime=float(one.EchoTime))
    return found


def enhanced(
    slices: Sequence[Dataset], *, shared: Iterable[str] = SHARED, times: Sequence[int] | None = None
) -> Dataset:
    """Put slices into one enhanced object, frame by frame in the order given.

    `shared` names the functional groups that stand once for all frames; `times` gives the temporal positions.
    """
    first = slices[0]
    whole = deepcopy(first)
    own = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
    for keyword in (*own, "RescaleSlope", "RescaleIntercept", "EchoTime"):
        if keyword in whole:
            delattr(whole, keyword)
    whole.SOPClassUID = EnhancedMRImageStorage if whole.Modality == "MR" else EnhancedCTImageStorage
    whole.SOPInstanceUID = f"{first.SOPInstanceUID}.77"
    whole.NumberOfFrames = len(slices)
    common = Dataset()
    frames = []
    for number, one in enumerate(slices, start=1):
        frame = Dataset()
        for sequence, value in groups(one, number=number, times=times[number - 1] if times else 1).items():
            setattr(common if sequence in set(shared) else frame, sequence, value)
        frames.append(frame)
    whole.SharedFunctionalGroupsSequence = Items([common])
    whole.PerFrameFunctionalGroupsSequence = Items(frames)
    whole.PixelData = b"".join(one.PixelData for one in slices)
    whole["PixelData"].VR = "OW"
    return whole


def csa_header(count: int, normal: Sequence[float]) -> bytes:
    """Write a private image header of the second kind ("SV10") with the entries that mosaics have."""
    entries = [
        ("AcquisitionMatrixText", b"SH", ["64*64"]),
        ("NumberOfImagesInMosaic", b"US", [f"{count}"]),
        ("SliceNormalVector", b"FD", [f"{value:.8f}" for value in normal]),
    ]
    data = b"SV10\4\3\2\1" + struct.pack("<2I", len(entries), 77)
    for name, representation, values in entries:
        data += struct.pack("<64si4s3i", name.encode(), len(values), representation, 0, len(values), 77)
        for value in values:
            text = value.encode() + b"\0"
            text += bytes(-len(text) % 4)
            data += struct.pack("<4i", len(text), len(text), 77, len(text)) + text
    return data + bytes(4)


def mosaic(
    slices: Sequence[Dataset],
    *,
    normal: Sequence[float] | None = None,
    csa: bytes | None = None,
    protocol: int | None = None,
    matrix: int = 0,
) -> Dataset:
    """Lay slices out as the tiles of one image, as Siemens scanners write them; they must follow their normal.

    `protocol` is the number of slices by the protocol (0: it does not say), `matrix` the acquisition matrix.
    """
    first = slices[0]
    rows, columns = first.Rows, first.Columns
    side = int(np.ceil(np.sqrt(len(slices))))
    sheet = np.zeros((side * rows, side * columns), np.uint16)
    for number, one in enumerate(slices):
        down, right = divmod(number, side)
        place = np.s_[down * rows : (down + 1) * rows, right * columns : (right + 1) * columns]
        sheet[place] = np.frombuffer(one.PixelData, "<u2").reshape(rows, columns)
    places = np.array([one.ImagePositionPatient for one in slices], float)
    way = places[1] - places[0]
    orientation = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, first.PixelSpacing)
    corner = (
        places[0]
        - orientation[0] * between_columns * (side - 1) * columns / 2
        - orientation[1] * between_rows * (side - 1) * rows / 2
    )
    whole = deepcopy(first)
    whole.SOPClassUID, whole.Modality = MRImageStorage, "MR"
    whole.SOPInstanceUID = f"{first.SOPInstanceUID}.66"
    whole.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    whole.Rows, whole.Columns = sheet.shape
    whole.ImagePositionPatient = [f"{value:.8f}" for value in corner]
    whole.SpacingBetweenSlices = f"{np.linalg.norm(way):.8f}"
    block = whole.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    own = way / np.linalg.norm(way) if normal is None else normal
    block.add_new(0x10, "OB", csa_header(len(slices), own) if csa is None else csa)
    number = len(slices) if protocol is None else protocol
    if number:  # none: the protocol does not say
        block.add_new(0x20, "OB", b"### ASCCONV BEGIN ###\nsSliceArray.lSize\t = %d \n###" % number)
    if matrix:
        whole.AcquisitionMatrix = [matrix, 0, 0, matrix]
    whole.PixelData = sheet.tobytes()
    whole["PixelData"].VR = "OW"
    return whole
