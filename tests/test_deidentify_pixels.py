"""De-identification without a study, pixels: rules, detector, loops, enhanced objects; nothing leaks or gets lost."""

import numpy as np
import pydicom
import pytest
import yaml
from pydicom.config import IGNORE
from pydicom.pixels import pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

from pipeline.cli import main
from pipeline.core.artefacts import read_table
from pipeline.core.records import BlankedRectangle, Finding
from pipeline.dicom.decoding.codecs import unused_bits
from pipeline.dicom.decoding.pixel_format import PixelFormat
from pipeline.dicom.deidentification import burned_in
from pipeline.dicom.deidentification.burned_in import Screen
from pipeline.dicom.deidentification.objects import ObjectRewriter
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms
from pipeline.dicom.deidentification.rewriting import Rewriter
from pipeline.dicom.slices.headers import read_header
from pipeline.phantom.lettering import letters
from tests.acceptance.convert import oblique_ct
from tests.dicom.multiframe import enhanced, item
from tests.dicom.samples import LIMIT, ct, radiograph, with_pixels, write
from tests.dicom.test_burned_in import BLANK, COLOUR, GREY, PLACE, lettered, rule_for, written_into
from tests.dicom.test_colour import coloured

NAME = "Mustermann"
TOKENS = (b"Mustermann", b"PID-4711", b"1.2.3.1")


def deidentify(tmp_path, *more, rules=()):
    words = ["deidentify", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), *map(str, more)]
    if rules:
        path = tmp_path / "rules.yaml"
        path.write_text(yaml.safe_dump({"pixel_rules": [rule.model_dump(mode="json") for rule in rules]}))
        words += ["--pixel-rules", str(path)]
    return main(words)


def written(tmp_path):
    return [pydicom.dcmread(path) for path in sorted((tmp_path / "out" / "dicom").rglob("*.dcm"))]


def reasons(tmp_path, severity="excluded"):
    found = read_table(tmp_path / "out" / "quarantine.tsv", Finding)
    return sorted(one.code for one in found if one.severity == severity)


def loop(frames=3, **elements):
    """Make an ultrasound loop with a name burned into every frame."""
    pictures = np.stack([lettered(COLOUR // (number + 1), 255) for number in range(frames)])
    dataset = coloured(pictures[0])
    dataset.SOPClassUID = UltrasoundMultiFrameImageStorage if frames > 1 else UltrasoundImageStorage
    dataset.Modality = "US"
    if frames > 1:
        dataset.NumberOfFrames = frames
        dataset.FrameTime = "40"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pictures.tobytes()
    dataset["PixelData"].VR = "OB"
    return dataset, pictures


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian", "deflated", "RLE"])
def test_loops_are_cleaned_frame_by_frame(tmp_path, frames, syntax):
    dataset, pictures = loop(frames, BurnedInAnnotation="YES")
    rule = rule_for(dataset)
    write(tmp_path / "in" / "loop.dcm", dataset, syntax=syntax)
    assert deidentify(tmp_path, rules=[rule]) == 0
    (found,) = written(tmp_path)
    stored = pixel_array(found, raw=True).reshape(pictures.shape)
    outside = np.ones((33, 36), bool)
    outside[BLANK] = False
    np.testing.assert_array_equal(stored[:, outside], pictures[:, outside])
    assert (stored[:, ~outside] == 0).all()
    assert found.get("NumberOfFrames", 1) == frames
    assert found.BurnedInAnnotation == "NO"
    assert "113101" in [code.CodeValue for code in found.DeidentificationMethodCodeSequence]
    (place,) = read_table(tmp_path / "out" / "blanked.tsv", BlankedRectangle)
    assert place.sop_uid == found.SOPInstanceUID
    assert place.model_dump(include=set(PLACE)) == PLACE
    assert "PIXELS_BLANKED" in reasons(tmp_path, "noted")
    whole = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert not [token for token in TOKENS if token in whole]


FORM = PixelFormat(96, 256, 16, 12, True, "MONOCHROME2")


def hidden(bit, dtype=np.uint16):
    """Draw a name in a bit that stores no value."""
    picture = np.random.default_rng(5).normal(900, 60, (96, 256)).astype(dtype)
    ink = letters("CANARY ANNA 1926 48213390")
    picture[30 : 30 + ink.shape[0], 20 : 20 + ink.shape[1]][ink] |= np.array(1 << bit, np.uint16).astype(dtype)
    return picture


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian", "deflated", "RLE"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_text_in_bits_that_store_no_value_is_seen(tmp_path, syntax, dtype):
    """The overlay that described it has gone, the letters have not."""
    write(tmp_path / "in" / "text.dcm", with_pixels(radiograph(), hidden(14, dtype)), syntax=syntax)
    assert deidentify(tmp_path) == 1
    assert reasons(tmp_path) == ["BURNED_IN_TEXT_SUSPECTED"]


@pytest.mark.parametrize("syntax", ["explicit", "RLE"])
def test_signs_and_masks_in_bits_that_store_no_value_are_no_text(tmp_path, syntax):
    signed = np.random.default_rng(5).normal(0, 600, (96, 256)).astype(np.int16)
    wide = signed.copy()
    wide[30:37, 20:169][letters("CANARY ANNA 1926 48213390")] = 2100  # beyond 12 bits with a sign
    rows, columns = np.mgrid[:96, :256]
    masked = hidden(0) | np.where((rows - 48) ** 2 + (columns - 128) ** 2 > 45**2, 0xF000, 0).astype(np.uint16)
    for number, picture in enumerate((signed, masked, signed.view(np.uint16))):
        dataset = with_pixels(radiograph(SOPInstanceUID=f"1.2.3.1.{number}"), picture, bits=12)
        write(tmp_path / "in" / f"{number}.dcm", dataset, syntax=syntax)
    assert deidentify(tmp_path) == 0
    assert reasons(tmp_path, "noted") == reasons(tmp_path) == []
    found = {bytes(one.PixelData) for one in written(tmp_path)}
    if syntax == "explicit":
        assert found == {signed.tobytes(), masked.tobytes()}
    assert unused_bits(wide.tobytes(), FORM, None, ExplicitVRLittleEndian) is None
    assert unused_bits((wide | 0x4000).tobytes(), FORM, None, ExplicitVRLittleEndian) is not None


@pytest.mark.parametrize("frames", [1, 3])
def test_ultrasound_without_a_rule_stays_behind_and_is_counted(tmp_path, frames):
    write(tmp_path / "in" / "loop.dcm", loop(frames)[0])
    other, _ = loop(frames, SOPInstanceUID="1.2.3.9", Manufacturer="OTHER")
    write(tmp_path / "in" / "other.dcm", other)
    assert deidentify(tmp_path, rules=[rule_for(loop(frames)[0])]) == 0
    assert len(written(tmp_path)) == 1
    assert reasons(tmp_path) == ["PIXELS_MAY_IDENTIFY"]
    assert main(["deidentify", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "none")]) == 1
    assert not list((tmp_path / "none").rglob("*.dcm"))


def test_a_rule_that_does_not_vouch_does_not_cover_a_flag(tmp_path):
    dataset, _ = loop(3, BurnedInAnnotation="YES")
    write(tmp_path / "in" / "loop.dcm", dataset)
    assert deidentify(tmp_path, rules=[rule_for(dataset, vouches=False)]) == 1
    assert reasons(tmp_path) == ["BURNED_IN_ANNOTATION"]


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "RLE"])
def test_enhanced_objects_stay_whole(tmp_path, syntax):
    whole = enhanced(oblique_ct(5))
    whole.PatientName, whole.PatientID = f"{NAME}^Erika", "PID-4711"
    whole.PerFrameFunctionalGroupsSequence[2].FrameContentSequence = item(
        FrameAcquisitionDateTime="20240229235959.5", FrameComments=f"{NAME} was restless"
    )
    before = pixel_array(pydicom.dcmread(write(tmp_path / "in" / "a.dcm", whole, syntax=syntax)), raw=True)
    assert deidentify(tmp_path) == 0
    (found,) = written(tmp_path)
    np.testing.assert_array_equal(pixel_array(found, raw=True), before)
    assert found.NumberOfFrames == 5
    old, new = whole.PerFrameFunctionalGroupsSequence, found.PerFrameFunctionalGroupsSequence
    for one, other in zip(old, new, strict=True):
        assert one.PlanePositionSequence == other.PlanePositionSequence
    content = new[2].FrameContentSequence[0]
    assert content.FrameAcquisitionDateTime.endswith("235959.5")
    assert not content.FrameAcquisitionDateTime.startswith("20240229")
    assert "FrameComments" not in content
    assert not [token for token in TOKENS[:2] if token in (tmp_path / "out" / "receipt.tsv").read_bytes()]
    (path,) = (tmp_path / "out").rglob("*.dcm")
    assert not [token for token in TOKENS[:2] if token in path.read_bytes()]


def test_text_in_a_frame_keeps_an_enhanced_object_out(tmp_path, monkeypatch):
    """Every eighth frame is looked at, as every eighth slice is."""
    looked = []
    monkeypatch.setattr(burned_in, "text_lines", lambda picture: looked.append(picture) or [])
    write(tmp_path / "in" / "a.dcm", enhanced(oblique_ct(20)))
    assert deidentify(tmp_path) == 0
    assert len(looked) == 3
    banner = written_into(200, "MILLER ANN 48213")
    picture = np.frombuffer(banner.PixelData, np.uint16).reshape(200, 200)
    slices = oblique_ct(3)
    for one in slices:
        with_pixels(one, picture)
        one.Rows, one.Columns = picture.shape
    monkeypatch.undo()
    write(tmp_path / "two" / "in" / "a.dcm", enhanced(slices))
    assert deidentify(tmp_path / "two") == 1
    assert reasons(tmp_path / "two") == ["BURNED_IN_TEXT_SUSPECTED"]


def slices_with_a_banner(folder, numbers, syntax="explicit", **changes):
    """Write a volume whose slices bear a name, as a scanner would burn it in, and a lone radiograph without one."""
    for number in numbers:
        banner = written_into(200, "MILLER ANN 48213", Modality="CT", InstanceNumber=number)
        banner.SOPInstanceUID = f"1.2.3.1.{number}"
        for keyword, value in changes.items():
            setattr(banner, keyword, value)
        write(folder / f"{number}.dcm", banner, syntax=syntax)
    write(folder / "lone.dcm", with_pixels(radiograph(SeriesInstanceUID="1.2.3.77"), GREY))


@pytest.mark.parametrize("syntax", ["explicit", "RLE"])
def test_a_volume_of_which_a_slice_is_kept_out_goes_as_a_whole(tmp_path, syntax):
    slices_with_a_banner(tmp_path / "in", range(5, 13), syntax)
    assert deidentify(tmp_path) == 0
    assert [one.Modality for one in written(tmp_path)] == ["CR"]
    assert reasons(tmp_path) == ["BURNED_IN_TEXT_SUSPECTED"] + 7 * ["SERIES_INCOMPLETE"]
    receipt = (tmp_path / "out" / "receipt.tsv").read_text()
    assert "SOPInstanceUID\tkeyed UID\t1\n" in receipt  # of what left, and of nothing else


@pytest.mark.parametrize("options", [(), ("retain_uids",)])
@pytest.mark.parametrize("series", ["1.2.3.3", "1.2.03.4"])
def test_names_of_volumes_that_go_are_found_under_every_option(tmp_path, options, series):
    """Whether or not the UID of the series is one that may be kept."""
    slices_with_a_banner(tmp_path / "in", range(1, 4), SeriesInstanceUID=UID(series, validation_mode=IGNORE))
    assert deidentify(tmp_path, *(["--options", *options] if options else [])) == 0
    assert [one.Modality for one in written(tmp_path)] == ["CR"]


@pytest.mark.parametrize("syntax", ["explicit", "RLE"])
@pytest.mark.parametrize("numbers", [[2], [8], range(2, 24, 2), [10, 11, 12]])
def test_a_volume_is_looked_at_whatever_its_numbers(tmp_path, numbers, syntax):
    """One echo of two, a key slice, a stack that was cut out: no number calls for a look, one slice gets it."""
    slices_with_a_banner(tmp_path / "in", numbers, syntax)
    assert deidentify(tmp_path) == 0
    assert [one.Modality for one in written(tmp_path)] == ["CR"]
    seen = reasons(tmp_path).count("BURNED_IN_TEXT_SUSPECTED")
    assert seen == -(-len(numbers) // 8)
    assert reasons(tmp_path).count("SERIES_INCOMPLETE") == len(numbers) - seen


def test_what_is_looked_at_late_is_written_once_and_noted(tmp_path):
    slices_with_a_banner(tmp_path / "in", [2, 3])
    assert deidentify(tmp_path, "--suspected-text", "note") == 0
    assert len(written(tmp_path)) == 3
    assert reasons(tmp_path, "noted") == ["BURNED_IN_TEXT_SUSPECTED"]
    assert "SOPInstanceUID\tkeyed UID\t3\n" in (tmp_path / "out" / "receipt.tsv").read_text()


@pytest.mark.parametrize(
    "changes", [{"ImageType": ["DERIVED", "SECONDARY"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}]
)
def test_what_is_no_slice_is_looked_at_whatever_its_number(tmp_path, changes):
    slices_with_a_banner(tmp_path / "in", [2, 3], **changes)
    assert deidentify(tmp_path) == 0
    assert reasons(tmp_path) == 2 * ["BURNED_IN_TEXT_SUSPECTED"]


def test_suspected_text_can_be_tolerated_and_noted(tmp_path):
    write(tmp_path / "in" / "a.dcm", written_into(200, "MILLER ANN 48213"))
    assert deidentify(tmp_path, "--suspected-text", "note") == 0
    assert reasons(tmp_path, "noted") == ["BURNED_IN_TEXT_SUSPECTED"]
    words = ["deidentify", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "b")]
    assert main([*words, "--tolerated-characters", "50"]) == 0


def test_pixels_that_cannot_be_decoded_take_their_volume_along_and_nothing_else(tmp_path):
    """What is compressed is decoded in a process that it may take down; unseen, it stays behind."""
    slices_with_a_banner(tmp_path / "in", [1, 2], "RLE")
    path = tmp_path / "in" / "1.dcm"
    data = bytearray(path.read_bytes())
    at = data.index(b"\xe0\x7f\x10\x00OB")
    data[at + 60 : at + 100] = b"\xff" * 40
    path.write_bytes(data)
    assert deidentify(tmp_path) == 0
    assert [one.Modality for one in written(tmp_path)] == ["CR"]
    assert reasons(tmp_path) == ["SERIES_INCOMPLETE", "UNDECODABLE_PIXELS"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1", "pixel_rules"),
        ("pixel_rules: [{name: x}]", "modality"),
        ("pixel_rules: [{name: x, colums: 3}]", "did you mean `columns`"),
        ("pixel_rules: 3", "`pixel_rules`: should be a list"),
    ],
)
def test_rules_that_are_none_are_errors(tmp_path, capfd, text, told):
    write(tmp_path / "in" / "a.dcm", with_pixels(ct()))
    (tmp_path / "rules.yaml").write_text(text)
    assert deidentify(tmp_path, "--pixel-rules", tmp_path / "rules.yaml") == 2
    assert told in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "deflated", "RLE", "JPEG 2000"])
@pytest.mark.parametrize("flag", [None, "NO", "YES"])
@pytest.mark.parametrize("vouches", [False, True])
def test_a_study_and_a_folder_make_the_same_file(tmp_path, syntax, flag, vouches):
    """Rules, detector, header and pixels: to the byte."""
    dataset = with_pixels(radiograph(BurnedInAnnotation=flag), lettered(GREY, 4095))
    path = write(tmp_path / "in" / "a.dcm", dataset, syntax=syntax)
    names, screen = Pseudonyms(bytes(range(32))), Screen((rule_for(dataset, vouches=vouches),))
    instance = read_header(path, path.name, modalities=("CR",), largest_bytes=LIMIT)
    study = Rewriter(tmp_path / "in", tmp_path / "study", names, 3650, screen)([instance])
    folder = ObjectRewriter(tmp_path / "in", tmp_path / "folder", names, 3650, screen, may_decode=True)("a.dcm")
    if isinstance(study, str):
        assert folder == study == "BURNED_IN_ANNOTATION"
        return
    assert (folder.rule, folder.blanked, folder.characters) == (study[0].rule, study[0].blanked, study[0].characters)
    one, other = (next((tmp_path / place).rglob("*.dcm")) for place in ("study", "folder"))
    assert one.read_bytes() == other.read_bytes()


def test_regions_that_are_not_declared_are_no_way_around(tmp_path):
    dataset, _ = loop(1)
    dataset.SequenceOfUltrasoundRegions = Sequence()
    write(tmp_path / "in" / "a.dcm", dataset)
    assert deidentify(tmp_path, rules=[rule_for(dataset, keep="regions", blank=[])]) == 1
    assert reasons(tmp_path) == ["PIXELS_MAY_IDENTIFY"]
