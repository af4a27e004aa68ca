"""Artefacts: what was written is what is read, whole or not at all, and identifiers in one place only."""

import os
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.artefacts import (
    read_document,
    read_parquet,
    read_table,
    replacing,
    write_document,
    write_parquet,
    write_parts,
    write_table,
)
from pipeline.core.errors import ArtefactError, PrivacyError
from pipeline.core.records import Estimate, Finding, FlowStep, Identified, Pair, PseudonymLink, Record

CANARY = "CANARY^NAME"


class Row(Record):
    """A row with every type that records use."""

    text: str
    number: int
    measure: float
    is_set: bool
    maybe: float | None = None
    maybe_flag: bool | None = None
    pair: Pair | None = None
    logits: tuple[float, ...]
    names: tuple[str, ...] = ()


class SecretRow(Identified):
    """A row that may identify."""

    patient_id: str


# Everything that UTF-8 can carry; a lone surrogate cannot be written to any text file.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.floats(allow_nan=False, allow_infinity=False)
rows = st.builds(
    Row,
    text=texts | st.sampled_from(["=1+1", "+x", "-", "@a", "'", "''=", "[1]", '"', "a\tb", "a\nb", "a\rb", "", " "]),
    number=st.integers(-(2**63), 2**63 - 1),
    measure=numbers,
    is_set=st.booleans(),
    maybe=st.none() | numbers,
    maybe_flag=st.none() | st.booleans(),
    pair=st.none() | st.tuples(numbers, numbers),
    logits=st.lists(numbers, max_size=4).map(tuple),
    names=st.lists(texts, max_size=3).map(tuple),
)
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@same_folder
@given(st.lists(rows, max_size=4))
def test_a_table_gives_back_what_was_written(tmp_path, written):
    write_table(tmp_path / "rows.tsv", Row, written)
    assert read_table(tmp_path / "rows.tsv", Row) == written


@same_folder
@given(rows)
def test_a_document_gives_back_what_was_written(tmp_path, written):
    write_document(tmp_path / "row.json", written)
    first = (tmp_path / "row.json").read_bytes()
    assert read_document(tmp_path / "row.json", Row) == written
    write_document(tmp_path / "row.json", written)
    assert (tmp_path / "row.json").read_bytes() == first


class Measured(Record):
    """A row of the kind that goes to Parquet."""

    name: str
    count: int
    is_set: bool | None
    pair: Pair | None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    st.lists(
        st.builds(
            Measured,
            name=texts,
            count=st.integers(-(2**63), 2**63 - 1),
            is_set=st.none() | st.booleans(),
            pair=st.none() | st.tuples(numbers, numbers),
        ),
        max_size=7,
    ),
    st.integers(1, 4),
)
def test_parquet_gives_back_what_was_written_whatever_the_batch(tmp_path, written, batch):
    path = tmp_path / "rows.parquet"
    write_parquet(path, Measured, written, batch=batch)
    assert list(read_parquet(path, Measured)) == written


def test_a_table_is_tab_separated_text_with_a_header(tmp_path):
    step = FlowStep(stage="split", unit="image", entered=5, excluded=2, left=3, produced_unit="image", produced=3)
    write_table(tmp_path / "flow.tsv", FlowStep, [step])
    text = (tmp_path / "flow.tsv").read_text(encoding="utf-8")
    assert text == "stage\tunit\tentered\texcluded\tleft\tproduced_unit\tproduced\nsplit\timage\t5\t2\t3\timage\t3\n"


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_no_cell_is_a_formula_to_a_spreadsheet(tmp_path, start):
    row = Row(text=f"{start}HYPERLINK(1)", number=1, measure=1, is_set=True, logits=())
    write_table(tmp_path / "rows.tsv", Row, [row])
    cell = (tmp_path / "rows.tsv").read_text(encoding="utf-8").splitlines()[1].split("\t")[0]
    assert not cell.startswith(start)


def test_a_failure_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "rows.tsv"
    good = Finding(stage="ingest", unit="file", unit_id="file-1", code="NOT_DICOM", severity="excluded")
    write_table(path, Finding, [good])

    def breaks_off():
        yield good
        message = "the disk of the archive has gone"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError):
        write_table(path, Finding, breaks_off())
    assert read_table(path, Finding) == [good]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.tsv"]


def test_a_place_that_cannot_be_written_is_an_error_for_the_user(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArtefactError, match="check the free disk space"):
        write_table(tmp_path / "file" / "rows.tsv", Finding, [])


def test_a_full_disk_is_an_error_for_the_user_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtefactError, match="No space left on device"):
        write_table(tmp_path / "rows.tsv", Finding, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [write_table, write_parquet], ids=["table", "parquet"])
def test_identifiers_are_refused_outside_the_restricted_folder(tmp_path, write):
    link = PseudonymLink(patient_id=CANARY, patient="P1", date_shift_days=3)
    for place in ("links", "restricted.tsv", "restrictedness/links.tsv"):
        with pytest.raises(PrivacyError) as caught:
            write(tmp_path / place, PseudonymLink, [link])
        assert CANARY not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "restricted" / "links", PseudonymLink, [link])


def test_a_subclass_of_identified_is_refused_too_and_documents_as_well(tmp_path):
    with pytest.raises(PrivacyError):
        write_document(tmp_path / "row.json", SecretRow(patient_id=CANARY))


def test_what_is_restricted_is_readable_by_its_owner_only(tmp_path):
    path = tmp_path / "restricted" / "links.tsv"
    write_table(path, PseudonymLink, [])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_table(tmp_path / "open.tsv", Finding, [])
    assert stat.S_IMODE((tmp_path / "open.tsv").stat().st_mode) & 0o400


def test_all_bad_rows_are_named_without_their_values(tmp_path):
    path = tmp_path / "flow.tsv"
    header = "stage\tunit\tentered\texcluded\tleft\tproduced_unit\tproduced\n"
    lines = [
        "split\timage\t5\t2\t3\timage\t3",  # right
        f"split\timage\t{CANARY}\t2\t3\timage\t3",  # no number
        "split\timage\t5\t2\t2\timage\t2",  # does not add up
        "split\timage\t5",  # too short
    ]
    path.write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ArtefactError) as caught:
        read_table(path, FlowStep)
    message = str(caught.value)
    assert "3 rows do not fit FlowStep" in message
    assert "line 3: entered" in message
    assert "line 4: " in message
    assert "5 entered, but 2 excluded + 2 left" in message
    assert "line 5: 3 cells where 7 were expected" in message
    assert CANARY not in message


@pytest.mark.parametrize("content", [b"", b"stage\tunit\n", b"\xff\xfe\x00", b"unit\tstage\n"])
def test_a_damaged_table_is_refused(tmp_path, content):
    (tmp_path / "rows.tsv").write_bytes(content)
    with pytest.raises(ArtefactError, match=r"rows\.tsv"):
        read_table(tmp_path / "rows.tsv", Finding)


def test_missing_files_are_errors_for_the_user(tmp_path):
    for read, kind in ((read_table, Finding), (read_document, Estimate)):
        with pytest.raises(ArtefactError, match=r"there is no such [\s\S]* run the study up to the stage"):
            read(tmp_path / "absent", kind)
        with pytest.raises(ArtefactError, match=r"\(Is a directory\)[\s\S]* run the stage that writes it again"):
            read(tmp_path, kind)
    with pytest.raises(ArtefactError, match="there is no such table"):
        list(read_parquet(tmp_path / "absent", Finding))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"{}"])
def test_damaged_parquet_and_documents_are_refused(tmp_path, content):
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(ArtefactError):
        list(read_parquet(path, Finding))
    with pytest.raises(ArtefactError):
        read_document(path, Finding)


def test_replacing_keeps_no_temporary_file(tmp_path):
    with replacing(tmp_path / "deep" / "file.bin") as temporary:
        temporary.write_bytes(b"content")
    assert (tmp_path / "deep" / "file.bin").read_bytes() == b"content"
    assert len(list((tmp_path / "deep").iterdir())) == 1


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_parts_make_a_file(tmp_path, monkeypatch, step):
    """A system may write less than it was given."""
    parts = [b"abc", b"", bytes(range(256)), memoryview(b"xyz")]
    plain = os.writev
    monkeypatch.setattr(os, "writev", lambda file, given: plain(file, [memoryview(b"".join(given))[:step]]))
    path = tmp_path / "new" / "deep" / "a.dcm"
    write_parts(path, parts)
    assert path.read_bytes() == b"".join(parts)
    assert [one.name for one in path.parent.iterdir()] == ["a.dcm"]
    write_parts(path, [b"other"])
    assert path.read_bytes() == b"other"


def test_parts_are_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "a.dcm"
    path.write_bytes(b"old")

    def full(_file, _parts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(ArtefactError, match="No space left"):
        write_parts(path, [b"new"])
    monkeypatch.setattr(os, "writev", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_parts(path, [b"new"])
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {"a.dcm": b"old"}
    with pytest.raises(ArtefactError):
        write_parts(path / "below", [b"new"])


def test_parts_in_a_closed_place_are_closed(tmp_path):
    umask = os.umask(0o022)
    try:
        for folder, mode in (("open", 0o644), ("restricted", 0o600)):
            write_parts(tmp_path / folder / "a", [b"x"])
            assert stat.S_IMODE((tmp_path / folder / "a").stat().st_mode) == mode
    finally:
        os.umask(umask)
