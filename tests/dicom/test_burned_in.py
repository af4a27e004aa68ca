"""Blanking by rule: exact in every encoding, refused where the rule does not fit, nothing else changed."""

import io
import struct

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from pipeline.core.records import Instance
from pipeline.dicom.decoding.pixel_format import PixelElement
from pipeline.dicom.decoding.pixels import read_pixels
from pipeline.dicom.deidentification.blanking import blanked, mask_of, rectangles_of
from pipeline.dicom.deidentification.burned_in import Screen, image_regions, is_looked_at, needed_looks
from pipeline.dicom.deidentification.options import DEFAULT_OPTIONS
from pipeline.dicom.deidentification.pixel_rules import PixelRule, Rectangle
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms
from pipeline.dicom.deidentification.rewriting import Rewriter
from pipeline.dicom.deidentification.splitting import Single, decoded_bytes
from pipeline.dicom.reading.quiet import quiet
from pipeline.dicom.slices.headers import read_header
from pipeline.phantom.captions import Caption, written
from pipeline.phantom.lettering import letters
from tests.acceptance.convert import oblique_ct
from tests.dicom.multiframe import enhanced
from tests.dicom.samples import LIMIT, PIXELS, SYNTAXES, ct, radiograph, with_pixels, write
from tests.dicom.test_colour import coloured, with_palette

NAMES = Pseudonyms(bytes(range(32)))
PLACE = {"top": 4, "left": 5, "rows": 9, "columns": 30}
BLANK = (slice(4, 13), slice(5, 35))
CANARY = letters("CANARY 1")[:, :30]  # 7 rows of ink
GREY = np.random.default_rng(3).integers(200, 3000, (33, 36)).astype(np.uint16)
COLOUR = np.random.default_rng(4).integers(30, 256, (33, 36, 3)).astype(np.uint8)


def lettered(picture, ink):
    """Burn the canary in, inside of the rectangle."""
    found = picture.copy()
    found[5:12, 5:35][CANARY] = ink
    return found


def rule_for(dataset, **changes):
    return PixelRule.model_validate(
        {
            "name": "a-rule",
            "modality": dataset.Modality,
            "manufacturer": dataset.get("Manufacturer", ""),
            "model": dataset.get("ManufacturerModelName", ""),
            "rows": dataset.Rows,
            "columns": dataset.Columns,
            "photometric": dataset.PhotometricInterpretation,
            "blank": [PLACE],
            "vouches": True,
            **changes,
        }
    )


def clean(tmp_path, source, *rules, options=DEFAULT_OPTIONS):
    """De-identify one file; give the result, and what was written (or None)."""
    instance = read_header(source, source.name, modalities=("CR", "CT", "US", "SC", "OT"), largest_bytes=LIMIT)
    assert isinstance(instance, Instance), instance
    instances = instance.expanded() if hasattr(instance, "expanded") else [instance]
    found = Rewriter(source.parent, tmp_path / "target", NAMES, 3650, Screen(rules), frozenset(options))(instances)
    files = sorted((tmp_path / "target").rglob("*.dcm"))
    if isinstance(found, str):
        assert not files
        return found, None
    return found[0], pydicom.dcmread(tmp_path / "target" / found[0].series_uid / f"{found[0].sop_uid}.dcm")


def stored(dataset):
    return pixel_array(dataset, raw=True)


def check_cleaned(tmp_path, path, dark, **changes):
    """Compare source and result by pydicom's decoders: equal outside, one value inside, and the header says so."""
    before = pydicom.dcmread(path)
    result, after = clean(tmp_path, path, rule_for(before, **changes))
    assert result.rule == "a-rule"
    assert result.blanked == (Rectangle(**PLACE),)
    old, new = stored(before), stored(after)
    outside = np.ones((33, 36), bool)
    outside[BLANK] = False
    assert new.shape == old.shape
    np.testing.assert_array_equal(new[outside], old[outside])
    assert (new[BLANK] == dark).all()
    assert not (old[BLANK] == dark).all()
    assert after.BurnedInAnnotation == "NO"
    codes = [item.CodeValue for item in after.DeidentificationMethodCodeSequence]
    assert codes.count("113101") == 1
    assert not after.file_meta.TransferSyntaxUID.is_compressed or result.is_compressed is False
    assert isinstance(read_header(next((tmp_path / "target").rglob("*.dcm")), "a", modalities=("CR", "CT", "US"),
                                  largest_bytes=LIMIT), Instance)  # fmt: skip
    return before, after


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_grey_images_are_blanked_exactly(tmp_path, syntax, photometric):
    dataset = with_pixels(radiograph(BurnedInAnnotation="YES"), lettered(GREY, 4095))
    dataset.PhotometricInterpretation = photometric
    path = write(tmp_path / "source" / "a.dcm", dataset, syntax=syntax)
    kept = np.delete(GREY.ravel(), np.flatnonzero(mask_of([Rectangle(**PLACE)], 33, 36)))
    check_cleaned(tmp_path, path, kept.max() if photometric == "MONOCHROME1" else kept.min())


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_signed_and_odd_images_are_blanked_exactly(tmp_path, syntax):
    signed = (lettered(GREY, 2047).astype(np.int16) - 1500).clip(-2048, 2047)[:, :35]
    path = write(tmp_path / "source" / "a.dcm", with_pixels(ct(), signed), syntax=syntax)
    before = pydicom.dcmread(path)
    _, after = clean(tmp_path, path, rule_for(before))
    outside = ~mask_of([Rectangle(**PLACE)], 33, 35)
    np.testing.assert_array_equal(stored(after)[outside], stored(before)[outside])
    assert (stored(after)[~outside] == stored(before)[outside].min()).all()
    np.testing.assert_array_equal(
        read_pixels(next((tmp_path / "target").rglob("*.dcm"))).values[outside], read_pixels(path).values[outside]
    )


def test_a_falling_slope_turns_dark_and_bright(tmp_path):
    path = write(
        tmp_path / "source" / "a.dcm",
        with_pixels(radiograph(RescaleSlope="-1", RescaleIntercept="0"), lettered(GREY, 0)),
    )
    outside = ~mask_of([Rectangle(**PLACE)], 33, 36)
    check_cleaned(tmp_path, path, GREY[outside].max())


NATIVE = ("explicit", "implicit", "big endian", "deflated")
# Compressed colours are by pixel; JPEG 2000 has colours of its own.
COLOURS = [
    *((syntax, planar, colours) for syntax in NATIVE for planar in (0, 1) for colours in ("RGB", "YBR_FULL")),
    ("RLE", 0, "RGB"),
    ("RLE", 0, "YBR_FULL"),
    ("JPEG 2000", 0, "RGB"),
]


@pytest.mark.parametrize(("syntax", "planar", "photometric"), COLOURS)
def test_colours_are_blanked_exactly(tmp_path, syntax, planar, photometric):
    dataset = coloured(lettered(COLOUR, 255), planar=planar, photometric=photometric)
    dataset["PixelData"].VR = "OB"
    black = (0, 128, 128) if photometric == "YBR_FULL" else (0, 0, 0)
    path = write(tmp_path / "source" / "a.dcm", dataset, syntax=syntax)
    check_cleaned(tmp_path, path, black)


def test_subsampled_colours_are_blanked_exactly(tmp_path):
    picture = lettered(COLOUR, 255)
    packed = np.stack([picture[:, ::2, 0], picture[:, 1::2, 0], picture[:, ::2, 1], picture[:, ::2, 2]], axis=-1)
    dataset = coloured(picture, photometric="YBR_FULL_422")
    dataset.PixelData = packed.tobytes()
    path = write(tmp_path / "source" / "a.dcm", dataset)
    _, after = check_cleaned(tmp_path, path, (0, 128, 128))
    assert after.PhotometricInterpretation == "YBR_FULL"


@pytest.mark.parametrize(
    ("syntax", "bits"), [("explicit", 8), ("explicit", 16), ("big endian", 16), ("RLE", 8), ("RLE", 16)]
)
def test_a_palette_is_blanked_with_its_darkest_colour(tmp_path, syntax, bits):
    generator = np.random.default_rng(5)
    tables = generator.integers(20, 1 << bits, (3, 256))
    tables[:, 77] = 3
    if syntax == "big endian":
        tables = tables.astype("<u2").byteswap()
    dataset = with_pixels(radiograph(), lettered(COLOUR[..., 0], 255), bits=8)
    with_palette(dataset, tables.tolist(), bits=bits)
    if syntax == "big endian":
        dataset["PixelData"].VR = "OB"
    check_cleaned(tmp_path, write(tmp_path / "source" / "a.dcm", dataset, syntax=syntax), 77)


def packed_as(path, dataset, syntax, codestream):
    dataset.PixelData = encapsulate([codestream])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def jpeg(picture, **options):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=92, **options)
    return stream.getvalue()


@pytest.mark.parametrize("said", ["", "00", "01"])
def test_what_was_lossy_once_stays_so(tmp_path, said):
    picture = lettered((GREY >> 4).astype(np.uint8), 255)
    dataset = with_pixels(radiograph(BurnedInAnnotation="YES"), picture, bits=8)
    if said:
        dataset.LossyImageCompression = said
        dataset.LossyImageCompressionRatio = "7.5"
    path = packed_as(tmp_path / "source" / "a.dcm", dataset, JPEGBaseline8Bit, jpeg(picture))
    _, after = check_cleaned(
        tmp_path, path, stored(pydicom.dcmread(path))[~mask_of([Rectangle(**PLACE)], 33, 36)].min()
    )
    assert after.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert after.LossyImageCompression == (said or "01")
    assert after.get("LossyImageCompressionRatio") == (7.5 if said else None)


@pytest.mark.parametrize("subsampling", [0, 1])
def test_colour_jpeg_is_blanked_exactly(tmp_path, subsampling):
    picture = lettered(COLOUR // 4 + 100, 255)
    dataset = coloured(picture, photometric="YBR_FULL_422")
    path = packed_as(tmp_path / "source" / "a.dcm", dataset, JPEGBaseline8Bit, jpeg(picture, subsampling=subsampling))
    _, after = check_cleaned(tmp_path, path, (0, 128, 128))
    assert after.LossyImageCompression == "01"


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEGLSLossless, imagecodecs.jpegls_encode),
        (JPEGLSNearLossless, lambda picture: imagecodecs.jpegls_encode(picture, level=2)),
        (JPEGLosslessSV1, lambda picture: imagecodecs.ljpeg_encode(picture, bitspersample=12)),
    ],
)
def test_other_codecs_are_blanked_exactly(tmp_path, syntax, encode):
    picture = lettered(GREY, 4000)
    dataset = with_pixels(radiograph(), picture, bits=12)
    path = packed_as(tmp_path / "source" / "a.dcm", dataset, syntax, encode(picture))
    before = read_pixels(path).values
    _, after = clean(tmp_path, path, rule_for(dataset))
    outside = ~mask_of([Rectangle(**PLACE)], 33, 36)
    np.testing.assert_array_equal(stored(after)[outside], before[outside])
    assert (stored(after)[~outside] == before[outside].min()).all()
    assert after.get("LossyImageCompression", "") == ("01" if syntax == JPEGLSNearLossless else "")


def test_every_frame_is_blanked(tmp_path):
    slices = oblique_ct(5)
    whole = enhanced(slices)
    place = {"top": 1, "left": 2, "rows": 3, "columns": 4}
    path = write(tmp_path / "source" / "a.dcm", whole, syntax="JPEG 2000")
    rows, columns = int(whole.Rows), int(whole.Columns)
    _, first = clean(tmp_path, path, rule_for(whole, blank=[place]))
    assert first is not None
    files = sorted((tmp_path / "target").rglob("*.dcm"), key=lambda one: pydicom.dcmread(one).InstanceNumber)
    assert len(files) == 5
    mask = mask_of([Rectangle(**place)], rows, columns)
    for file, source in zip(files, slices, strict=True):
        old = np.frombuffer(source.PixelData, "<u2").reshape(rows, columns)
        new = stored(pydicom.dcmread(file))
        np.testing.assert_array_equal(new[~mask], old[~mask])
        assert (new[mask] == old[~mask].min()).all()


@pytest.mark.parametrize("is_colour", [False, True])
@pytest.mark.parametrize("syntax", ["explicit", "big endian", "RLE"])
def test_loops_of_several_frames_are_blanked_as_a_whole(tmp_path, syntax, is_colour):
    """The index refuses them today; what blanks them is ready."""
    frames = np.stack([lettered((COLOUR if is_colour else GREY) // number, 255) for number in (1, 2, 3)])
    dataset = coloured(frames[0]) if is_colour else with_pixels(radiograph(), frames[0])
    dataset.NumberOfFrames = 3
    dataset.PixelData = frames.tobytes()
    if is_colour:
        dataset["PixelData"].VR = "OB"
    path = write(tmp_path / "a.dcm", dataset, syntax=syntax)
    whole = pydicom.dcmread(path)
    value = whole["PixelData"].value
    packed = syntax == "RLE"
    if packed:  # the items, without the delimiter behind them
        value = value.removesuffix(b"\xfe\xff\xdd\xe0\0\0\0\0")
    place = PixelElement(whole["PixelData"].VR, 0, len(value), is_encapsulated=packed)
    instance = Instance.model_construct(
        rows=33, columns=36, frames=3, samples_per_pixel=3 if is_colour else 1, bits_allocated=8 if is_colour else 16
    )
    mask = mask_of([Rectangle(**PLACE)], 33, 36)
    found = blanked(Single(whole, str(whole.file_meta.TransferSyntaxUID), place, value, decoded_bytes(instance)), mask)
    order = ">u2" if syntax == "big endian" else "<u2"
    new = np.frombuffer(found.pixels, "u1" if is_colour else order)[: frames.size].reshape(frames.shape)
    np.testing.assert_array_equal(new[:, ~mask], frames[:, ~mask])
    assert len(np.unique(new[:, mask])) == 1


@pytest.mark.parametrize("options", [DEFAULT_OPTIONS, (*DEFAULT_OPTIONS, "clean_graphics")])
def test_overlays_go_with_the_text(tmp_path, options):
    """Bits that store no value may hold an overlay; planes of their own are never copied."""
    hidden = np.zeros((33, 36), np.uint16)
    hidden[20:27, 2:32][CANARY] = 1 << 12
    dataset = with_pixels(radiograph(), lettered(GREY, 4095) | hidden)
    dataset.add_new(0x60000102, "US", 12)
    dataset.add_new(0x60020010, "US", 33)
    dataset.add_new(0x60023000, "OW", bytes(150))
    dataset.add_new(0x60220040, "CS", "R")  # of a group that is not the standard's
    dataset.add_new(0x60223000, "OW", bytes(150))
    path = write(tmp_path / "source" / "a.dcm", dataset)
    assert clean(tmp_path, path, options=options) == ("PIXELS_MAY_IDENTIFY", None)
    _, after = clean(tmp_path, path, rule_for(dataset), options=options)
    words = np.frombuffer(after.PixelData, "<u2")
    assert words.max() < 1 << 12
    assert not [element for element in after if element.tag.group >> 8 == 0x60]


def test_no_trace_of_the_canary_is_left(tmp_path):
    """Where the letters stood, every pixel is the same; nowhere else do they stand."""
    dataset = with_pixels(radiograph(BurnedInAnnotation="YES"), lettered(GREY, 4095))
    path = write(tmp_path / "source" / "a.dcm", dataset, syntax="RLE")
    _, after = clean(tmp_path, path, rule_for(dataset))
    found = stored(after)
    assert np.ptp(found[BLANK]) == 0
    windows = np.lib.stride_tricks.sliding_window_view(found == 4095, CANARY.shape)
    assert not (windows == CANARY).all(axis=(2, 3)).any()
    before = np.lib.stride_tricks.sliding_window_view(stored(pydicom.dcmread(path)) == 4095, CANARY.shape)
    assert (before | ~CANARY).all(axis=(2, 3)).any()


def test_the_token_burned_into_the_built_in_study_goes_by_rule(cohort, tmp_path):
    (hazard,) = cohort.manifest.of_kind("burned_in")
    path = cohort.dicom / hazard.paths[0]
    before = pydicom.dcmread(path)
    white = 2**before.BitsStored - 1
    place = {"top": before.Rows - 14, "left": 0, "rows": 14, "columns": before.Columns}
    assert (stored(before)[-14:] == white).sum() > 50
    assert clean(tmp_path, path) == ("BURNED_IN_ANNOTATION", None)
    _, after = clean(tmp_path, path, rule_for(before, blank=[place]))
    np.testing.assert_array_equal(stored(after)[:-14], stored(before)[:-14])
    assert np.ptp(stored(after)[-14:]) == 0
    assert stored(after)[-1, 0] != white
    assert after.BurnedInAnnotation == "NO"


# --- which rule is for which image


OTHERS = {
    "modality": "CT",
    "manufacturer": "Maker ",
    "model": "two",
    "rows": 34,
    "columns": 37,
    "photometric": "MONOCHROME1",
}


@pytest.mark.parametrize("field", OTHERS)
def test_a_rule_that_does_not_fit_is_not_applied(tmp_path, field):
    dataset = with_pixels(
        radiograph(BurnedInAnnotation="YES", Manufacturer="Maker", ManufacturerModelName="Two"), lettered(GREY, 4095)
    )
    path = write(tmp_path / "source" / "a.dcm", dataset)
    assert clean(tmp_path, path, rule_for(dataset, **{field: OTHERS[field]})) == ("BURNED_IN_ANNOTATION", None)
    assert clean(tmp_path, path, rule_for(dataset))[1] is not None


def test_only_a_rule_that_vouches_covers_a_flag(tmp_path):
    flagged = with_pixels(radiograph(BurnedInAnnotation="YES"), lettered(GREY, 4095))
    path = write(tmp_path / "source" / "a.dcm", flagged)
    assert clean(tmp_path, path, rule_for(flagged, vouches=False)) == ("BURNED_IN_ANNOTATION", None)


def test_a_rule_that_does_not_vouch_promises_nothing(tmp_path):
    dataset = with_pixels(radiograph(ConversionType="DF"), lettered(GREY, 4095))
    path = write(tmp_path / "source" / "a.dcm", dataset)
    assert clean(tmp_path, path) == ("PIXELS_MAY_IDENTIFY", None)
    _, after = clean(tmp_path, path, rule_for(dataset, vouches=False))
    assert "BurnedInAnnotation" not in after
    assert "113101" not in [item.CodeValue for item in after.DeidentificationMethodCodeSequence]
    assert after.ConversionType == "DF"
    assert np.ptp(stored(after)[BLANK]) == 0


def test_what_is_said_of_one_image_is_not_said_of_the_next(tmp_path):
    """What is equal in all files of a patient is made once, and shared."""
    flagged = with_pixels(radiograph(BurnedInAnnotation="YES"), lettered(GREY, 4095))
    plain = with_pixels(radiograph(SOPInstanceUID="1.2.3.7"), GREY)
    rule = rule_for(flagged)
    rewriter = Rewriter(tmp_path / "source", tmp_path / "target", NAMES, 3650, Screen((rule,)))
    others = Rewriter(tmp_path / "source", tmp_path / "target", NAMES, 3650)
    said = []
    for number, (dataset, by) in enumerate(
        [(flagged, rewriter), (plain, others), (flagged, rewriter), (plain, others)]
    ):
        path = write(tmp_path / "source" / f"{number}.dcm", dataset)
        (found,) = by([read_header(path, path.name, modalities=("CR",), largest_bytes=LIMIT)])
        written_file = pydicom.dcmread(tmp_path / "target" / found.series_uid / f"{found.sop_uid}.dcm")
        codes = [item.CodeValue for item in written_file.DeidentificationMethodCodeSequence]
        said.append((codes.count("113101"), written_file.get("BurnedInAnnotation", "")))
    assert said == [(1, "NO"), (0, ""), (1, "NO"), (0, "")]


def test_no_rule_covers_a_face(tmp_path):
    dataset = with_pixels(radiograph(RecognizableVisualFeatures="YES"), lettered(GREY, 4095))
    path = write(tmp_path / "source" / "a.dcm", dataset)
    assert clean(tmp_path, path, rule_for(dataset)) == ("PIXELS_MAY_IDENTIFY", None)


def test_images_without_a_rule_keep_every_byte(tmp_path):
    dataset = with_pixels(ct(), PIXELS)
    path = write(tmp_path / "source" / "a.dcm", dataset, syntax="RLE")
    result, after = clean(tmp_path, path, rule_for(dataset, rows=34))
    assert (result.rule, result.blanked) == ("", ())
    assert after.PixelData == pydicom.dcmread(path).PixelData


# --- text that nobody flagged


def written_into(picture_size, text, **elements):
    """Make a radiograph, or a slice, with a caption in it that the header does not mention."""
    background = np.add.outer(np.arange(picture_size), np.arange(picture_size)) * 4
    picture, _ = written(background, Caption(text, 10, 0.7, place=(0.1, 0.2)))
    make = ct if elements.get("Modality") == "CT" else radiograph
    return with_pixels(make(**elements), picture)


def look(tmp_path, dataset, *rules, syntax="explicit", **options):
    source = write(tmp_path / "source" / "a.dcm", dataset, syntax=syntax)
    instance = read_header(source, source.name, modalities=("CR", "CT"), largest_bytes=LIMIT)
    return Rewriter(source.parent, tmp_path / "target", NAMES, 3650, Screen(rules, **options))([instance])


@pytest.mark.parametrize("syntax", ["explicit", "big endian", "deflated", "RLE", "JPEG 2000"])
def test_a_banner_that_nobody_flagged_is_kept_out(tmp_path, syntax):
    banner = written_into(200, "MILLER ANN 48213", BurnedInAnnotation="NO")
    assert look(tmp_path, banner, syntax=syntax) == "BURNED_IN_TEXT_SUSPECTED"
    assert not list(tmp_path.glob("target/**/*.dcm"))


def test_what_becomes_of_suspected_text_is_configured(tmp_path):
    banner = written_into(200, "MILLER ANN 48213")
    (noted,) = look(tmp_path, banner, suspected_text="note")
    assert 10 <= noted.characters <= 20
    (tolerated,) = look(tmp_path, banner, tolerated_characters=noted.characters)
    assert tolerated.characters == noted.characters
    assert look(tmp_path, banner, tolerated_characters=noted.characters - 1) == "BURNED_IN_TEXT_SUSPECTED"


def test_a_short_word_is_noted(tmp_path):
    (found,) = look(tmp_path, written_into(200, "ERECT"))
    assert 4 <= found.characters <= 8
    assert look(tmp_path, written_into(200, "ERECT"), tolerated_characters=0) == "BURNED_IN_TEXT_SUSPECTED"


def test_pictures_without_text_are_not_remarked_on(tmp_path):
    (found,) = look(tmp_path, with_pixels(radiograph(), np.add.outer(np.arange(64), np.arange(64)).astype(np.uint16)))
    assert found.characters == 0


@pytest.mark.parametrize(("number", "is_seen"), [(1, True), (9, True), (2, False), (8, False), (None, True)])
def test_every_eighth_slice_is_looked_at(tmp_path, number, is_seen):
    banner = written_into(200, "MILLER ANN 48213", Modality="CT", InstanceNumber=number)
    assert (look(tmp_path, banner) == "BURNED_IN_TEXT_SUSPECTED") == is_seen


@given(st.lists(st.none() | st.integers(0, 40), max_size=40))
def test_no_volume_goes_unseen(numbers):
    chosen = needed_looks(numbers)
    assert bool(chosen) != (not numbers or any(map(is_looked_at, numbers)))
    if chosen:
        by_number = sorted(numbers)
        assert [numbers[place] for place in chosen] == by_number[::8]


def test_text_that_a_rule_leaves_is_noted(tmp_path):
    banner = written_into(200, "MILLER ANN 48213")
    rule = rule_for(banner, blank=[{"top": 150, "left": 0, "rows": 50, "columns": 200}])
    (found,) = look(tmp_path, banner, rule)
    assert found.characters >= 10
    rule = rule_for(banner, blank=[{"top": 0, "left": 0, "rows": 60, "columns": 200}])
    (found,) = look(tmp_path, banner, rule)
    assert found.characters == 0


def test_pixels_that_cannot_be_decoded_cannot_be_looked_at(tmp_path):
    codestream = struct.pack("<16L", 2, 64, 70, *[0] * 13) + bytes(20)  # two segments with next to nothing in them
    path = packed_as(tmp_path / "source" / "a.dcm", with_pixels(radiograph(), GREY), RLELossless, codestream)
    instance = read_header(path, path.name, modalities=("CR",), largest_bytes=LIMIT)
    assert Rewriter(path.parent, tmp_path / "target", NAMES, 3650)([instance]) == "UNDECODABLE_PIXELS"
    assert not list(tmp_path.glob("target/**/*.dcm"))


# --- ultrasound


def region(left, top, right, bottom, spatial=1):
    item = Dataset()
    item.RegionSpatialFormat = spatial
    item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right, bottom
    return item


def ultrasound(*regions, **elements):
    dataset = coloured(
        lettered(COLOUR, 255), SOPClassUID=UltrasoundImageStorage, Modality="US", Manufacturer="Maker", **elements
    )
    if regions:
        dataset.SequenceOfUltrasoundRegions = Sequence(regions)
    return dataset


def test_everything_outside_of_the_regions_is_blanked(tmp_path):
    dataset = ultrasound(region(3, 14, 20, 30), region(22, 15, 30, 32, spatial=2), region(0, 0, 35, 5, spatial=5))
    path = write(tmp_path / "source" / "a.dcm", dataset)
    assert clean(tmp_path, path) == ("PIXELS_MAY_IDENTIFY", None)
    result, after = clean(tmp_path, path, rule_for(dataset, keep="regions", blank=[]))
    kept = np.zeros((33, 36), bool)
    kept[14:31, 3:21] = True
    kept[15:33, 22:31] = True
    np.testing.assert_array_equal(stored(after)[kept], lettered(COLOUR, 255)[kept])
    assert not stored(after)[~kept].any()
    assert after.Modality == "US"
    np.testing.assert_array_equal(mask_of(result.blanked, 33, 36), ~kept)


def test_rectangles_inside_of_a_region_are_blanked_too(tmp_path):
    dataset = ultrasound(region(3, 2, 34, 30))
    path = write(tmp_path / "source" / "a.dcm", dataset)
    _, after = clean(tmp_path, path, rule_for(dataset, keep="regions"))
    kept = mask_of([Rectangle(top=2, left=3, rows=29, columns=32)], 33, 36) & ~mask_of([Rectangle(**PLACE)], 33, 36)
    np.testing.assert_array_equal(stored(after).any(axis=-1), kept)


@pytest.mark.parametrize(
    "regions",
    [
        [],
        [region(0, 0, 36, 20)],  # one column too far
        [region(0, 0, 20, 33)],
        [region(20, 5, 10, 20)],
        [region(3, 4, 20, 20), region(0, 0, 4000, 20)],  # one that is wrong spoils all
        [region(0, 0, 35, 32)],  # everything: nothing would be blanked
        [region(3, 4, 20, 20, spatial=5)],
        [region(3, 4, 20, 20, spatial=0)],
        [Dataset()],
        [region(1, 1, 2, 2)] * 101,
    ],
    ids=range(10),
)
def test_regions_that_are_not_to_be_trusted_keep_the_image_out(tmp_path, regions):
    dataset = ultrasound(*regions)
    path = write(tmp_path / "source" / "a.dcm", dataset)
    assert clean(tmp_path, path, rule_for(dataset, keep="regions", blank=[])) == ("PIXELS_MAY_IDENTIFY", None)


def test_a_flag_is_told_from_other_reasons(tmp_path):
    dataset = ultrasound(BurnedInAnnotation="YES")
    path = write(tmp_path / "source" / "a.dcm", dataset)
    assert clean(tmp_path, path, rule_for(dataset, keep="regions")) == ("BURNED_IN_ANNOTATION", None)


def test_a_loop_is_not_taken_for_an_image(tmp_path):
    dataset = ultrasound(region(3, 4, 20, 20))
    dataset.SOPClassUID = UltrasoundMultiFrameImageStorage
    dataset.NumberOfFrames = 2
    dataset.PixelData *= 2
    path = write(tmp_path / "a.dcm", dataset)
    assert read_header(path, "a.dcm", modalities=("US",), largest_bytes=LIMIT) == "UNSUPPORTED_IMAGE"


@given(st.lists(st.binary(max_size=8), max_size=4))
def test_damaged_regions_give_none(values):
    with quiet():
        items = []
        for value in values:
            item = Dataset()
            item.add_new(0x00186018, "UN", value)
            items.append(item)
        header = Dataset()
        header.SequenceOfUltrasoundRegions = Sequence(items)
        assert image_regions(header, 10, 10) == ()


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_rectangles_cover_a_mask_exactly_once(mask):
    count = np.zeros(mask.shape, int)
    for one in rectangles_of(mask):
        count += mask_of([one], *mask.shape)
    np.testing.assert_array_equal(count, mask)
