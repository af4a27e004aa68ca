"""The command line: verbs from signatures, errors for users without a traceback, bugs without identifiers."""

import inspect
import stat
import subprocess
import sys
import types
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.cli import STAGES, main
from pipeline.config import BankSettings, SplitSettings
from pipeline.core.errors import CohortError
from pipeline.train_settings import TrainSettings

ROOT = Path(__file__).resolve().parents[1]
SECRET = "CANARY^NAME"


@pytest.fixture
def give_stage(monkeypatch):
    """Put a function in the place of a stage."""

    def give(function, name="split"):
        module = types.ModuleType(f"pipeline.stages.{name}")
        setattr(module, name, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(cli, "_summary", lambda _: "What it does.")

    return give


@pytest.fixture
def call(give_stage):
    """Run a verb of a stage that keeps what it was given."""
    seen = {}

    def split(
        *, settings: SplitSettings, seed: int, folds: Path, tables: tuple[Path, ...], note: str | None = None
    ) -> None:
        seen.update(settings=settings, seed=seed, folds=folds, tables=tables, note=note)

    def run(*words):
        give_stage(split)
        status = main(["split", *words])
        return status, seen

    return run


PLACES = ("--seed", "3", "--folds", "folds.tsv", "--tables", "a.tsv", "b.tsv")


def test_options_come_from_the_signature(call):
    status, seen = call("--settings", '{"folds": 3}', *PLACES)
    assert status == 0
    assert seen == {
        "settings": SplitSettings(folds=3),
        "seed": 3,
        "folds": Path("folds.tsv"),
        "tables": (Path("a.tsv"), Path("b.tsv")),
        "note": None,
    }


def test_settings_may_be_a_configuration_file(call):
    status, seen = call("--settings", str(ROOT / "config" / "config.yaml"), *PLACES)
    assert status == 0
    assert seen["settings"].folds == 5


@pytest.mark.parametrize(
    ("settings", "told"),
    [('{"folds": 1}', "folds: "), ('{"fold": 3}', "fold: "), ("{", "Invalid JSON"), ("absent.yaml", "cannot be read")],
)
def test_wrong_settings_are_an_error_for_the_user(call, capfd, settings, told):
    status, _ = call("--settings", settings, *PLACES)
    printed = capfd.readouterr().err
    assert status == 2
    assert told in printed
    assert "what to do" in printed
    assert "Traceback" not in printed


def test_an_error_for_the_user_has_no_traceback_and_reaches_the_log(give_stage, tmp_path, capfd):
    def split(*, seed: int) -> None:
        raise CohortError(f"{seed} patients are too few", where="folds.tsv", remedy="ask for fewer folds")

    give_stage(split)
    log = tmp_path / "logs" / "split.log"
    assert main(["split", "--seed", "3", "--log", str(log)]) == 2
    expected = "error in split: folds.tsv: 3 patients are too few\n  what to do: ask for fewer folds\n"
    assert capfd.readouterr().err == expected
    assert log.read_text(encoding="utf-8") == expected


def test_a_bug_shows_where_it_happened(give_stage, capfd):
    def split(*, seed: int) -> None:
        raise ZeroDivisionError(f"about {seed}")

    give_stage(split)
    assert main(["split", "--seed", "3"]) == 1
    printed = capfd.readouterr().err
    assert "about 3" in printed
    assert "this is a bug in split" in printed


def test_a_bug_near_identifiers_keeps_its_message_in_the_restricted_folder(give_stage, tmp_path, capfd):
    def ingest(*, source: Path, key: Path, instances: Path) -> None:
        raise ValueError(f"cannot parse {SECRET}")

    give_stage(ingest, "ingest")
    log = tmp_path / "ingest.log"
    archive = tmp_path / "archive" / "restricted" / "dicom"  # read only, whatever it is called
    closed = tmp_path / "restricted"
    closed.mkdir()
    (closed / "error-ingest.txt").write_text("of an earlier run")
    (closed / "error-ingest.txt").chmod(0o644)
    places = ("--source", str(archive), "--key", str(closed / "key"), "--instances", str(closed / "instances.parquet"))
    assert main(["ingest", *places, "--log", str(log)]) == 1
    assert not archive.parent.exists()
    printed = capfd.readouterr().err + log.read_text(encoding="utf-8")
    assert SECRET not in printed
    assert "ValueError" in printed
    kept = tmp_path / "restricted" / "error-ingest.txt"
    assert SECRET in kept.read_text(encoding="utf-8")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_without_a_restricted_folder_the_message_stands_beside_the_key(give_stage, tmp_path, capfd):
    def label(*, key: Path, labels: Path) -> None:
        raise ValueError(f"cannot parse {SECRET}")

    give_stage(label, "label")
    words = ("label", "--key", str(tmp_path / "keys" / "key"), "--labels", str(tmp_path / "labels.tsv"))
    assert main(words) == 1
    assert SECRET not in capfd.readouterr().err
    kept = tmp_path / "keys" / "error-label.txt"
    assert SECRET in kept.read_text(encoding="utf-8")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    kept.unlink()
    kept.symlink_to(tmp_path / "elsewhere")  # a link is not written through
    assert main(words) == 1
    assert "could not be kept" in capfd.readouterr().err
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", sorted(cli.SEES_IDENTIFIERS))
def test_every_stage_near_identifiers_has_a_place_for_messages(name):
    assert "key" in inspect.signature(cli._function(name, ())).parameters


def test_an_interruption_is_no_bug(give_stage, capfd):
    def split(*, seed: int) -> None:
        raise KeyboardInterrupt

    give_stage(split)
    assert main(["split", "--seed", "3"]) == 130
    assert capfd.readouterr().err == "split: interrupted\n"


def test_a_reader_that_has_seen_enough_is_no_bug():
    """As ``python -m pipeline weights list | head -1``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "weights", "list"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 141


@pytest.mark.parametrize("words", [[], ["unknown"], ["split"], ["split", "--seed", "x"]])
def test_a_wrong_command_is_explained(give_stage, capfd, words):
    def split(*, seed: int) -> None:
        """Do nothing."""

    give_stage(split)
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: python -m pipeline" in capfd.readouterr().err


def test_help_lists_every_verb_in_the_order_of_a_study(capfd):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    printed = capfd.readouterr().out
    places = [printed.index(f"\n    {word}") for word in (*STAGES, *cli.OTHER_VERBS)]
    assert places == sorted(places)


@pytest.mark.parametrize("word", [*STAGES, *cli.OTHER_VERBS])
def test_every_verb_explains_every_option(capfd, word):
    with pytest.raises(SystemExit) as caught:
        main([word, "--help"])
    assert caught.value.code == 0
    printed = capfd.readouterr().out
    assert ("--settings" in printed) == (word in STAGES)
    function = cli._function(word, ())
    known = {*cli._notes(function), "settings"}
    assert set(inspect.signature(function).parameters) <= known


def test_defaults_are_told_once(capfd):
    with pytest.raises(SystemExit):
        main(["wrap", "--help"])
    printed = " ".join(capfd.readouterr().out.split())
    assert "below the folder. (default: file)" in printed
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    assert capfd.readouterr().out.count("default") == 1


def test_the_way_without_a_study_stands_in_the_usage(capfd):
    with pytest.raises(SystemExit):
        main(["deidentify"])
    assert "without a study: python -m pipeline deidentify --input FOLDER --output FOLDER" in capfd.readouterr().err


def test_settings_of_another_stage_come_from_their_own_section(give_stage):
    seen = {}

    def bank(*, settings: BankSettings, train: TrainSettings) -> None:
        seen.update(settings=settings, train=train)

    give_stage(bank, "bank")
    file = str(ROOT / "config" / "config.yaml")
    assert main(["bank", "--settings", file, "--train", file]) == 0
    assert (type(seen["settings"]), type(seen["train"])) == (BankSettings, TrainSettings)
    assert main(["bank", "--settings", "{}", "--train", "{"]) == 2
