"""De-identification end to end: a token in every place that can hold one, none in any byte that leaves."""

import itertools
import pickle
import struct

import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless

from pipeline.core.errors import ArtefactError
from pipeline.core.reasons import REASONS
from pipeline.core.records import Instance
from pipeline.dicom.decoding.pixels import read_pixels
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms
from pipeline.dicom.deidentification.rewriting import FAILED, Rewriter, Rewritten
from pipeline.dicom.slices.headers import read_header
from tests.dicom.samples import LIMIT, PIXELS, SYNTAXES, ct, radiograph, with_pixels, write

NAMES = Pseudonyms(bytes(range(32)))
# Values that are no place for a token because a file without the right value is no image at all, and the
# scanner's maker and model, which are kept on purpose.
NO_PLACE = {
    "SOPClassUID", "TransferSyntaxUID", "Modality", "PhotometricInterpretation", "Manufacturer",
    "ManufacturerModelName", "BurnedInAnnotation", "RecognizableVisualFeatures", "ConversionType", "ImageType",
    "SpecificCharacterSet",
}  # fmt: skip
TEXT_LENGTHS = {
    "AE": 16, "AS": 4, "CS": 16, "LO": 64, "LT": 200, "PN": 64, "SH": 16, "ST": 200, "UC": 200, "UR": 200, "UT": 200,
    "DT": 26, "TM": 14, "DA": 8, "UI": 64,
}  # fmt: skip


class Tokens:
    """Hands out unique tokens and remembers them."""

    def __init__(self):
        self.all = []
        self.count = itertools.count(1)

    def text(self, representation):
        number = next(self.count)
        if representation == "UI":
            token = f"1.3.6.1.4.1.{770_000_000 + number}.8"
        elif representation == "DA":
            token = f"19{number % 80 + 10:02d}{number % 11 + 1:02d}{number % 27 + 1:02d}"
        elif representation in {"TM", "DT"}:
            token = f"{20120312101112 + number}.5"[-TEXT_LENGTHS[representation] :]
        elif representation == "AS":
            token = f"{number % 80 + 10:03d}Q"
        else:
            token = f"Kana{number:05d}Vogl"
        if len(token) > 6 and representation != "DA":  # a moved date may be the day of another
            self.all.append(token)
        return token


def value_for(representation, tokens):
    if representation == "PN":
        return f"{tokens.text('PN')}^{tokens.text('PN')}"
    return tokens.text(representation)


def fill(dataset, tokens):
    """Give a token to every text attribute of the standard that the data set does not have yet."""
    for tag, (representation, _, _, retired, keyword) in DicomDictionary.items():
        if representation not in TEXT_LENGTHS or not keyword or keyword in NO_PLACE or tag in dataset:
            continue
        if tag >> 16 in {0x0000, 0x0002} or (retired and tag >> 16 > 0x5000):
            continue
        dataset.add_new(tag, representation, value_for(representation, tokens))


def canary(tokens):
    """Make a radiograph with tokens in all places: elements, sequences, private blocks, overlays, curves."""
    dataset = radiograph(
        **dict.fromkeys(("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID")),
        PatientName=None,
        StudyDate=None,
    )
    fill(dataset, tokens)
    inner = Dataset()
    fill(inner, tokens)
    outer = Dataset()
    outer.ReferencedImageSequence = Sequence([inner])
    dataset.ReferencedStudySequence = Sequence([outer])
    dataset.RequestAttributesSequence = Sequence([inner])
    table = Dataset()
    fill(table, tokens)
    table.add_new("LUTDescriptor", "US", [2, 0, 16])
    table.add_new("LUTData", "OW", bytes(4))
    dataset.ModalityLUTSequence = Sequence([table])
    block = dataset.private_block(0x0029, tokens.text("LO"), create=True)
    for number, representation in enumerate(TEXT_LENGTHS):
        block.add_new(number, representation, value_for(representation, tokens))
    block.add_new(0x50, "OB", tokens.text("LO").encode())
    block.add_new(0x51, "UN", tokens.text("LO").encode("utf-16-le"))
    dataset.add_new(0x60000022, "LO", tokens.text("LO"))
    dataset.add_new(0x60000102, "US", 0)
    dataset.add_new(0x60003000, "OW", tokens.text("LO").encode().ljust(40, b"\0"))
    dataset.add_new(0x50000040, "SH", tokens.text("SH"))
    dataset.add_new(0xFFFCFFFC, "OB", tokens.text("LO").encode().ljust(40, b"\0"))
    return with_pixels(dataset)


def index(root, path):
    found = read_header(path, path.relative_to(root).as_posix(), modalities=("CR", "CT"), largest_bytes=LIMIT)
    assert isinstance(found, Instance), found
    return found


def rewritten(root, tmp_path, instance):
    found = Rewriter(root, tmp_path / "target", NAMES, 3650)([instance])
    return found if isinstance(found, str) else found[0]


def rewrite(tmp_path, dataset, **options):
    """Write a file, scan it, de-identify it; give the instance, the result, and the new file (or None)."""
    root = tmp_path / "source"
    instance = index(root, write(root / "a.dcm", dataset, **options))
    result = rewritten(root, tmp_path, instance)
    files = [path for path in (tmp_path / "target").rglob("*") if path.is_file()]
    assert len(files) == isinstance(result, Rewritten)
    return instance, result, files[0] if files else None


def traces(token):
    for text in {token, token.upper(), token.lower(), token.casefold()}:
        yield from {text.encode(code) for code in ("utf-8", "latin-1", "utf-16-le", "utf-16-be")}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_no_token_of_any_place_leaves(tmp_path, capsys, recwarn, caplog, syntax):
    tokens = Tokens()
    dataset = canary(tokens)
    preamble = tokens.text("LO").encode().ljust(128, b"\0")
    name = tokens.text("LO")
    root = tmp_path / "source"
    path = write(root / name / f"{name}.dcm", dataset, syntax=syntax, preamble=preamble)
    data = path.read_bytes()
    assert sum(token.encode() in data for token in tokens.all) > 1000 or syntax == "deflated"
    recwarn.clear()
    caplog.clear()
    result = rewritten(root, tmp_path, index(root, path))
    assert isinstance(result, Rewritten)
    (written,) = [one for one in (tmp_path / "target").rglob("*") if one.is_file()]
    out = capsys.readouterr()
    left = [
        written.read_bytes(),
        str(written).encode(),
        repr(result).encode(),
        out.out.encode(),
        out.err.encode(),
        caplog.text.encode(),
        *(str(one.message).encode() for one in recwarn.list),
    ]
    if syntax == "deflated":
        left.append(pydicom.dcmread(written).to_json().encode())
    whole = b"\n".join(left)
    lower = whole.lower()
    assert len(tokens.all) > 2000
    for token in tokens.all:
        assert not any(trace in whole or trace in lower for trace in traces(token)), token
    assert not recwarn.list


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_pixels_are_not_touched(tmp_path, syntax):
    _, _, new = rewrite(tmp_path, with_pixels(ct(RescaleSlope="1", RescaleIntercept="-1024")), syntax=syntax)
    old = tmp_path / "source" / "a.dcm"
    before, after = pydicom.dcmread(old), pydicom.dcmread(new)
    if syntax == "JPEG 2000":  # whose encoder writes a comment
        assert len(after.PixelData) == len(before.PixelData)
    else:
        assert after.PixelData == before.PixelData
    assert after["PixelData"].VR == before["PixelData"].VR
    assert after.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID == SYNTAXES[syntax]
    first, second = read_pixels(old), read_pixels(new)
    np.testing.assert_array_equal(first.values, second.values)
    for name in ("pixel_spacing_mm", "image_position_mm", "image_orientation", "unit", "padding", "lowest_possible"):
        assert getattr(first, name) == getattr(second, name)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_file_is_whole_and_says_little_about_its_origin(tmp_path, syntax):
    dataset = with_pixels(radiograph(PatientAge="095Y", BodyPartExamined="CHEST", ViewPosition="PA", PatientSex="F"))
    _, result, new = rewrite(tmp_path, dataset, syntax=syntax, preamble=b"SECRET".ljust(128))
    found = pydicom.dcmread(new)
    assert new.read_bytes()[:132] == bytes(128) + b"DICM"
    assert {element.keyword for element in found.file_meta} == {
        "FileMetaInformationGroupLength", "FileMetaInformationVersion", "MediaStorageSOPClassUID",
        "MediaStorageSOPInstanceUID", "TransferSyntaxUID", "ImplementationClassUID", "ImplementationVersionName",
    }  # fmt: skip
    assert found.file_meta.MediaStorageSOPInstanceUID == found.SOPInstanceUID == NAMES.uid("1.2.3.1")
    assert new.parent.name == found.SeriesInstanceUID == NAMES.uid("1.2.3.3")
    assert new.name == f"{found.SOPInstanceUID}.dcm"
    assert list(found) == sorted(found, key=lambda element: element.tag)
    assert (result.patient_age, result.body_part, result.view_position) == ("090Y", "CHEST", "PA")
    assert isinstance(index(new.parent, new), Instance)  # what we write, we accept


def test_fragments_of_compressed_pixels_survive(tmp_path):
    """A delimiter's bytes inside of a fragment end the pixel data for readers that search instead of walking."""
    dataset = with_pixels(radiograph(), np.full((33, 36), 0xFEFF, np.uint16), bits=16)
    dataset.PixelData = np.tile(np.frombuffer(b"\xfe\xff\xdd\xe0", "<u2"), 33 * 18).tobytes()
    root = tmp_path / "source"
    path = write(root / "a.dcm", dataset, syntax="explicit")
    raw = pydicom.dcmread(path)
    segments = literal_runs(raw.PixelData)
    data = path.read_bytes()
    at = data.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    value = item + item[:4] + struct.pack("<L", len(segments)) + segments
    end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    head = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    header = data[:at].replace(b"1.2.840.10008.1.2.1\0", RLELossless.encode() + b"\0")
    path.write_bytes(header + head + value + end)
    result = rewritten(root, tmp_path, index(root, path))
    assert isinstance(result, Rewritten)
    new = tmp_path / "target" / result.series_uid / f"{result.sop_uid}.dcm"
    assert new.read_bytes().endswith(head + value + end)
    np.testing.assert_array_equal(read_pixels(new).values, np.frombuffer(raw.PixelData, "<u2").reshape(33, 36))


def literal_runs(native):
    """Encode 16-bit little-endian words as RLE (PS3.5, annex G) without any repetition."""
    planes = [native[1::2], native[0::2]]
    segments = []
    for plane in planes:
        runs = [plane[start : start + 128] for start in range(0, len(plane), 128)]
        segment = b"".join(bytes([len(run) - 1]) + run for run in runs)
        segments.append(segment + bytes(len(segment) % 2))
    header = struct.pack("<16L", 2, 64, 64 + len(segments[0]), *[0] * 13)
    return header + b"".join(segments)


@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({"BurnedInAnnotation": "YES"}, "BURNED_IN_ANNOTATION"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "PIXELS_MAY_IDENTIFY"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "PIXELS_MAY_IDENTIFY"),
        ({"PatientID": "1000000", "RescaleSlope": "1", "RescaleIntercept": "1000000"}, FAILED),
    ],
)
def test_hazards_write_nothing(tmp_path, elements, code):
    _, result, new = rewrite(tmp_path, with_pixels(radiograph(**elements)))
    assert result == code
    assert new is None
    assert code in REASONS


def test_a_comment_in_a_codestream_is_emptied(tmp_path):
    root = tmp_path / "source"
    path = write(root / "a.dcm", with_pixels(radiograph()), syntax="JPEG 2000")
    data = path.read_bytes()
    start = data.index(b"\xff\x4f\xff\x51")
    at = start + 4 + struct.unpack_from(">H", data, start + 4)[0]
    comment = struct.pack(">HHH", 0xFF64, 4 + 10, 1) + b"MUSTERMANN"
    codestream = data[start:at] + comment + data[at:-8]
    path.write_bytes(data[: start - 4] + struct.pack("<L", len(codestream)) + codestream + data[-8:])
    result = rewritten(root, tmp_path, index(root, path))
    new = tmp_path / "target" / result.series_uid / f"{result.sop_uid}.dcm"
    assert b"MUSTERMANN" not in new.read_bytes()
    np.testing.assert_array_equal(read_pixels(new).values, read_pixels(path).values)


@pytest.mark.parametrize("change", ["content", "size", "gone", "link", "folder link"])
def test_a_file_that_changed_since_the_scan_is_refused(tmp_path, change):
    root = tmp_path / "source"
    path = write(root / "folder" / "a.dcm", with_pixels(radiograph()))
    instance = index(root, path)
    data = path.read_bytes()
    other = tmp_path / "other"
    if change == "content":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif change == "size":
        path.write_bytes(data + b"\0\0")
    elif change == "gone":
        path.unlink()
    elif change == "link":
        path.rename(tmp_path / "moved.dcm")
        path.symlink_to(tmp_path / "moved.dcm")
    else:
        path.parent.rename(other)
        path.parent.symlink_to(other)
    assert rewritten(root, tmp_path, instance) == FAILED
    assert not (tmp_path / "target").exists()


def test_a_target_that_cannot_be_written_is_an_error(tmp_path):
    root = tmp_path / "source"
    instance = index(root, write(root / "a.dcm", with_pixels(radiograph())))
    (tmp_path / "target").write_text("a file where a folder belongs")
    with pytest.raises((ArtefactError, OSError)):
        rewritten(root, tmp_path, instance)


def test_a_rewriter_travels_to_processes(tmp_path):
    rewriter = Rewriter(tmp_path, tmp_path, NAMES, 3650)
    assert pickle.loads(pickle.dumps(rewriter)) == rewriter


def test_a_patient_called_chest_is_no_leak(tmp_path):
    _, result, _ = rewrite(tmp_path, with_pixels(radiograph(PatientName="CHEST^ORIGINAL", BodyPartExamined="CHEST")))
    assert isinstance(result, Rewritten)


@pytest.mark.parametrize("patient", ["20240101", "225225225", "1234", "00000000"])
def test_numbers_that_look_like_ours_are_no_leak(tmp_path, patient):
    """Whether an image is taken must not depend on a chance hit inside of a keyed value."""
    dataset = with_pixels(radiograph(PatientID=patient, StudyDate="20240102"))
    _, result, _ = rewrite(tmp_path, dataset)
    assert isinstance(result, Rewritten)


def test_permissions_of_the_source_do_not_matter(tmp_path):
    root = tmp_path / "source"
    path = write(root / "a.dcm", with_pixels(radiograph()))
    instance = index(root, path)
    path.chmod(0o400)
    root.chmod(0o500)
    try:
        assert isinstance(rewritten(root, tmp_path, instance), Rewritten)
    finally:
        root.chmod(0o700)


def test_the_pixels_of_the_sample_are_not_uniform():
    """The comparisons above would prove nothing on an empty picture."""
    assert len(np.unique(PIXELS)) > 100
