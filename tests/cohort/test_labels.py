import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cohort.labels import LabelRow, LabelTable, join_labels, read_label_table, resolve_labels
from pipeline.core.errors import CohortError
from tests.cohort.samples import RELAXED, image

CLASSES = ("no", "yes")


def written(tmp_path, content, name="labels.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(tmp_path, content, name="labels.csv", **columns):
    return read_label_table(written(tmp_path, content, name), **{"key": "PatientID", "column": "label", **columns})


def table(*rows, problems=()):
    """A table of (key, label) whose lines count from 2."""
    numbered = tuple(LabelRow(line, key, label) for line, (key, label) in enumerate(rows, start=2))
    return LabelTable("labels.csv", numbered, problems)


def codes(cohort):
    return [(finding.code, finding.unit, finding.unit_id, finding.severity) for finding in cohort.findings]


# reading


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "PatientID,label\np1,no\np2,yes\n"),
        ("labels.csv", "PatientID;label\r\np1;no\r\np2;yes\r\n"),
        ("labels.csv", "PatientID\tlabel\np1\tno\np2\tyes"),
        ("labels.tsv", "PatientID\tlabel\np1\tno\np2\tyes\n"),
        ("labels.txt", 'label, "PatientID"\n no , p1\n"yes",p2\n'.replace(', "P', ',"P')),
        ("labels.csv", b"\xef\xbb\xbfPatientID,label\np1,no\np2,yes\n"),
        ("labels.csv", "PatientID,note,label\np1,,no\np2,,yes\n"),
        ("labels.csv", "\n \nPatientID,label\n\np1,no\n,\n  p2  , yes \n\n"),
        ("labels.csv", "PatientID,label\rp1,no\rp2,yes\r"),
    ],
)
def test_usual_tables_are_read_alike(tmp_path, name, content):
    assert [(row.key, row.label) for row in read(tmp_path, content, name).rows] == [("p1", "no"), ("p2", "yes")]


cell = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)


@RELAXED
@given(rows=st.lists(st.tuples(cell.filter(str.strip), cell, cell), min_size=1), delimiter=st.sampled_from(",;\t"))
def test_every_cell_comes_back_stripped(tmp_path_factory, rows, delimiter):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("PatientID", "note", "label"), *rows])
    found = read(tmp_path_factory.mktemp("table"), stream.getvalue())
    assert [(row.key, row.label) for row in found.rows] == [(key.strip(), label.strip()) for key, _, label in rows]
    assert not found.problems


def test_line_numbers_count_lines_of_the_file(tmp_path):
    found = read(tmp_path, 'PatientID,note,label\n\np1,"two\nlines",no\np2,,yes\n')
    assert [(row.line, row.key) for row in found.rows] == [(3, "p1"), (5, "p2")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"PatientID,label\n", "no rows"),
        (b"PatientID,label\n,\n", "no rows"),
        ("PatientID,label\np1,no\n".encode("utf-16"), "UTF-16"),
        ("PatientID,label\np1,größer\n".encode("latin-1"), "labels.csv:2: the label table is not UTF-8"),
        (b"PatientID,label\np1,\0no\n", "zero bytes"),
        (b'PatientID,label\np1,"no\np2,yes\n', "labels.csv:2: a quotation mark is not closed"),
        (b"PatientID,label,label\np1,no,no\n", "stands 2 times"),
        (b"patient_id,label\np1,no\n", "no column `PatientID` (did you mean `patient_id`?)"),
        (b"PatientID,diagnosis\np1,no\n", "no column `label` (it has PatientID, diagnosis)"),
    ],
)
def test_unusable_tables_are_refused(tmp_path, content, expected):
    with pytest.raises(CohortError) as caught:
        read(tmp_path, content)
    assert expected in str(caught.value)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(CohortError, match="cannot be read"):
        read_label_table(tmp_path / "none.csv", key="PatientID", column="label")


def test_both_missing_columns_are_named_at_once_and_a_patients_row_is_not_repeated(tmp_path):
    with pytest.raises(CohortError) as caught:
        read(tmp_path, "CANARY^NAME,CANARY-LABEL,3\n")
    assert "`PatientID`" in str(caught.value)
    assert "`label`" in str(caught.value)
    assert "CANARY" not in str(caught.value)


def test_an_undecodable_table_does_not_travel_with_the_error(tmp_path):
    with pytest.raises(CohortError) as caught:
        read(tmp_path, b"PatientID,label\nCANARY,\xff\n")
    assert caught.value.__cause__ is None
    assert "CANARY" not in repr(caught.value)


# resolving


def test_all_problems_are_named_at_once_by_line_and_without_values(tmp_path):
    content = "PatientID,label\nCANARY1,no\nCANARY1,yes\nCANARY2,CANARYmaybe\nCANARY3\n,yes\nCANARY4,No\n"
    with pytest.raises(CohortError) as caught:
        resolve_labels(read(tmp_path, content), classes=CLASSES)
    message = str(caught.value)
    assert "5 problems" in message
    for expected in (
        "line 2: lines 2, 3 give one key 2 classes",
        "line 4: the class is not one of those configured",
        "line 5: 1 cells where the header has 2",
        "line 6: a label but nothing in the column `PatientID`",
        "line 7: the class is not one of those configured",
        "`no`, `yes`",
    ):
        assert expected in message
    assert "CANARY" not in message


def test_many_problems_are_shortened_but_counted():
    with pytest.raises(CohortError, match=r"(?s)300 problems.*line 21:.*and 280 more"):
        resolve_labels(table(*[(f"p{number}", "maybe") for number in range(300)]), classes=CLASSES)


def test_exclusion_as_configured():
    rows = table(("a", "no"), ("b", "no"), ("b", "yes"), ("c", "maybe"), ("d", "yes"), ("d", "maybe"), ("e", ""))
    keyed = resolve_labels(rows, classes=CLASSES, on_contradiction="exclude", on_unknown_class="exclude")
    assert keyed.labels == {"a": "no"}
    assert keyed.refused == {"b": "CONTRADICTORY_LABELS", "c": "UNKNOWN_LABEL", "d": "UNKNOWN_LABEL"}


def test_structural_problems_stop_whatever_is_configured():
    rows = table(("a", "no"), problems=((3, "2 cells where the header has 3"),))
    with pytest.raises(CohortError, match="line 3"):
        resolve_labels(rows, classes=CLASSES, on_contradiction="exclude", on_unknown_class="exclude")


def test_identical_rows_count_once_and_an_empty_label_says_nothing():
    keyed = resolve_labels(table(("a", "no"), ("a", "no"), ("a", ""), ("a", "no"), ("b", "yes")), classes=CLASSES)
    assert keyed.labels == {"a": "no", "b": "yes"}
    assert keyed.repeated == {"a": 2}


rows_of_labels = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["", "no", "yes", "maybe"])))


@RELAXED
@given(rows=rows_of_labels, order=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows, order):
    shuffled = list(rows)
    order.shuffle(shuffled)
    one, other = (
        resolve_labels(table(*some), classes=CLASSES, on_contradiction="exclude", on_unknown_class="exclude")
        for some in (rows, shuffled)
    )
    assert (one.labels, one.refused, one.repeated) == (other.labels, other.refused, other.repeated)


# joining


def joined(images, *rows, key="PatientID"):
    keyed = resolve_labels(table(*rows), classes=CLASSES, on_contradiction="exclude", on_unknown_class="exclude")
    return join_labels(images, keyed, key=key, classes=CLASSES)


IMAGES = [image("1", "a"), image("2", "a"), image("3", "b"), image("4", "c"), image("5", "d"), image("6", "e")]


def test_everything_that_does_not_fit_is_counted():
    rows = [("a", "no"), ("b", "yes"), ("b", "yes"), ("c", "no"), ("c", "yes"), ("d", "maybe"), ("x", "no")]
    cohort = joined(IMAGES, *rows)
    assert [(row.image_id, row.patient, row.label) for row in cohort.labels] == [
        ("1", "a", "no"),
        ("2", "a", "no"),
        ("3", "b", "yes"),
    ]
    assert codes(cohort) == [
        ("CONTRADICTORY_LABELS", "image", "4", "excluded"),
        ("UNKNOWN_LABEL", "image", "5", "excluded"),
        ("NO_LABEL", "image", "6", "excluded"),
        ("DUPLICATE_LABEL_ROW", "label", "b", "noted"),
        ("LABEL_WITHOUT_IMAGE", "label", "x", "noted"),
    ]


def test_a_patient_with_several_classes_is_noted_and_kept():
    cohort = joined(IMAGES[:2], ("1", "no"), ("2", "yes"), key="SOPInstanceUID")
    assert len(cohort.labels) == 2
    assert codes(cohort) == [("PATIENT_HAS_SEVERAL_CLASSES", "patient", "a", "noted")]


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("PatientID", ("a", "b")),
        ("StudyInstanceUID", ("study of 1", "study of 3")),
        ("SeriesInstanceUID", ("series of 1", "series of 3")),
        ("SOPInstanceUID", ("1", "3")),
    ],
)
def test_every_key_joins(key, names):
    cohort = joined([IMAGES[0], IMAGES[2]], (names[0], "no"), (names[1], "yes"), key=key)
    assert [(row.image_id, row.label) for row in cohort.labels] == [("1", "no"), ("3", "yes")]
    assert not cohort.findings


@RELAXED
@given(rows=rows_of_labels)
def test_no_image_is_lost(rows):
    whole = [*rows, ("y", "no"), ("z", "yes")]
    images = [*IMAGES, image("7", "y"), image("8", "z")]
    cohort = joined(images, *whole)
    left_out = [finding.unit_id for finding in cohort.findings if finding.severity == "excluded"]
    assert sorted([*left_out, *(row.image_id for row in cohort.labels)]) == [one.image_id for one in images]


def test_tables_of_another_study_are_refused_with_a_hint():
    with pytest.raises(CohortError, match=r"none of the 1 labelled keys .* 6 images(.|\n)*leading zeros"):
        joined(IMAGES, ("x", "no"))


def test_a_class_without_images_is_refused():
    with pytest.raises(CohortError, match="`no` 2, `yes` 0"):
        joined(IMAGES, ("a", "no"), ("x", "yes"))


def test_a_forgotten_class_is_told():
    with pytest.raises(CohortError, match="1 images have a class that is not configured"):
        joined(IMAGES, ("a", "no"), ("b", "maybe"))


def test_volumes_have_no_instance_key():
    volumes = [image("1", "a", sop_uid="", volume_file="1.nii")]
    with pytest.raises(CohortError, match="SeriesInstanceUID"):
        joined(volumes, ("1", "no"), key="SOPInstanceUID")


def test_no_images_at_all():
    with pytest.raises(CohortError, match="no images"):
        joined([], ("a", "no"))


def test_keys_do_not_show_in_representations():
    rows = table(("CANARY", "CANARY"))
    assert "CANARY" not in repr(rows)
    assert "CANARY" not in repr(resolve_labels(rows, classes=("CANARY", "other")))
    assert [row.key for row in rows.with_keys(str.lower).rows] == ["canary"]
