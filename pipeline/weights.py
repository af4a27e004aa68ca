"""List, fetch, verify or import the weights that networks start from."""

import sys
from pathlib import Path

from pipeline.core.errors import ConfigError, WeightsError
from pipeline.learning.weights.sources import SOURCES, entries, entry
from pipeline.learning.weights.store import bring_in, check_file, fetch, found_at

_ACTIONS = ("list", "fetch", "verify", "import")
_EXIT_PROBLEMS = 2
_DIGITS_SHOWN = 8


def tend_weights(action: str, name: str | None = None) -> int:
    """Do one thing with the store of weights and return 0, or 2 if `verify` found something wrong.

    Parameters
    ----------
    action
        `list`: every registered file and where it is; `fetch NAME`: get one over the network; `verify`: check
        all that are here; `import FILE`: bring one in by hand.
    name
        For `fetch` an entry such as imagenet/resnet18, for `import` a file.
    """
    if action not in _ACTIONS:
        raise ConfigError(f"there is no action {action}", where="weights", remedy=f"choose {', '.join(_ACTIONS)}")
    if action in {"fetch", "import"} and name is None:
        wanted = "an entry, such as imagenet/resnet18" if action == "fetch" else "the file"
        raise ConfigError(f"{action} needs {wanted}", where="weights", remedy="python -m pipeline weights list")
    if action == "list":
        _list()
    elif action == "verify":
        return _verify()
    elif action == "fetch":
        _fetch(str(name))
    else:
        source, backbone, path = bring_in(Path(str(name)))
        facts = SOURCES[source]
        _print(f"{path}: {source}/{backbone}, digest, names, shapes and numbers are right; licence: {facts.licence}")
        if not facts.files[backbone].sha256:
            digest = check_file(source, backbone, path)
            _print(f"no digest is published for it; a study names it: weights: {{source: {source}, sha256: {digest}}}")
    return 0


def _fetch(name: str) -> None:
    found = entry(name)
    if found is None:
        what = f"{name} is no registered file"
        raise WeightsError(what, where="weights", remedy="python -m pipeline weights list names them")
    path = fetch(*found)
    _print(f"{path}: licence: {SOURCES[found[0]].licence}")


def _list() -> None:
    rows = [("name", "file", "MB", "SHA-256", "here")]
    for source, backbone in entries():
        file = SOURCES[source].files[backbone]
        size = "?" if file.megabytes is None else f"{file.megabytes:.0f}"
        place = found_at(source, backbone)
        digest = file.sha256[:_DIGITS_SHOWN] or "unpublished"
        rows.append((f"{source}/{backbone}", file.name, size, digest, str(place.parent) if place else "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        _print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for source, facts in SOURCES.items():
        _print(f"\n{source}: {facts.title}\n  licence: {facts.licence}\n  {facts.page}")


def _verify() -> int:
    here = [(source, backbone, place) for source, backbone in entries() if (place := found_at(source, backbone))]
    problems = 0
    for source, backbone, path in here:
        try:
            digest = check_file(source, backbone, path)
        except WeightsError as error:
            problems += 1
            _print(f"bad   {source}/{backbone}: {error}")
        else:
            known = "" if SOURCES[source].files[backbone].sha256 else " (no digest is published: only its content fits)"
            _print(f"ok    {source}/{backbone}  {path}  SHA-256 {digest}{known}")
    _print(f"{len(here)} of {len(entries())} registered files are here, {problems} with a fault")
    return _EXIT_PROBLEMS if problems else 0


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
