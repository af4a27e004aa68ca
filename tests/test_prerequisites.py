"""What a study needs before any work."""

import hashlib
import traceback
from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.core.errors import ConfigError
from pipeline.prerequisites import choose_file, require

SECRET = "CANARY^NAME"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with images, labels and a weights file, as the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels.csv").write_text(f"PatientID,label\n{SECRET},a\nother,b\n", encoding="utf-8")
    (tmp_path / "net.pth").write_bytes(b"weights")
    return tmp_path


def study(source="images", table="labels.csv", weights="random", phantom=None):
    return Config.model_validate(
        {
            "study": "mine",
            "phantom": phantom,
            "ingest": {"source": source},
            "label": {"table": table, "key": "PatientID", "classes": ["a", "b"]},
            "train": {"weights": weights},
        }
    )


def message_of(config):
    with pytest.raises(ConfigError) as caught:
        require(config)
    return str(caught.value)


@pytest.mark.usefixtures("place")
def test_a_study_with_everything_at_hand_may_start():
    require(study())
    digest = hashlib.sha256(b"weights").hexdigest()
    require(study(weights={"source": "file", "file": "net.pth", "sha256": digest}))
    require(study("data/phantom/dicom", "data/phantom/labels.csv", phantom={}))


@pytest.mark.usefixtures("place")
def test_everything_missing_is_told_at_once():
    message = message_of(study("nowhere", "none.csv", {"source": "file", "file": "net.pth", "sha256": "0" * 64}))
    assert message.startswith("study mine cannot start")
    assert "ingest.source: there is no folder nowhere" in message
    assert "label.table: there is no file none.csv" in message
    assert "train.weights: net.pth" in message
    assert message.count("what to do") == 3


@pytest.mark.usefixtures("place")
def test_paths_that_may_not_be_looked_up_are_told_and_no_bug():
    """As behind a folder that may not be entered; a name that is too long is refused to the superuser as well."""
    closed = "x" * 300
    message = message_of(study(closed, closed, {"source": "run", "file": closed}))
    assert f"ingest.source: {closed} cannot be looked up" in message
    assert f"label.table: {closed} cannot be looked up" in message
    assert f"train.weights: {closed}: the weights file cannot be looked up" in message
    assert message.count("permission") == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "label.table: labels.csv: the label table is empty"),
        ("patient,label\nx,a\n", "has no column `PatientID`"),
        ("PatientID,diagnosis\nx,a\n", "no column `label`"),
        (f"PatientID,label\n{SECRET},c\n", "line 2: the class is not one of those configured"),
        (f"PatientID,label\n{SECRET},a\n{SECRET},b\n", "lines 2, 3 give one key 2 classes"),
    ],
)
def test_the_table_of_labels_is_read_before_any_work(place, text, told):
    (place / "labels.csv").write_text(text, encoding="utf-8")
    message = message_of(study())
    assert told in message
    assert "what to do" in message
    assert SECRET not in message


@pytest.mark.usefixtures("place")
def test_a_bug_in_reading_the_table_repeats_nothing(monkeypatch):
    def stumble(*_, **__):
        raise ValueError(SECRET)

    monkeypatch.setattr("pipeline.prerequisites.resolve_labels", stumble)
    with pytest.raises(RuntimeError) as caught:
        require(study())
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("findings", "told"),
    [
        ({"style": "list", "names": ["Mass"]}, "line 3: "),
        ({"style": "list", "names": ["Mass"], "others": ["Edema"]}, None),
        ({"style": "columns", "names": ["Mass"]}, "no column `Mass`"),
    ],
)
def test_findings_are_read_before_any_work(place, findings, told):
    (place / "labels.csv").write_text(f"PatientID,label\nx,Mass\n{SECRET},Mass|Edema\n", encoding="utf-8")
    config = study()
    changed = {**config.label.model_dump(), "classes": [], "findings": findings}
    config = Config.model_validate({**config.model_dump(), "label": changed})
    if told is None:
        require(config)
    else:
        message = message_of(config)
        assert told in message
        assert SECRET not in message


def test_what_the_stage_leaves_out_and_counts_is_no_error_here(place):
    (place / "labels.csv").write_text("PatientID,label\nx,c\ny,a\ny,b\n", encoding="utf-8")
    config = study()
    changed = {**config.label.model_dump(), "on_contradiction": "exclude", "on_unknown_class": "exclude"}
    require(Config.model_validate({**config.model_dump(), "label": changed}))


@pytest.mark.usefixtures("place")
def test_a_key_is_named_once(monkeypatch):
    monkeypatch.setenv("TORCH_HOME", "none")
    assert "train.weights: the weights file was found neither" in message_of(study(weights="imagenet"))


@pytest.mark.parametrize("source", [".", "results", "results/mine/dicom", ".."])
def test_a_source_that_holds_the_results_is_refused(place, source):
    """The study would read its own output; de-identified copies would come back as new patients."""
    (place / source).mkdir(parents=True, exist_ok=True)
    assert "lie within one another" in message_of(study(source))


def test_a_link_to_the_results_is_refused_too(place):
    (place / "results").mkdir()
    (place / "archive").symlink_to("results")
    assert "lie within one another" in message_of(study("archive"))


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("source", "table"), [("images", "data/phantom/labels.csv"), ("data/phantom/dicom", "labels.csv")]
)
def test_the_generator_and_data_of_ones_own_do_not_mix(source, table):
    assert "the section `phantom` makes" in message_of(study(source, table, phantom={}))


def test_one_file_is_chosen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    built_in = tmp_path / "config" / "config.yaml"
    assert choose_file([], built_in) == Path("config/config.yaml")
    assert choose_file([tmp_path / "a.yaml"], built_in) == Path("a.yaml")
    assert choose_file([Path("/elsewhere/a.yaml")], built_in) == Path("/elsewhere/a.yaml")
    with pytest.raises(ConfigError, match="2 configuration files"):
        choose_file([tmp_path / "a.yaml", tmp_path / "b.yaml"], built_in)
