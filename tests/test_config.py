"""Configuration: complete, typed, and every error told at once with its line."""

import json
from contextlib import suppress
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import STAGES
from pipeline.config import Config, check, load, schema
from pipeline.core.errors import ConfigError
from pipeline.core.marked_yaml import read_yaml
from pipeline.core.mistakes import FORMS

ROOT = Path(__file__).resolve().parents[1]
STUDIES = [ROOT / "config" / "config.yaml", *sorted((ROOT / "config" / "examples").glob("*.yaml"))]
SMALL = """\
study: mine
ingest:
  source: data
label:
  table: labels.csv
  key: PatientID
  classes: [a, b]
"""


def write(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def errors_of(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value).replace(str(path), "study.yaml")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_that_come_along_are_right(path):
    assert isinstance(load(path), Config)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_schema_for_editors_accepts_what_the_models_accept(path):
    jsonschema.Draft202012Validator(schema()).validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_the_schema_refuses_unknown_keys_and_wrong_types():
    study = yaml.safe_load(SMALL)
    validator = jsonschema.Draft202012Validator(schema())
    assert validator.is_valid(study)
    assert not validator.is_valid({**study, "sede": 3})
    assert not validator.is_valid({**study, "split": {"folds": "five"}})
    assert not validator.is_valid({**study, "train": {"weights": "cocoa"}})


def test_the_built_in_study_names_every_key():
    """Whoever copies it sees all there is; only what belongs to another member of a choice may be absent."""
    written = yaml.safe_load(STUDIES[0].read_text(encoding="utf-8"))

    whole = json.loads(load(STUDIES[0]).model_dump_json())

    def keys(tree, prefix=""):
        for key, value in tree.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from keys(value, f"{prefix}{key}.")

    absent = set(keys(whole)) - set(keys(written))
    assert {key for key in absent if not key.startswith("train.weights.")} == set()  # a bare word stands for them


def test_all_errors_are_told_at_once_with_line_and_nearest_key(tmp_path):
    text = SMALL.replace("study: mine", "study: My Study") + "splt:\n  folds: 3\ntrain:\n  epoch: 3\n  batch_size: 1\n"
    message = errors_of(tmp_path, text)
    assert "4 errors" in message
    assert "study.yaml:1: `study`" in message
    assert "study.yaml:8: unknown key `splt`; did you mean `split`?" in message
    assert "study.yaml:11: unknown key `train.epoch`; did you mean `epochs`?" in message
    assert "study.yaml:12: `train.batch_size`" in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            SMALL.replace("[a, b]", "[0, 1]"),
            "study.yaml:7: `label.classes.0`: should be text; numbers, and words such as yes",
        ),
        (SMALL.replace("[a, b]", "[yes, no]"), 'need quotes here: "1", "yes"'),
        (SMALL.replace("[a, b]", "a"), "`label.classes`: should be a list, such as [one, another]"),
        (SMALL.replace("mine", "My Study"), "study.yaml:1: `study`: should be of small letters, digits, - and _"),
        (SMALL + "split: 3\n", "study.yaml:8: `split`: should be a section with keys of its own"),
        (SMALL + "evaluate: {operating_point: youden}\n", "`evaluate.operating_point`: should be a section"),
        (SMALL + "split: {folds: five}\n", "`split.folds`: should be a whole number"),
        (SMALL + "train: {balance_classes: 3}\n", "`train.balance_classes`: should be true or false"),
        (SMALL + "train: {devices: many}\n", "`train.devices`: should be a whole number"),
        (
            SMALL + "preprocess: {intensity: {kind: log}}\n",
            "`preprocess.intensity`: its `kind` should be one of `percentile`",
        ),
    ],
)
def test_mistakes_are_told_in_the_words_of_the_file(tmp_path, text, told):
    message = errors_of(tmp_path, text)
    assert told in message
    assert not any(word in message for word in ("tuple", "dictionary", "instance", "string", "pattern", "literal["))


def test_every_form_that_a_text_must_have_is_told_in_words():
    def patterns(tree):
        if isinstance(tree, dict):
            yield from (tree["pattern"] for _ in "p" if isinstance(tree.get("pattern"), str))
            tree = list(tree.values())
        if isinstance(tree, list):
            for one in tree:
                yield from patterns(one)

    assert set(patterns(schema())) == set(FORMS)


def test_values_that_suit_the_built_in_study_alone_are_marked():
    """Whoever copies the file sees which lines to change: on the line itself, or in the remark above it."""
    lines = STUDIES[0].read_text(encoding="utf-8").splitlines()
    written, places = read_yaml(STUDIES[0])
    plain = yaml.safe_load(SMALL)

    def changed(here, usual, prefix=()):
        for key, value in here.items():
            if isinstance(value, dict) and isinstance(usual.get(key), dict):
                yield from changed(value, usual[key], (*prefix, key))
            elif value != usual.get(key):
                yield *prefix, key

    def remark(key):
        at = places[key] - 1
        first = next(line for line in range(at, -1, -1) if line == 0 or not lines[line - 1].strip().startswith("#"))
        return "\n".join(lines[first : at + 1])

    whole = [json.loads(Config.model_validate(study).model_dump_json()) for study in (written, plain)]
    found = list(changed(*whole))
    assert ("preprocess", "size") in found
    for key in found:
        named = [key[:length] for length in range(1, len(key) + 1) if key[:length] in places]
        assert any("(*)" in remark(one) for one in named), ".".join(key)


def test_a_missing_key_is_named(tmp_path):
    message = errors_of(tmp_path, SMALL.replace("  key: PatientID\n", ""))
    assert "study.yaml:4: `label.key` is missing" in message


def test_a_key_of_another_member_of_a_choice_is_unknown(tmp_path):
    text = SMALL + "preprocess:\n  intensity:\n    kind: window\n    centre: 40\n    width: 400\n    low: 1\n"
    assert "study.yaml:13: unknown key `preprocess.intensity.low`" in errors_of(tmp_path, text)


FILE = SMALL + "train:\n  weights: {{source: file, file: w.pth, sha256: " + "a" * 64 + ", {}}}\n"


def test_the_mean_and_deviation_of_a_file_are_asked_for(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(FILE.format("mean: [0.5, 0.25, 0], deviation: [0.5, 0.5, 1]"))
    assert load(path).train.weights_choice.normalisation == ((0.5, 0.25, 0), (0.5, 0.5, 1), "range")
    path.write_text(FILE.format("licence: mine"))
    assert load(path).train.weights_choice.normalisation is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no keys"),
        ("- a\n- b\n", "holds no keys"),
        ("study: a\nstudy: b\n", "study.yaml:2: the key study stands twice (first on line 1)"),
        ("study: [a\n", "not valid YAML"),
        ("study: a\n\tb: c\n", "study.yaml:2: not valid YAML"),
        (SMALL + "train:\n  weights: {source: file}\n", "`train.weights`: source `file` needs `file` and `sha256`"),
        (SMALL + "train:\n  weights: run\n", "`train.weights`: source `run` needs `file`"),
        (SMALL + "train:\n  weights: radimagenet\n", "`train.weights`: source `radimagenet` needs `sha256`"),
        (
            SMALL + "train:\n  weights: {source: imagenet, mean: [0, 0, 0], deviation: [1, 1, 1]}\n",
            "`train.weights`: `mean` and `deviation` are those of a `file`; those of source `imagenet` are known",
        ),
        (
            FILE.format("mean: [0, 0, 0]"),
            "`train.weights`: `mean` and `deviation` belong together: give both or neither",
        ),
        (FILE.format("deviation: [1, 1, 0]"), "`train.weights.deviation.2`"),
        (FILE.format("mean: [123.7, 116.3, 103.5]"), "`train.weights.mean.0`"),
        (SMALL + "train:\n  weights: coco\n", "`train`: source `coco` has no resnet18; it has resnet50"),
        (
            SMALL + "train:\n  backbone: densenet121\n  volumes: {road: inflation}\n",
            "`train`: there is no densenet121 for volumes: the road `inflation` takes resnet18, resnet34",
        ),
        (
            SMALL + "train:\n  weights: medicalnet\n",
            "`train`: `medicalnet` holds networks for volumes: set train.volumes.road to inflation",
        ),
        (
            SMALL + "train:\n  volumes: {slices: 33}\n",
            "study.yaml: train.volumes.slices is 33, and preprocess.volume.slices is 32",
        ),
        (
            SMALL + "preprocess:\n  volume: {plane: sagittal}\ntrain:\n  augmentation: {flip: true}\n",
            "in the sagittal plane (preprocess.volume.plane) these are front and back: set flip to false",
        ),
        (SMALL.replace("[a, b]", "[a, a]"), "a class is listed twice"),
        (SMALL.replace("[a, b]", "[0, 1]"), "study.yaml:7: `label.classes.0`"),
        (SMALL + "train:\n  learning_rate: .nan\n", "`train.learning_rate`"),
        (SMALL + "seed: -1\n", "study.yaml:8: `seed`"),
    ],
)
def test_faults_become_errors_with_a_place(tmp_path, text, told):
    assert told in errors_of(tmp_path, text)


def test_a_missing_file_and_bytes_that_are_no_text(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "absent.yaml")
    path = tmp_path / "study.yaml"
    path.write_bytes(b"study: \xff\xfe\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(path)


def test_values_of_the_command_line_replace_those_of_the_file(tmp_path):
    path = write(tmp_path, SMALL)
    assert load(path, {"seed": 3}).seed == 3
    with pytest.raises(ConfigError, match="`seed`"):
        load(path, {"seed": "x"})


def test_medicalnet_leads_along_the_road_of_inflation(tmp_path):
    text = SMALL + "train:\n  weights: medicalnet\n  volumes: {road: inflation}\n"
    assert load(write(tmp_path, text)).train.dimensions == 3
    assert load(write(tmp_path, SMALL)).train.dimensions == 2


def test_a_bare_word_stands_for_the_source_of_weights(tmp_path):
    assert load(write(tmp_path, SMALL + "train:\n  weights: random\n")).train.weights.source == "random"


@pytest.mark.parametrize("stage", STAGES)
def test_equal_settings_give_equal_text(stage):
    config = load(STUDIES[0])
    text = config.section(stage)
    section = getattr(config, stage)
    assert type(section).model_validate_json(text) == section
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) == text


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "phantom"])
def test_writing_the_defaults_out_changes_no_text(tmp_path, stage):
    config = load(write(tmp_path, SMALL))
    written = yaml.safe_load(yaml.safe_dump(json.loads(config.model_dump_json())))
    assert check(written, {}, "written").section(stage) == config.section(stage)


def test_settings_are_frozen():
    config = load(STUDIES[0])
    with pytest.raises(ValueError, match="frozen"):
        config.train.epochs = 3


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(Config.model_fields)) | st.text(max_size=6), json_values, max_size=5))
def test_whatever_is_written_gives_a_configuration_or_a_clear_error(values):
    with suppress(ConfigError):
        assert isinstance(check(values, {}, "study.yaml"), Config)
