"""The house holds: who imports whom, light imports, one word in five places, sizes, names."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import STAGES
from pipeline.config import Config

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pipeline"
LIBRARIES = ("dicom", "imaging", "cohort", "learning", "evaluation", "reporting", "phantom")
FLOORS = {
    "core": 0,
    **dict.fromkeys(LIBRARIES, 1),
    "train_settings": 1.5,  # a part of config, in a file of its own for its size
    "label_settings": 1.5,
    "config": 2,
    "prerequisites": 3,
    "stages": 3,
    "doctor": 4,
    "inventory": 4,
    "wrap": 4,
    "export": 4,
    "deidentify_folder": 4,
    "relink": 4,
    "weights": 4,
    "freeze_sweep": 4,
    "rank_sources": 4,
    "pretrain": 4,
    "cli": 5,
    "__main__": 6,
}
HEAVY = ("torch", "monai", "sklearn", "scipy", "matplotlib", "nibabel", "typst", "safetensors")
# Snakemake's own plugins may load these; our commands and configuration must not.
NEARLY_HEAVY = ("numpy", "pandas", "pyarrow", "pydicom", "snakemake")
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
WORKFLOW_FILES = [ROOT / "Snakefile", *sorted((ROOT / "workflow" / "rules").glob("*.smk"))]


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def room_of(module):
    """The part of a dotted name that has a floor: ``pipeline.dicom.slices.headers`` lives in ``dicom``."""
    return module.split(".")[1]


def own_imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module] if node.module != "pipeline" else [f"pipeline.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.startswith("pipeline."))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_the_stairs(path):
    room = room_of(name_of(path))
    assert room in FLOORS, f"{room} has no floor: place it in FLOORS and in docs/architecture.md"
    for imported in own_imports(path):
        target = room_of(imported)
        assert target == room or FLOORS[target] < FLOORS[room], f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "stages").glob("[a-z]*.py")), ids=name_of)
def test_stages_do_not_know_one_another(path):
    assert not [imported for imported in own_imports(path) if imported.startswith("pipeline.stages")]


@pytest.fixture(scope="module")
def workflow_facts():
    """Parse the Snakefile in a fresh process; tell its rules and what was loaded on the way."""
    program = f"""
import json, sys
import pipeline.cli, pipeline.config, pipeline.doctor, pipeline.prerequisites
commands = [name for name in {(*HEAVY, *NEARLY_HEAVY)!r} if name in sys.modules]
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import OutputSettings, Quietness, ResourceSettings
with SnakemakeApi(OutputSettings(quiet={{Quietness.ALL}})) as api:
    workflow = api.workflow(resource_settings=ResourceSettings(cores=1), snakefile=Path("Snakefile"))._workflow
    rules = {{
        rule.name: {{
            "shell": rule.shellcmd,
            "log": [str(file) for file in rule.log],
            "benchmark": str(rule.benchmark),
            "resources": sorted(rule.resources),
            "conda": bool(rule.conda_env),
        }}
        for rule in workflow.rules
    }}
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    print(json.dumps({{"rules": rules, "commands": commands, "snakefile": loaded}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def rules(workflow_facts):
    return {name: facts for name, facts in workflow_facts["rules"].items() if name != "all"}


def test_commands_and_configuration_load_nothing_heavy(workflow_facts):
    assert workflow_facts["commands"] == []


def test_parsing_the_snakefile_loads_nothing_heavy(workflow_facts):
    assert workflow_facts["snakefile"] == []


def test_one_word_in_five_places(rules):
    words = set(STAGES)
    assert set(rules) == words, "rules"
    assert {path.stem for path in (PACKAGE / "stages").glob("[a-z]*.py")} == words, "stage files"
    assert set(Config.model_fields) - {"study", "seed"} == words, "sections of the configuration"
    for word in STAGES:
        assert f"def {word}(" in (PACKAGE / "stages" / f"{word}.py").read_text(encoding="utf-8"), "stage functions"
        assert rules[word]["shell"].startswith(f"python -m pipeline {word} "), "verbs"
        assert all(f"/{word}" in log for log in rules[word]["log"]), "logs"


def stage_parameters(word):
    tree = ast.parse((PACKAGE / "stages" / f"{word}.py").read_text(encoding="utf-8"))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == word)
    assert not function.args.args, f"{word}: parameters are keyword-only"
    return {argument.arg for argument in function.args.kwonlyargs}


@pytest.mark.parametrize("word", STAGES)
def test_a_rule_gives_its_stage_every_parameter_and_no_other(rules, word):
    given = {flag.replace("-", "_") for flag in re.findall(r"--([a-z-]+)", rules[word]["shell"])}
    assert given == stage_parameters(word) | {"log"}


@pytest.mark.parametrize("word", STAGES)
def test_a_rule_says_what_it_needs(rules, word):
    assert rules[word]["log"]
    assert rules[word]["benchmark"] != "None"
    assert rules[word]["conda"]
    assert {"mem_mb", "runtime"} <= set(rules[word]["resources"])
    assert ("gpu" in rules[word]["resources"]) == (word in {"bank", "train"})


@pytest.mark.parametrize("path", WORKFLOW_FILES, ids=lambda path: path.name)
def test_workflow_files_hold_wiring_only(path):
    text = path.read_text(encoding="utf-8")
    for directive in ("run:", "script:", "notebook:", "retries:", "checkpoint "):
        assert not re.search(rf"^\s*{directive}", text, re.MULTILINE), f"{path.name}: {directive}"


def test_the_snakefile_is_short():
    assert len((ROOT / "Snakefile").read_text(encoding="utf-8").splitlines()) <= 40


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_are_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400, f"{name_of(path)}: split it by noun"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[0]
            described = ast.get_docstring(node, clean=False) is not None
            docstring = first.end_lineno - first.lineno + 1 if described else 0
            length = node.end_lineno - node.lineno + 1 - docstring
            assert length <= 60, f"{name_of(path)}.{node.name} has {length} lines"


@pytest.mark.parametrize("path", sorted((PACKAGE / "stages").glob("[a-z]*.py")), ids=name_of)
def test_stages_only_connect(path):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            statements = sum(isinstance(inner, ast.stmt) for inner in ast.walk(node))
            assert statements <= 40, f"{path.stem}.{node.name} has {statements} statements"


def test_names_say_what_they_hold():
    vague = re.compile(r"util|common|manager|handler|helper|processor|misc", re.IGNORECASE)
    for path in MODULES:
        assert not vague.search(path.stem), path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                assert not vague.search(node.name), f"{path.name}: {node.name}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_packages_export_nothing(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assert len(body) == 1, path
    assert ast.get_docstring(ast.Module(body, [])), path
