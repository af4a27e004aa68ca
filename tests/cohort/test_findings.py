import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cohort.findings import Columns, Listing, count_states, join_findings, read_finding_table, resolve_findings
from pipeline.core.errors import CohortError
from pipeline.core.states import read_states, write_states
from tests.cohort.samples import RELAXED, image

NAMES = ("Effusion", "Mass")
LIST = Listing(NAMES, "|", ("No Finding",), ("Hernia",))
COLUMNS = Columns(NAMES, ("1", "1.0"), ("0", "0.0"), ("",))
LISTED = """Image Index,PatientID,Finding Labels
1.png,p1,Effusion
2.png,p2,Mass|Hernia
3.png,p3,No Finding
4.png,p4,Mass | Effusion
5.png,p5,
6.png,p6,Hernia
"""
IN_COLUMNS = """PatientID,Mass,Sex,Effusion,No Finding
p1,0,F,1,
p2,1.0,M,0,
p3,0,F,0.0,1
p4,1,M,1,
p5,,F,,
p6,0,M,,
"""


def read(tmp_path, content, layout=LIST, column="Finding Labels"):
    path = tmp_path / "labels.csv"
    path.write_text(content)
    return read_finding_table(path, key="PatientID", column=column, layout=layout)


def resolved(tmp_path, content, layout=LIST, **policy):
    return resolve_findings(read(tmp_path, content, layout), **policy)


def test_a_list_in_a_cell_names_what_is_present(tmp_path):
    assert resolved(tmp_path, LISTED).labels == {
        "p1": "Effusion=1;Mass=0",
        "p2": "Effusion=0;Mass=1",
        "p3": "Effusion=0;Mass=0",
        "p4": "Effusion=1;Mass=1",
        "p6": "Effusion=0;Mass=0",  # another finding, which the study does not ask for
    }  # and an empty cell says nothing


def test_columns_may_leave_findings_unknown(tmp_path):
    assert resolved(tmp_path, IN_COLUMNS, COLUMNS).labels == {
        "p1": "Effusion=1;Mass=0",
        "p2": "Effusion=0;Mass=1",
        "p3": "Effusion=0;Mass=0",
        "p4": "Effusion=1;Mass=1",
        "p6": "Effusion=?;Mass=0",
    }


def test_an_empty_cell_is_absent_only_if_the_configuration_says_so(tmp_path):
    layout = Columns(NAMES, ("1", "1.0"), ("0", "0.0", ""), ())
    assert resolved(tmp_path, IN_COLUMNS, layout).labels["p5"] == "Effusion=0;Mass=0"


@RELAXED
@given(rows=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_both_styles_of_one_truth_give_the_same_labels(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("both")
    cells = ["|".join(name for name, is_there in zip(NAMES, row, strict=True) if is_there) for row in rows]
    listed = "PatientID,Finding Labels\n" + "".join(f"p{n},{cell or 'No Finding'}\n" for n, cell in enumerate(cells))
    columns = "PatientID,Effusion,Mass\n" + "".join(f"p{n},{int(a)},{int(b)}\n" for n, (a, b) in enumerate(rows))
    assert resolved(folder, listed).labels == resolved(folder, columns, COLUMNS).labels


@RELAXED
@given(
    order=st.permutations(NAMES), rows=st.lists(st.sampled_from(["1,0", "0,1", "1,1", "0,", ",1", "0,0"]), min_size=1)
)
def test_permuting_the_findings_permutes_the_states(tmp_path_factory, order, rows):
    folder = tmp_path_factory.mktemp("order")
    content = "PatientID,Effusion,Mass\n" + "".join(f"p{number},{row}\n" for number, row in enumerate(rows))
    plain = resolved(folder, content, COLUMNS).labels
    other = resolved(folder, content, Columns(tuple(order), COLUMNS.present, COLUMNS.absent, COLUMNS.unknown)).labels
    for key, text in plain.items():
        state_of = dict(zip(NAMES, read_states(text, NAMES), strict=True))
        assert other[key] == write_states(order, [state_of[name] for name in order])


def test_rows_of_one_key_complete_each_other(tmp_path):
    content = "PatientID,Effusion,Mass\np1,1,\np1,,0\np1,,0\n"
    found = resolved(tmp_path, content, COLUMNS)
    assert found.labels == {"p1": "Effusion=1;Mass=0"}
    assert found.repeated == {"p1": 1}


FAULTY = {
    "an unlisted word": ("p1,Effusion\np2,effusion\n", "line 3: a word that is not configured", "UNKNOWN_LABEL"),
    "none and a finding": ("p1,Mass\np2,Mass|No Finding\n", "together with a word for none", "CONTRADICTORY_LABELS"),
    "two rows": ("p1,Mass\np2,Mass\np2,No Finding\n", "lines 3, 4 say of one key that `Mass`", "CONTRADICTORY_LABELS"),
}


@pytest.mark.parametrize("case", FAULTY)
def test_what_cannot_be_used_stops_the_study_or_is_counted(tmp_path, case):
    rows, message, code = FAULTY[case]
    content = f"PatientID,Finding Labels\n{rows}".replace("p2", "CANARY-2")
    with pytest.raises(CohortError, match=message) as caught:
        resolved(tmp_path, content)
    assert "CANARY" not in str(caught.value)
    found = resolved(tmp_path, content, on_contradiction="exclude", on_unknown_class="exclude")
    assert found.refused == {"CANARY-2": code}
    assert set(found.labels) == {"p1"}


@pytest.mark.parametrize("cell", ["CANARY", "2", "-1", "yes"])
def test_a_cell_that_means_nothing_is_not_guessed(tmp_path, cell):
    content = f"PatientID,Effusion,Mass\np1,1,0\np2,{cell},0\n"
    with pytest.raises(CohortError, match="line 3: a word that is not configured") as caught:
        resolved(tmp_path, content, COLUMNS)
    assert "CANARY" not in str(caught.value)
    assert "CANARY" not in repr(read(tmp_path, content, COLUMNS))


def test_a_missing_column_is_told_with_the_key_to_set(tmp_path):
    with pytest.raises(CohortError, match=r"`Mass`.*\n.*label\.findings\.names"):
        read(tmp_path, "PatientID,Effusion\np1,1\n", COLUMNS)
    with pytest.raises(CohortError, match=r"(?s)`Finding Labels`.*label\.column"):
        read(tmp_path, "PatientID,finding\np1,Mass\n")


def joined(tmp_path, content, layout=LIST):
    patients = sorted({line.partition(",")[0] for line in content.splitlines()[1:]})
    images = [image(f"image of {name}", name) for name in patients]
    return join_findings(images, resolved(tmp_path, content, layout), key="PatientID", names=NAMES)


def test_images_get_their_findings_and_those_without_are_counted(tmp_path):
    cohort = joined(tmp_path, "PatientID,Finding Labels\np1,Effusion\np2,Mass\np3,No Finding\np4,\n")
    assert [row.label for row in cohort.labels] == ["Effusion=1;Mass=0", "Effusion=0;Mass=1", "Effusion=0;Mass=0"]
    assert [finding.code for finding in cohort.findings] == ["NO_LABEL"]
    counts = count_states(cohort.labels, NAMES)
    assert (counts["Mass"][1], counts["Mass"][0], counts["Mass"][-1]) == (1, 2, 0)


@pytest.mark.parametrize(
    "rows", ["p1,1,\np2,0,\np3,1,\n", "p1,1,0\np2,0,0\n", "p1,1,1\np2,0,1\np3,,1\n"],
    ids=["unknown everywhere", "nowhere present", "nowhere absent"],
)  # fmt: skip
def test_a_finding_that_cannot_be_learned_stops_the_study(tmp_path, rows):
    with pytest.raises(CohortError, match="`Mass` present in"):
        joined(tmp_path, f"PatientID,Effusion,Mass\n{rows}", COLUMNS)


def test_every_combination_of_states_survives_the_table(tmp_path):
    cells = {1: "1", 0: "0", -1: ""}
    states = [pair for pair in itertools.product(cells, repeat=2) if set(pair) != {-1}]
    rows = "".join(f"p{n},{cells[a]},{cells[b]}\n" for n, (a, b) in enumerate(states))
    found = resolved(tmp_path, f"PatientID,Effusion,Mass\n{rows}", COLUMNS).labels
    assert [read_states(text, NAMES) for text in found.values()] == states
