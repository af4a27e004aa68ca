import os

from hypothesis import given
from hypothesis import strategies as st

from pipeline.dicom.reading.paths import as_text, from_text


@given(st.binary(max_size=40).filter(lambda name: b"\0" not in name))
def test_every_path_of_a_file_system_comes_back(name):
    path = os.fsdecode(name)
    text = as_text(path)
    text.encode("utf-8")  # can be written anywhere
    assert from_text(text) == path


@given(st.text(alphabet=st.characters(exclude_characters="\\", exclude_categories=["Cs"])))
def test_ordinary_paths_are_not_changed(path):
    assert as_text(path) == path
