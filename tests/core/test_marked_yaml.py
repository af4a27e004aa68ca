"""YAML with lines: the plain values, and where each key stands."""

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import ConfigError
from pipeline.core.marked_yaml import read_yaml

TEXT = """\
# a remark
study: mine

train:
  epochs: 3
  compare:
    - probe
    - scratch
  weights: {source: file, file: a.pth}
"""


def read(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return read_yaml(path)


def test_values_and_lines(tmp_path):
    values, lines = read(tmp_path, TEXT)
    assert values == yaml.safe_load(TEXT)
    assert lines[("study",)] == 2
    assert lines[("train", "epochs")] == 5
    assert lines[("train", "compare", 1)] == 8
    assert lines[("train", "weights", "file")] == 9


keys = st.from_regex(r"[a-z]{1,5}", fullmatch=True).filter(lambda key: key not in {"y", "n", "no", "yes", "on", "off"})
trees = st.recursive(
    st.integers() | st.booleans(),
    lambda inner: st.dictionaries(keys, inner, max_size=3) | st.lists(inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.dictionaries(keys, trees, min_size=1, max_size=4))
def test_every_key_has_the_line_it_stands_on(tmp_path, tree):
    text = yaml.safe_dump(tree, default_flow_style=False)
    values, lines = read(tmp_path, text)
    assert values == tree
    written = text.splitlines()
    for path, line in lines.items():
        if isinstance(path[-1], str):
            assert f"{path[-1]}:" in written[line - 1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", ":3: the key a stands twice (first on line 1)"),
        ("a:\n  b: 1\n  b: 2\n", ":3: the key a.b stands twice"),
        ("a: [1\n", "not valid YAML"),
        ("a: 'x\n", "not valid YAML"),
        ("a: !!python/object:os.system x\n", "not valid YAML"),
        ("a: 1\nb: \x01\n", ":2: not valid YAML: a character that cannot be printed"),
        ("a: &here [*here]\n", "within themselves"),
        ("a: " + "[" * 5000 + "]" * 5000 + "\n", "too deeply"),
    ],
)
def test_faults_have_a_place(tmp_path, text, told):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert told in str(caught.value)


def test_a_file_that_cannot_be_read_is_told_with_the_reason(tmp_path):
    for path, reason in ((tmp_path / "absent.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=reason):
            read_yaml(path)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_bytes(b"\xef\xbb\xbfstudy: mine\n")
    assert read_yaml(path)[0] == {"study": "mine"}


def test_an_empty_file_holds_nothing(tmp_path):
    assert read(tmp_path, "") == (None, {})
