"""What the documents say can be typed, opened and found."""

import itertools
import re
import shlex
from pathlib import Path

import pytest

from pipeline.cli import OTHER_VERBS, STAGES

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "profiles").glob("*.md")])
YOURS = ("mystudy", "MYSTUDY", "mysite")  # what the reader makes


def page_name(path):
    return str(path.relative_to(ROOT))


def commands(path):
    """Lines of fenced shell blocks, as words."""
    blocks = re.findall(r"```bash\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    for line in (line for block in blocks for line in block.splitlines()):
        words = shlex.split(line.replace("$PWD", "."), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            yield words


ALL = [pytest.param(words, id=f"{page_name(path)}: {' '.join(words)}") for path in PAGES for words in commands(path)]


@pytest.mark.parametrize("words", ALL)
def test_commands_exist(words):
    program = Path(words[0]).name
    assert program in {"make", "python", "python3", "snakemake"}, words
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        targets += re.findall(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert words[1] in " ".join(targets).split()
    if words[1:3] == ["-m", "pipeline"]:
        assert words[3] in {*STAGES, *OTHER_VERBS, "--help"}


@pytest.mark.parametrize("words", ALL)
def test_files_named_in_commands_exist(words):
    for option, value in itertools.pairwise(words):
        if option in {"--configfile", "--profile", "-c", "-r", "--requirement"} and not any(
            name in value for name in YOURS
        ):
            assert (ROOT / value).exists(), f"{option} {value}"


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (path.parent / target).exists(), f"{page_name(path)}: {target}"


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_files_of_the_package_named_in_documents_exist(path):
    for name in re.findall(
        r"`((?:pipeline|tests|workflow|config|docs)/[\w./-]+\.\w+)`", path.read_text(encoding="utf-8")
    ):
        if not any(word in name for word in YOURS):
            assert (ROOT / name).exists(), f"{page_name(path)}: {name}"


def test_the_road_in_the_readme_is_the_road():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    road = re.search(r"^`ingest` ->.*?`report`", text, re.MULTILINE | re.DOTALL)
    assert re.findall(r"`(\w+)`", road.group()) == [stage for stage in STAGES if stage != "phantom"]


def test_every_stage_stands_in_the_table_of_the_architecture():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(STAGES)


def test_every_decision_is_listed_and_has_its_parts():
    listed = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    numbers = []
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        numbers.append(int(path.name[:4]))
        assert text.startswith(f"# {path.name[:4]} ")
        assert f"decisions/{path.name}" in listed
        for part in ("**Question.**", "**Decision.**", "**Consequences.**"):
            assert part in text, f"{path.name}: {part}"
        assert len(text.splitlines()) <= 60
    assert numbers == list(range(1, len(numbers) + 1))


def test_ci_runs_the_command_that_the_readme_names():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "make check" in ci
    assert "make test" in ci
    assert ["make", "test"] in list(commands(ROOT / "README.md"))


def test_no_gap_is_left_in_a_page():
    """Numbers that are to be measured are measured before a page is published."""
    left = [page_name(path) for path in PAGES if "GAP(" in path.read_text(encoding="utf-8")]
    assert left == []
