"""Provenance: the fingerprint follows the code that makes a result, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core import provenance
from pipeline.core.provenance import available_cores, fingerprint, tree_state, versions

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "__init__.py": '"""Package."""\n',
    "core/__init__.py": '"""Core."""\n',
    "core/errors.py": "class Wrong(Exception):\n    pass\n",
    "config.py": "from pipeline.core.errors import Wrong\nLIMIT = 3\n",
    "cohort/__init__.py": '"""Cohort."""\n',
    "cohort/splits.py": '"""Splits."""\nfrom pipeline.core.errors import Wrong\n\n\ndef divide():\n    return 1\n',
    "reporting/__init__.py": '"""Reporting."""\n',
    "reporting/page.py": "def render():\n    from pipeline.reporting import words\n    return words\n",
    "reporting/words.py": "HELLO = 'hello'\n",
    "reporting/templates/page.html": "<p>{{ hello }}</p>\n",
    "stages/__init__.py": '"""Stages."""\n',
    "stages/split.py": '"""Split."""\nfrom pipeline.cohort.splits import divide\nfrom pipeline.config import LIMIT\n',
    "stages/report.py": "import pipeline.reporting.page\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "pipeline"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(provenance, "PACKAGE_FOLDER", folder)
    forget()
    yield folder
    forget()


def forget():
    for cached in (provenance._source, provenance._code_digest, provenance._imports):
        cached.cache_clear()


def prints():
    forget()
    return {stage: fingerprint(f"pipeline.stages.{stage}") for stage in ("split", "report")}


def changed_by(package, name, text):
    before = prints()
    (package / name).parent.mkdir(parents=True, exist_ok=True)
    (package / name).write_text(text, encoding="utf-8")
    after = prints()
    return {stage for stage in before if before[stage] != after[stage]}


@pytest.mark.parametrize(
    ("name", "addition", "stages"),
    [
        ("stages/split.py", "X = 1\n", {"split"}),
        ("cohort/splits.py", "X = 1\n", {"split"}),
        ("core/errors.py", "X = 1\n", {"split"}),  # two steps away
        ("reporting/words.py", "X = 1\n", {"report"}),  # imported inside a function, by `from package import module`
        ("reporting/templates/page.html", "more", {"report"}),  # no code, but decides what is made
        ("cohort/tables/terms.tsv", "a\tb\n", {"split"}),
        ("cohort/weights/network.safetensors", "x", set()),  # its digest is registered in the code
        ("cohort/weights/network.md", "results", set()),  # tables of measurements are written into it
        ("notes.txt", "x", set()),  # beside the packages
        ("config.py", "X = 1\n", set()),  # settings travel as parameters of their own
        ("cohort/unused.py", "X = 1\n", set()),
        ("cohort/splits.py", "# a remark\n", set()),
        ("cohort/splits.py", "\n\n", set()),
    ],
)
def test_the_fingerprint_follows_what_a_stage_uses(package, name, addition, stages):
    before = (package / name).read_text(encoding="utf-8") if (package / name).exists() else ""
    assert changed_by(package, name, before + addition) == stages


def test_docstrings_do_not_count_and_other_texts_do(package):
    assert changed_by(package, "cohort/splits.py", FILES["cohort/splits.py"].replace("Splits.", "Folds.")) == set()
    assert changed_by(package, "reporting/words.py", "HELLO = 'good day'\n") == {"report"}


def test_a_new_template_counts_and_the_cache_of_the_interpreter_does_not(package):
    assert changed_by(package, "reporting/templates/style.css", "p {}\n") == {"report"}
    assert changed_by(package, "reporting/__pycache__/page.pyc", "x") == set()


def test_the_place_of_the_package_does_not_count(package, tmp_path, monkeypatch):
    here = prints()
    monkeypatch.setattr(provenance, "PACKAGE_FOLDER", package.rename(tmp_path / "elsewhere"))
    assert prints() == here


def test_a_module_that_is_not_there_is_a_bug(package):
    with pytest.raises(ModuleNotFoundError):
        fingerprint("pipeline.stages.absent")


def test_fingerprints_import_nothing():
    program = (
        "import sys\n"
        "from pipeline.core.provenance import fingerprint\n"
        "before = set(sys.modules)\n"
        "print(fingerprint('pipeline.stages.train'))\n"
        "print([name for name in set(sys.modules) - before if name.startswith('pipeline')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    digits, imported = done.stdout.split("\n")[:2]
    assert len(digits) == 12
    assert imported == "[]"


def test_versions_name_what_is_installed():
    found = dict(versions())
    assert found["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert found["pydantic"] != "not installed"
    assert all(found.values())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_cores_are_those_that_may_be_used():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert available_cores() == len(allowed)


def make_tree(folder):
    (folder / "a" / "b").mkdir(parents=True)
    for number, path in enumerate(("a/one", "a/b/two", "three")):
        (folder / path).write_bytes(b"x" * number)
        os.utime(folder / path, ns=(0, 10**9))
    for path in ("a/b", "a"):
        os.utime(folder / path, ns=(0, 10**9))
    return folder


def test_equal_trees_have_one_state_whatever_their_names(tmp_path):
    first, second = (make_tree(tmp_path / name) for name in ("first", "second"))
    assert tree_state(first) == tree_state(second)
    (second / "three").rename(second / "Doe^John")  # the folder itself is watched by Snakemake
    assert tree_state(first) == tree_state(second)


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree / "a/b/four").touch(),
        lambda tree: (tree / "a/b/two").unlink(),
        lambda tree: (tree / "a/b/two").write_bytes(b"yy"),
        lambda tree: (tree / "a/b/two").rename(tree / "a/b/other"),
        lambda tree: (tree / "a/b/two").rename(tree / "two"),
        lambda tree: (tree / "a/c").mkdir(),
        lambda tree: (tree / "a/link").symlink_to("one"),
    ],
)
def test_every_change_below_a_folder_changes_its_state(tmp_path, change):
    tree = make_tree(tmp_path / "tree")
    before = tree_state(tree)
    change(tree)
    assert tree_state(tree) != before


def test_a_link_to_a_folder_is_seen_but_not_followed(tmp_path):
    tree, outside = make_tree(tmp_path / "tree"), tmp_path / "outside"
    outside.mkdir()
    without = tree_state(tree)
    (tree / "loop").symlink_to(tree)
    (tree / "link").symlink_to(outside)
    before = tree_state(tree)
    assert before != without
    (outside / "new").touch()
    assert tree_state(tree) == before


def test_a_missing_folder_has_a_state(tmp_path):
    assert tree_state(tmp_path / "none") != tree_state(tmp_path)
