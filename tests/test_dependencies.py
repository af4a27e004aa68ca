"""One source of dependencies: pyproject.toml; the locks and environment.yml follow it, and so do the pages."""

import importlib.util
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUNNING = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
EXTRAS = [Requirement(text) for extra in PROJECT["project"]["optional-dependencies"].values() for text in extra]
SLURM = [Requirement(text) for text in PROJECT["project"]["optional-dependencies"]["slurm"]]


def pins(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(package): version for package, version in found.items()}


@pytest.mark.parametrize(
    ("lock", "wanted"), [("requirements.lock", RUNNING), ("requirements-dev.lock", [*RUNNING, *EXTRAS])]
)
def test_a_lock_pins_every_dependency_within_its_range(lock, wanted):
    pinned = pins(lock)
    for requirement in wanted:
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} against {version}"


def test_the_locks_agree():
    running, developing = pins("requirements.lock"), pins("requirements-dev.lock")
    assert running.items() <= developing.items()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_is_plain_pins(lock):
    for line in (ROOT / lock).read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line), line


def closure(roots):
    """Everything the roots need, by the installed packages' own word."""
    reached, waiting = set(), [canonicalize_name(root.name) for root in roots]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        try:
            needed = [Requirement(text) for text in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
        waiting += [canonicalize_name(item.name) for item in needed if not item.marker or item.marker.evaluate()]
    return reached


@pytest.mark.parametrize(
    ("lock", "wanted"), [("requirements.lock", RUNNING), ("requirements-dev.lock", [*RUNNING, *EXTRAS])]
)
def test_a_lock_holds_nothing_that_nobody_needs(lock, wanted):
    assert sorted(set(pins(lock)) - closure(wanted)) == []


def test_the_environment_for_conda_names_the_same_packages():
    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert content["channels"] == ["conda-forge", "bioconda", "nodefaults"]
    back = {new: old for old, new in PROJECT["tool"]["conda-env"]["rename"].items()}
    found = {}
    for line in content["dependencies"]:
        name, _, limits = line.partition(" ")
        found[back.get(name, name)] = limits
    assert found.pop("python") == PROJECT["project"]["requires-python"]
    assert found == {canonicalize_name(item.name): str(item.specifier) for item in [*RUNNING, *SLURM]}


def test_what_is_derived_is_in_step():
    location = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(location)
    location.loader.exec_module(generate)
    assert generate.out_of_step() == []


def test_a_stale_page_is_noticed(tmp_path):
    location = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(location)
    location.loader.exec_module(generate)
    for name, make in generate.DERIVED.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(make(), encoding="utf-8")
    assert generate.out_of_step(tmp_path) == []
    (tmp_path / "environment.yml").write_text("name: other\n", encoding="utf-8")
    assert generate.out_of_step(tmp_path) == ["environment.yml"]
