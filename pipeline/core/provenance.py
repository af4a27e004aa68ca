"""What code, libraries and files produced a result: digests that decide what runs again, versions to report."""

import ast
import hashlib
import os
import platform
import stat
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGE = "pipeline"
PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
# The walk stops here: a stage reads its own section only, and sections travel as rule parameters of their own.
NOT_FOLLOWED = frozenset({f"{PACKAGE}.config", f"{PACKAGE}.cli"})
# Beside code: other code, which the walk finds; weights, whose digests stand in the code; and what is written of them.
_SAYS_NOTHING = frozenset({".py", ".safetensors", ".md"})
REPORTED_LIBRARIES = (
    "torch", "monai", "pydicom", "nibabel", "scikit-learn", "numpy", "scipy", "pyarrow", "snakemake", "pydantic",
    "jinja2", "matplotlib", "typst", "safetensors", "pylibjpeg-openjpeg",
)  # fmt: skip

# These decide the last bits of a training; scipy ends the search for the calibrated loss.
NUMERICAL_LIBRARIES = frozenset({"python", "platform", "torch", "monai", "numpy", "scipy", "scikit-learn"})


def fingerprint(module: str) -> str:
    """Digest a module and everything of this package that it imports, docstrings and comments aside.

    Snakemake does not see edits of imported modules; rules therefore carry this value as a parameter, so
    that an edit reruns the stages that use the code and no others.

    Parameters
    ----------
    module
        Dotted name, for example ``"pipeline.stages.train"``. It is read, not imported.

    Returns
    -------
    str
        Twelve hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(_closure(module)):
        path = _required_source(name)
        digest.update(name.encode())
        digest.update(_code_digest(path))
        if path.name == "__init__.py":
            continue
        for companion in _companions(path.parent):
            digest.update(companion.name.encode())
            digest.update(companion.read_bytes())
    return digest.hexdigest()[:12]


def versions() -> tuple[tuple[str, str], ...]:
    """List Python, the platform and the installed libraries as (name, version)."""
    found = [("python", platform.python_version()), ("platform", f"{platform.system()} {platform.machine()}")]
    for name in REPORTED_LIBRARIES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append((name, "not installed"))
    return tuple(found)


def numerical(software: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Keep the versions that can change what a training gives."""
    return tuple(pair for pair in software if pair[0] in NUMERICAL_LIBRARIES)


def tree_state(folder: Path) -> str:
    """Digest the sizes and times of everything below a folder: another value means that something changed.

    Snakemake sees a folder's own time only, and looks no deeper. Names are left out, because Snakemake keeps
    what a rule is given and they may identify; a file that is renamed or moved changes the time of its folder.

    Parameters
    ----------
    folder
        It is listed, nothing is opened, links are not followed. About 10 s for a million files on a local disk.
        A file (an archive) stands for itself.

    Returns
    -------
    str
        Twelve hexadecimal digits.
    """
    facts: list[tuple[int, int, int]] = []
    waiting = [os.fspath(folder)]
    if folder.is_file():
        found = folder.stat()
        facts, waiting = [(found.st_mode, found.st_size, found.st_mtime_ns)], []
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except OSError:
                        facts.append((-2, -2, -2))  # one that is gone must not hide those behind it
                        continue
                    is_folder = stat.S_ISDIR(found.st_mode)
                    facts.append((found.st_mode, 0 if is_folder else found.st_size, found.st_mtime_ns))
                    if is_folder:
                        waiting.append(entry.path)
        except OSError:  # what cannot be listed is a finding of the scan, not of this digest
            facts.append((-1, -1, -1))
    return hashlib.sha256(repr(sorted(facts)).encode()).hexdigest()[:12]


def available_cores() -> int:
    """Count the processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@cache
def _source(name: str) -> Path | None:
    """Find a module's file by its name alone: asking the import system would import the packages above it."""
    place = PACKAGE_FOLDER.joinpath(*name.split(".")[1:])
    candidates = (place.with_suffix(".py"), place / "__init__.py") if name != PACKAGE else (place / "__init__.py",)
    return next((path for path in candidates if path.is_file()), None)


def _required_source(name: str) -> Path:
    path = _source(name)
    if path is None:
        message = f"no source for {name}"
        raise ModuleNotFoundError(message)
    return path


@cache
def _code_digest(path: Path) -> bytes:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        is_documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if is_documented and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            del body[0]
    return hashlib.sha256(ast.dump(tree).encode()).digest()


@cache
def _imports(name: str) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(_required_source(name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    own = {target for target in found if target == PACKAGE or target.startswith(f"{PACKAGE}.")}
    return frozenset(target for target in own - NOT_FOLLOWED if _source(target) is not None)


def _closure(module: str) -> set[str]:
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(_imports(name))
    return reached


def _companions(folder: Path) -> list[Path]:
    """List templates and tables that decide what the code beside or above them does; packages below have their own."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.suffix not in _SAYS_NOTHING
        and "__pycache__" not in path.parts
        and not any((parent / "__init__.py").is_file() for parent in _between(folder, path))
    ]


def _between(folder: Path, path: Path) -> list[Path]:
    return [parent for parent in path.parents if folder in parent.parents]
