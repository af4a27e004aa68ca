"""The workflow: what a change runs again, what is an error before any work, what is never taken as current."""

import gc
import hashlib
import shutil
from pathlib import Path

import pytest
import yaml
from snakemake.api import SnakemakeApi
from snakemake.exceptions import WorkflowError
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, Quietness, ResourceSettings

from pipeline.cli import STAGES
from pipeline.core import provenance
from pipeline.learning.loop.checkpoints import write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")  # of Snakemake's own code

ROOT = Path(__file__).resolve().parents[1]
# Who reads what a stage wrote. Written down here and not taken from the workflow, so that the two can disagree.
READERS = {
    "phantom": {"ingest", "label"},
    "ingest": {"deidentify", "evaluate"},
    "deidentify": {"check_quality", "preprocess", "evaluate"},
    "check_quality": {"preprocess", "evaluate"},
    "preprocess": {"label", "split", "bank", "train", "evaluate"},
    "label": {"split", "evaluate"},
    "split": {"train", "evaluate"},
    "bank": {"train"},
    "train": {"evaluate"},
    "evaluate": {"report"},
    "report": set(),
}
# One change for each section of the configuration.
CHANGES = {
    "phantom": {"patients": 150},
    "ingest": {"max_instance_mb": 100},
    "deidentify": {"max_date_shift_days": 400},
    "check_quality": {"min_size": 32},
    "preprocess": {"size": 64},
    "label": {"on_unknown_class": "exclude"},
    "split": {"max_hash_distance": 3},
    "bank": {"views": 3},
    "train": {"epochs": 3},
    "evaluate": {"bootstrap_replicates": 500},
    "report": {"title": "Another title"},
}
FOLDS = 2
# The built-in study starts from random weights and has no bank. Any file will do: nothing but its digest is read.
WEIGHTS = ROOT / "pyproject.toml"


@pytest.fixture(autouse=True)
def _snakemake_is_gone():
    """Let the remains of a workflow be collected here, where its warnings are ignored, and not in another test."""
    yield
    gc.collect()


def with_descendants(stages):
    reached, waiting = set(), list(stages)
    while waiting:
        stage = waiting.pop()
        if stage not in reached:
            reached.add(stage)
            waiting.extend(READERS[stage])
    return reached


def open_workflow(api, folder, config, **overrides):
    return api.workflow(
        resource_settings=ResourceSettings(cores=2),
        config_settings=ConfigSettings(configfiles=[config], config=overrides),
        snakefile=ROOT / "Snakefile",
        workdir=folder,
    )


def planned(folder, config, **overrides):
    """The rules that Snakemake would run now, without ``all``."""
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = open_workflow(api, folder, config, **overrides)
        workflow.dag(DAGSettings()).execute_workflow(executor="dryrun")
        jobs = list(workflow._workflow.dag.needrun_jobs(exclude_finished=False))
    return {job.rule.name for job in jobs} - {"all"}


def outputs(folder, config):
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = open_workflow(api, folder, config)
        workflow.dag(DAGSettings()).execute_workflow(executor="dryrun")
        return [(Path(file), file.is_directory) for job in workflow._workflow.dag.jobs for file in job.output]


def write_study(folder, **sections):
    study = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    study["split"]["folds"] = FOLDS
    study["train"]["compare"] = ["probe"]  # which reads the bank
    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    study["train"]["weights"] = {"source": "file", "file": str(WEIGHTS), "sha256": digest}
    for name, values in sections.items():
        study[name].update(values)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which every job has been marked as done; its outputs are empty files."""
    folder = tmp_path_factory.mktemp("finished")
    finish(folder, write_study(folder))
    return folder


def finish(folder, config):
    for path, is_directory in outputs(folder, config):
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(exist_ok=True) if is_directory else place.touch()
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = open_workflow(api, folder, config)
        workflow.dag(DAGSettings(forceall=True)).execute_workflow(executor="touch")


@pytest.fixture
def study(finished, tmp_path):
    """A finished study of the test's own."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True, symlinks=True)
    return tmp_path


@pytest.fixture
def package(tmp_path_factory, monkeypatch):
    """A copy of the code that a test may edit; fingerprints are taken from it."""
    copy = tmp_path_factory.mktemp("code") / "pipeline"
    shutil.copytree(ROOT / "pipeline", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE_FOLDER", copy)
    forget_sources()
    yield copy
    forget_sources()


def forget_sources():
    for cached in (provenance._source, provenance._code_digest, provenance._imports):
        cached.cache_clear()


def edit(path, addition):
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{addition}\n", encoding="utf-8")
    forget_sources()


def test_every_stage_has_a_change_and_its_readers():
    assert set(READERS) == set(CHANGES) == set(STAGES)


def test_nothing_to_do_when_nothing_changed(study):
    assert planned(study, study / "study.yaml") == set()


@pytest.mark.parametrize("section", STAGES)
def test_a_change_of_a_section_runs_its_stage_and_its_descendants(study, section):
    config = write_study(study, **{section: CHANGES[section]})
    assert planned(study, config) == with_descendants({section})


def test_a_change_of_the_seed_runs_what_is_random(study):
    assert planned(study, study / "study.yaml", seed=7) == with_descendants({"split", "bank", "train", "evaluate"})


@pytest.mark.parametrize("stage", STAGES)
def test_a_change_of_a_stages_code_runs_it_and_its_descendants(study, package, stage):
    edit(package / "stages" / f"{stage}.py", "EDITED = True")
    assert planned(study, study / "study.yaml") == with_descendants({stage})


def test_a_change_of_a_library_runs_the_stages_that_use_it(study, package):
    edit(package / "learning" / "loop" / "finetuning.py", "EDITED = True")
    assert planned(study, study / "study.yaml") == with_descendants({"train"})


@pytest.mark.parametrize("path", ["config.py", "cli.py", "prerequisites.py", "doctor.py"])
def test_code_that_makes_no_result_runs_nothing(study, package, path):
    edit(package / path, "EDITED = True")
    assert planned(study, study / "study.yaml") == set()


def test_comments_and_docstrings_run_nothing(study, package):
    for path in package.rglob("*.py"):
        edit(path, "# a remark")
    assert planned(study, study / "study.yaml") == set()


def test_writing_a_default_out_runs_nothing(study):
    config = write_study(study, evaluate={"confidence": 0.95, "operating_point": {"kind": "sensitivity"}})
    assert planned(study, config) == set()


def test_another_checkpoint_as_source_runs_what_was_made_from_it(study):
    """The digest of a run's checkpoint need not be named; Snakemake looks at its content."""
    source = study / "checkpoint.safetensors"
    facts = {"head_blocks": ["layer4"], "backbone": "resnet18", "classes": ["a", "b"], "weights_source": "random"}
    facts |= {"weights_sha256": "", "weights_licence": "", "normalisation": {"mean": [0.5], "deviation": [0.5]}}
    write_checkpoint(source, {}, facts)
    config = write_study(study, train={"weights": {"source": "run", "file": str(source)}})
    finish(study, config)
    assert planned(study, config) == set()
    write_checkpoint(source, {}, {**facts, "seed": 2})
    assert planned(study, config) == with_descendants({"bank", "train"})


def add_below(source):
    (source / "a" / "b" / "new.dcm").write_bytes(b"new")


def change_in_place(source):
    (source / "a" / "b" / "old.dcm").write_bytes(b"other bytes")


def move(source):
    (source / "a" / "b" / "old.dcm").rename(source / "a" / "b" / "moved.dcm")


@pytest.mark.parametrize("change", [None, add_below, change_in_place, move])
def test_a_change_deep_below_the_source_runs_everything_made_from_it(tmp_path, change):
    source = tmp_path / "data" / "own"
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "old.dcm").write_bytes(b"old")
    (tmp_path / "labels.csv").write_text("StudyInstanceUID,label\n1.2.3,normal\n", encoding="utf-8")
    study = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    study.pop("phantom")
    study["ingest"]["source"] = "data/own"
    study["label"]["table"] = "labels.csv"
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump(study), encoding="utf-8")
    finish(tmp_path, config)
    assert planned(tmp_path, config) == set()
    if change is not None:
        before = (source.stat().st_mtime_ns, (source / "a").stat().st_mtime_ns)
        change(source)
        assert (source.stat().st_mtime_ns, (source / "a").stat().st_mtime_ns) == before
        assert planned(tmp_path, config) == with_descendants({"ingest"}) - {"bank"}  # no strategy reads it


@pytest.mark.parametrize(
    "name", ["folds.tsv", "images/pixels.npy", "restricted/instances.parquet", "folds/1/history.tsv"]
)
def test_a_result_whose_inputs_have_gone_is_not_current(study, name):
    """A job that fails takes its outputs away; the old report must not pass for up to date then."""
    gone = study / "results" / "phantom" / name
    gone.unlink()
    assert "report" in planned(study, study / "study.yaml")


def test_the_key_and_the_training_state_are_no_outputs(finished):
    declared = [str(path) for path, _ in outputs(finished, finished / "study.yaml")]
    for kept in ("results/phantom/restricted/key", "results/phantom/state"):
        assert not [path for path in declared if kept == path or f"{kept}/".startswith(f"{path}/")]


def test_no_input_of_a_job_is_a_file_of_the_source(finished):
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = open_workflow(api, finished, finished / "study.yaml")
        workflow.dag(DAGSettings()).execute_workflow(executor="dryrun")
        inputs = {str(file) for job in workflow._workflow.dag.jobs for file in job.input}
    assert not [path for path in inputs if path.startswith("data/phantom/")]


def test_a_bad_configuration_is_told_whole_and_before_any_work(tmp_path):
    config = write_study(tmp_path, train={"epochs": 0, "epoch": 3}, label={"key": "Name"})
    with pytest.raises(WorkflowError) as caught:
        planned(tmp_path, config)
    message = str(caught.value)
    assert message.startswith("study.yaml: 3 errors in the configuration")
    for part in ("`train.epochs`", "unknown key `train.epoch`; did you mean `epochs`?", "`label.key`"):
        assert part in message
    assert not (tmp_path / "results").exists()


def test_missing_inputs_are_told_at_once_and_before_any_work(tmp_path):
    config = tmp_path / "study.yaml"
    text = (ROOT / "config" / "examples" / "cxr_nih.yaml").read_text(encoding="utf-8")
    config.write_text(text, encoding="utf-8")
    with pytest.raises(WorkflowError) as caught:
        planned(tmp_path, config)
    for part in ("ingest.source", "label.table", "train.weights"):
        assert part in str(caught.value)


def test_a_study_of_ones_own_is_not_merged_with_the_built_in_one(tmp_path):
    """A key that only the built-in study has must not seep in: here `phantom` and its source."""
    config = tmp_path / "study.yaml"
    config.write_text("study: mine\n", encoding="utf-8")
    with pytest.raises(WorkflowError) as caught:
        planned(tmp_path, config)
    assert "`ingest` is missing" in str(caught.value)
    assert "`label` is missing" in str(caught.value)


def test_without_a_file_the_built_in_study_is_planned(tmp_path):
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=2), snakefile=ROOT / "Snakefile", workdir=tmp_path
        )
        workflow.dag(DAGSettings()).execute_workflow(executor="dryrun")
        jobs = [job.rule.name for job in workflow._workflow.dag.needrun_jobs(exclude_finished=False)]
    assert set(jobs) == {*STAGES, "all"} - {"bank"}  # its weights are random
    assert jobs.count("train") == 5
