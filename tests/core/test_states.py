import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import ArtefactError
from pipeline.core.states import RESERVED, named, read_states, states_of, write_states

names = st.lists(
    st.text(st.characters(exclude_characters=RESERVED, exclude_categories=("Cs", "Cc")), min_size=1, max_size=9),
    min_size=1, max_size=6, unique=True,
)  # fmt: skip


@given(names=names, data=st.data())
def test_what_is_written_is_read_again(names, data):
    states = tuple(data.draw(st.sampled_from([1, 0, -1])) for _ in names)
    text = write_states(names, states)
    assert read_states(text, names) == states
    assert named(text) == tuple(names)


@pytest.mark.parametrize(
    "text", ["Effusion", "", "Effusion=1;Mass", "Effusion=2", "=1", "Effusion=1;", "Effusion = yes"]
)
def test_a_class_is_never_taken_for_findings(text):
    with pytest.raises(ArtefactError, match="no list of findings"):
        named(text)


@pytest.mark.parametrize("findings", [("Mass", "Effusion"), ("Effusion",), ("Effusion", "Mass", "Nodule")])
def test_other_findings_than_the_study_s_are_refused(findings):
    with pytest.raises(ArtefactError, match="study's findings") as caught:
        read_states("Effusion=1;Mass=0", findings)
    assert "Effusion=1" not in str(caught.value)


def test_many_labels_become_an_array():
    found = states_of(["A=1;B=?", "A=0;B=1", "A=1;B=?"], ("A", "B"))
    assert np.array_equal(found, [[1, -1], [0, 1], [1, -1]])
    assert states_of([], ("A", "B")).shape == (0, 2)
