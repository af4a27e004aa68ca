"""The fast way gives what pydicom gives, or declines; pydicom is the authority."""

import random
import struct
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pipeline.core.records import Instance
from pipeline.dicom.reading import files, walker
from pipeline.dicom.reading.layouts import Layouts
from pipeline.dicom.reading.walker import DEEPEST_SEQUENCE, Header, HeadTooShortError, SequenceTooDeepError, walk
from pipeline.dicom.slices import headers
from pipeline.dicom.slices.headers import read_header
from tests.dicom.samples import SYNTAXES, ct, radiograph, raw_element, with_pixels, write
from tests.real_data import data_set

MODALITIES = ("CR", "CT", "MR", "PT", "DX", "MG", "US", "XA", "NM", "RF", "OT")
LARGEST_BYTES = 512_000_000
TAGS = (0x00080060, 0x00100020, 0x00280010, 0x00200032)


def look(path: Path) -> Instance | str:
    return read_header(path, path.name, modalities=MODALITIES, largest_bytes=LARGEST_BYTES)


def slowly(path: Path) -> Instance | str:
    """Look without the fast way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "walk", lambda _head, _tags: None)
        return look(path)


def was_walked(path: Path) -> bool:
    try:
        return walk(path.read_bytes(), headers._TAGS) is not None
    except HeadTooShortError:
        return False


def compare(folder: Path, least: float) -> None:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    for path in paths:
        assert look(path) == slowly(path), "the fast way and pydicom differ"
    walked = sum(was_walked(path) for path in paths if isinstance(slowly(path), Instance))
    accepted = sum(isinstance(look(path), Instance) for path in paths)
    assert walked >= least * accepted


@pytest.mark.slow
def test_phantom_images_are_read_the_same_way(cohort):
    compare(cohort.dicom, 0.5)


@pytest.mark.slow
def test_phantom_slices_are_read_the_same_way(volume_cohort):
    compare(volume_cohort.dicom, 0.5)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", ["dcm_qa_nih", "icometrix", "wg04", "pydicom_data"])
def test_real_files_are_read_the_same_way(name):
    compare(data_set(name), 0.4)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_syntax_is_read_the_same_way_or_left_to_pydicom(tmp_path, syntax):
    path = write(tmp_path / "a.dcm", with_pixels(ct()), syntax=syntax)
    assert look(path) == slowly(path)
    assert was_walked(path) == (syntax not in {"deflated", "big endian"})


def nested(depth: int, *, is_undefined: bool = True) -> Dataset:
    inner = Dataset()
    inner.CodeValue = "leaf"
    for _ in range(depth):
        outer = Dataset()
        inner.is_undefined_length_sequence_item = is_undefined
        outer.ConceptCodeSequence = Sequence([inner])
        outer["ConceptCodeSequence"].is_undefined_length = is_undefined
        inner = outer
    return inner


@pytest.mark.parametrize("syntax", ["explicit", "implicit"])
@pytest.mark.parametrize("is_undefined", [True, False])
def test_sequences_are_passed_over(tmp_path, syntax, is_undefined):
    dataset = with_pixels(ct())
    dataset.update(nested(5, is_undefined=is_undefined))
    path = write(tmp_path / "a.dcm", dataset, syntax=syntax)
    assert isinstance(look(path), Instance)
    assert look(path) == slowly(path)
    assert was_walked(path)


def deep_file(path: Path, depth: int, *, is_implicit: bool = False) -> Path:
    """Nest sequences of undefined length by bytes: pydicom itself cannot write so many."""
    write(path, with_pixels(radiograph()), syntax="implicit" if is_implicit else "explicit")
    start = struct.pack("<HHL", 0x0040, 0xA168, 0xFFFFFFFF) if is_implicit else b"\x40\0\x68\xa1SQ\0\0\xff\xff\xff\xff"
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ends = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    content = path.read_bytes()
    at = content.rindex(b"\xe0\x7f\x10\0")
    path.write_bytes(content[:at] + (start + item) * depth + ends * depth + content[at:])
    return path


@pytest.mark.parametrize("is_implicit", [False, True])
def test_nesting_has_a_limit(tmp_path, is_implicit):
    allowed = deep_file(tmp_path / "a.dcm", DEEPEST_SEQUENCE, is_implicit=is_implicit)
    assert isinstance(look(allowed), Instance)
    assert look(allowed) == slowly(allowed)
    for depth in (DEEPEST_SEQUENCE + 1, 400, 2000):
        path = deep_file(tmp_path / "b.dcm", depth, is_implicit=is_implicit)
        start = time.process_time()
        assert look(path) == "UNREADABLE_HEADER"
        assert time.process_time() - start < 1
        with pytest.raises(SequenceTooDeepError):
            walk(path.read_bytes(), TAGS)


def with_inserted(path: Path, extra: bytes, syntax: str = "explicit") -> Path:
    """Put bytes in front of Rows."""
    content = write(path, with_pixels(ct()), syntax=syntax).read_bytes()
    at = content.index(b"\x28\0\x10\0")
    path.write_bytes(content[:at] + extra + content[at:])
    return path


UNUSUAL = {
    "unknown representation": raw_element(0x0021, 0x1001, "ZZ", b"1234"),
    "other representation than the standard's": raw_element(0x0020, 0x0013, "LO", b"12"),
    "undefined length of unknown": b"\x21\0\x01\x10UN\0\0\xff\xff\xff\xff" + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0),
    "an end where nothing began": struct.pack("<HHL", 0xFFFE, 0xE00D, 0),
    "a control character": raw_element(0x0020, 0x1041, "DS", b"1\n"),
    "letters where numbers belong": raw_element(0x0020, 0x0013, "IS", b"1x"),
    "a half number": raw_element(0x0028, 0x0002, "US", b"123"),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_is_left_to_pydicom(tmp_path, name):
    path = with_inserted(tmp_path / "a.dcm", UNUSUAL[name])
    assert look(path) == slowly(path)
    tags = (*headers._TAGS, 0x00201041)
    assert walk(path.read_bytes(), tags) is None


@pytest.mark.parametrize(
    ("charset", "is_walked"),
    [("ISO_IR 100", True), ("ISO_IR 192", True), ("ISO_IR 144", False), (["", "ISO 2022 IR 87"], False)],
)
def test_character_sets(tmp_path, charset, is_walked):
    name = {"ISO_IR 144": "Больница", "ISO_IR 192": "Clinic 病院"}.get(charset if isinstance(charset, str) else "", "X")
    if charset == "ISO_IR 100":
        name = "Universitätsklinikum"
    dataset = with_pixels(
        radiograph(SpecificCharacterSet=charset, InstitutionName=name, PatientID="Ü-1" if name[0] == "U" else "1")
    )
    path = write(tmp_path / "a.dcm", dataset)
    found = look(path)
    assert isinstance(found, Instance)
    assert found.institution == name
    assert found == slowly(path)
    assert was_walked(path) == is_walked


def test_text_beyond_its_character_set_is_left_to_pydicom(tmp_path):
    path = write(tmp_path / "a.dcm", with_pixels(radiograph(InstitutionName="XXXX")))
    path.write_bytes(path.read_bytes().replace(b"XXXX", b"M\xfc\xe9r"))
    assert not was_walked(path)
    assert look(path) == slowly(path)


@pytest.mark.parametrize(("length", "syntax"), [(70_000, "explicit"), (300_000, "implicit"), (600_000, "explicit")])
def test_a_header_longer_than_what_is_read_first_is_read_on(tmp_path, monkeypatch, length, syntax):
    extra = raw_element(0x0021, 0x1001, "OB", bytes(length))
    if syntax == "implicit":
        extra = struct.pack("<HHL", 0x0021, 0x1001, length) + bytes(length)
    path = with_inserted(tmp_path / "a.dcm", extra, syntax)
    found = slowly(path)
    monkeypatch.setattr(headers, "read_elements", refuse)
    if length < files._LONGEST_HEAD_BYTES:
        assert look(path) == found
        assert isinstance(found, Instance)
    else:
        assert look(path) == "UNREADABLE_HEADER"  # the slow way was asked


def refuse(*_arguments):
    raise files.FileFault("UNREADABLE_HEADER")


def test_a_damaged_header_is_accepted_only_as_pydicom_accepts_it(tmp_path):
    """1 to 8 bytes of the header changed, 600 times; `tests/acceptance` goes on to whole volumes."""
    flips(tmp_path, seed=1, times=600)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
def test_many_damaged_headers_are_accepted_only_as_pydicom_accepts_them(tmp_path, seed):
    flips(tmp_path, seed=seed, times=2000)


def flips(folder: Path, *, seed: int, times: int) -> None:
    chance = random.Random(seed)
    dataset = with_pixels(ct(InstitutionName="Hospital", ImageType=["ORIGINAL", "PRIMARY"], InstanceNumber="5"))
    dataset.update(nested(2))
    for syntax in ("explicit", "implicit"):
        path = write(folder / f"{syntax}.dcm", dataset, syntax=syntax)
        content = path.read_bytes()
        header = content.rindex(b"\xe0\x7f\x10\0") + 12
        for _ in range(times // 2):
            damaged = bytearray(content)
            for _ in range(chance.choice((1, 1, 1, 2, 8))):
                damaged[chance.randrange(128, header)] = chance.choice((chance.randrange(256), 0, 32, 255))
            path.write_bytes(damaged)
            assert look(path) == slowly(path), f"seed {seed}"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 3000))
def test_a_cut_head_is_never_misread(tmp_path, cut):
    content = write(tmp_path / "a.dcm", with_pixels(ct())).read_bytes()
    try:
        found = walk(content[:cut], headers._TAGS)
    except HeadTooShortError:
        return
    assert found is None or vars_of(found) == vars_of(walk(content, headers._TAGS))


def vars_of(header: Header | None) -> object:
    return header and (dict(header), header.transfer_syntax_uid, header.end)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), syntax=st.sampled_from(["explicit", "implicit"]))
def test_what_was_learned_from_other_files_changes_nothing(tmp_path, seed, syntax):
    """Headers with random elements of random lengths, in turns, warm and cold."""
    chance = random.Random(seed)
    contents = []
    for _ in range(8):
        dataset = with_pixels(ct(InstanceNumber=str(chance.randrange(1000))))
        for keyword in ("StationName", "PatientComments", "InstitutionName", "SeriesDescription", "ProtocolName"):
            if chance.random() < 0.7:
                setattr(dataset, keyword, "x" * chance.randrange(16))
        contents.append(write(tmp_path / "a.dcm", dataset, syntax=syntax).read_bytes())
    cold = []
    for content in contents:
        walker._plan.cache_clear()
        cold.append(vars_of(walk(content, headers._TAGS)))
    order = list(range(8)) * 3
    chance.shuffle(order)
    for index in order:
        assert vars_of(walk(contents[index], headers._TAGS)) == cold[index]


def test_runs_are_shortened_where_files_differ_and_are_bounded(monkeypatch):
    monkeypatch.setattr("pipeline.dicom.reading.layouts._MOST_PIECES", 4)
    layouts = Layouts()
    for name in (b"a", b"b", b"c", b"d"):
        piece = walker.Piece(name * 8, 0, 4, None)
        layouts.learn([piece, walker.Piece(b"z" * 8, 12, 2, 7)])
        assert len(layouts._runs) <= 2
        found: dict[int, bytes] = {}
        assert layouts.leap(name * 8 + b"1234" + b"z" * 8 + b"56", 0, found) == 22
        assert found == {7: b"56"}
        assert layouts.leap(name * 8 + b"1234" + b"y" * 8 + b"56", 0, {}) == 12
        assert layouts.leap(name * 8 + b"1234", 0, {}) == 12
        assert layouts.leap(name * 8 + b"12", 0, {}) == 0


def test_headers_that_have_nothing_in_common_are_soon_not_learned_any_more():
    layouts = Layouts()
    for number in range(10_000):
        layouts.learn([walker.Piece(number.to_bytes(8, "little"), 0, 2, None)])
    before = dict(layouts._runs)
    assert 1_000 < len(before) < 5_000
    first = next(iter(before))
    for _ in range(20_000):
        layouts.leap(first + b"12", 0, {})
    layouts.learn([walker.Piece(b"the next", 0, 2, None)])
    assert layouts.knows(b"the next", 0)


def test_elements_are_asked_by_keyword_or_by_tag(tmp_path):
    header = walk(write(tmp_path / "a.dcm", with_pixels(ct())).read_bytes(), TAGS)
    assert header is not None
    assert header["Rows"] == header[0x00280010]
    assert 0x00280010 in header
    assert 0x00280011 not in header
    assert "Columns" not in header
