"""The command line: one verb for each stage, its options made from the stage's signature.

This is the only place that catches errors: those meant for the user become a message and exit status 2,
anything else is a bug and shows where it happened. Messages of unexpected exceptions may repeat values of
the input, so for stages that see identifiers they go beside the study's secret key only.
"""

import argparse
import faulthandler
import importlib
import inspect
import os
import re
import select
import signal
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from pipeline.core.errors import ConfigError, PipelineError
from pipeline.core.progress import open_log, say

# In the order of a study. Rule, verb, stage file, stage function and config section bear the same word.
STAGES = (
    "phantom",
    "ingest",
    "deidentify",
    "check_quality",
    "preprocess",
    "label",
    "split",
    "bank",
    "train",
    "evaluate",
    "report",
)
SEES_IDENTIFIERS = frozenset({"ingest", "deidentify", "label", "relink"})  # those of the built-in study are invented
# Verbs beside the road: module and function. Their arguments without a flag stand before the star of the signature.
OTHER_VERBS = {
    "doctor": ("pipeline.doctor", "examine"),
    "triage": ("pipeline.inventory", "take_inventory"),
    "wrap": ("pipeline.wrap", "wrap_files"),
    "export": ("pipeline.export", "export_volumes"),
    "weights": ("pipeline.weights", "tend_weights"),
    "freeze_sweep": ("pipeline.freeze_sweep", "sweep_boundaries"),
    "relink": ("pipeline.relink", "relink"),
    "rank_sources": ("pipeline.rank_sources", "rank_sources"),
    "pretrain": ("pipeline.pretrain", "pretrain"),
}
# Verbs that can also do their work without a study, if one of these options asks for it.
ALONE = {"deidentify": ("pipeline.deidentify_folder", "deidentify_folder", ("--input", "--output", "--describe"))}
EXIT_USER_ERROR = 2
EXIT_BUG = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    program = "python -m pipeline"
    usage = f"{program} VERB ...\n{program} --help lists the verbs, {program} VERB --help explains one"
    parser = argparse.ArgumentParser(prog=program, usage=usage, description="Transfer learning from DICOM to report.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", prog=program)
    for name in (*STAGES, *OTHER_VERBS):
        summary = _summary(name)
        verb = verbs.add_parser(name, help=summary, description=summary)
        if words and words[0] == name:  # only the verb asked for is imported
            function = _function(name, words)
            _add_options(verb, function, name)
            if name in ALONE and function is stage(name):
                options = " ".join(f"{option} FOLDER" for option in ALONE[name][2][:2])
                also = f"or, without a study: {verb.prog} {options} (add --help for its options)"
                verb.usage = f"{verb.format_usage().removeprefix('usage: ').rstrip()}\n{also}"
    known = vars(parser.parse_args(words))
    name = known.pop("verb")
    log: Path | None = known.pop("log", None)
    try:
        open_log(log)
        faulthandler.enable()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        function = _function(name, words)
        status = function(**_values(function, name, known)) or 0
        sys.stdout.flush()
        return status
    except PipelineError as error:
        say(f"error in {name}: {error}")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        say(f"{name}: interrupted")
        return 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001  the one place where bugs are reported
        if isinstance(error, BrokenPipeError) and _is_output_closed():
            return 128 + signal.SIGPIPE
        _report_bug(name, error, known)
        return EXIT_BUG


def stage(name: str) -> Callable[..., None]:
    """Import the function of a stage."""
    function: Callable[..., None] = getattr(importlib.import_module(f"pipeline.stages.{name}"), name)
    return function


def _function(name: str, words: Sequence[str]) -> Callable[..., int | None]:
    is_alone = name in ALONE and any(word.partition("=")[0] in ALONE[name][2] for word in words)
    if name in OTHER_VERBS or is_alone:
        module, word = ALONE[name][:2] if is_alone else OTHER_VERBS[name]
        other: Callable[..., int | None] = getattr(importlib.import_module(module), word)
        return other
    return stage(name)


def _summary(name: str) -> str:
    """First line of a module's docstring, read without importing the module."""
    module = OTHER_VERBS[name][0] if name in OTHER_VERBS else f"pipeline.stages.{name}"
    path = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    line = path.read_text(encoding="utf-8").lstrip('"').splitlines()[0]
    return line.removesuffix('"""').strip()


def _notes(function: Callable[..., Any]) -> dict[str, str]:
    """Take the help of each option from the section Parameters of the docstring."""
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Parameters\n-+\n(.*?)(?:\n\n[A-Z]|\Z)", text, re.DOTALL | re.MULTILINE)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section[1].splitlines() if section else ():
        if line.startswith(" "):
            found |= {name: f"{found.get(name, '')} {line.strip()}".strip() for name in names}
        elif line:
            names = [name.strip() for name in line.split(",")]
    return {name: note.replace("%", "%%").replace("``", "`") for name, note in found.items()}


def _add_options(parser: argparse.ArgumentParser, function: Callable[..., Any], name: str) -> None:
    hints = get_type_hints(function)
    notes = _notes(function)
    for option in inspect.signature(function).parameters.values():
        kind = _plain_type(hints[option.name])
        note = _with_default(notes.get(option.name, ""), option.default)
        flag = f"--{option.name.replace('_', '-')}"
        required = option.default is inspect.Parameter.empty
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            section = _section_of(kind, name, option.name)
            note = f"{section} as JSON, or a configuration file"
            parser.add_argument(flag, required=required, default=option.default, metavar="JSON|FILE", help=note)
        elif get_origin(kind) is tuple:
            kind, many = get_args(kind)[0], {"nargs": "+"}
            parser.add_argument(flag, type=kind, **many, required=required, default=option.default, help=note)
        elif kind is bool:
            parser.add_argument(flag, action="store_true", help=note)
        elif get_origin(kind) is Literal:
            choices = get_args(kind)
            parser.add_argument(flag, choices=choices, required=required, default=option.default, help=note)
        elif option.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            count = {} if required else {"nargs": "?", "default": option.default}
            parser.add_argument(option.name, type=kind, **count, metavar=option.name.upper(), help=note)
        else:
            parser.add_argument(
                flag, type=kind, required=required, default=option.default, metavar=kind.__name__, help=note
            )
    parser.add_argument("--log", type=Path, default=None, metavar="Path", help="copy of everything printed")


def _with_default(note: str, default: Any) -> str:
    """Add the value that is taken if an option is left out, unless the words say what happens then."""
    is_told = default in (inspect.Parameter.empty, None, False, ()) or "default" in note
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    return note if is_told else f"{note} (default: {shown})".strip()


def _section_of(kind: type[BaseModel], name: str, option: str) -> str:
    """Say which part of a configuration an option takes: its verb's, or of another verb the one it is called after."""
    from pipeline.config import Config

    return "the whole configuration" if kind is Config else f"the section `{name if option == 'settings' else option}`"


def _plain_type(hint: Any) -> Any:
    """Strip None from an optional type."""
    if get_origin(hint) in {Union, types.UnionType}:
        return next(member for member in get_args(hint) if member is not type(None))
    return hint


def _values(function: Callable[..., Any], name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Turn option texts into the arguments of a stage."""
    hints = {key: _plain_type(hint) for key, hint in get_type_hints(function).items()}
    values: dict[str, Any] = {}
    for key, value in given.items():
        kind = hints[key]
        if inspect.isclass(kind) and issubclass(kind, BaseModel) and isinstance(value, str):
            values[key] = _settings(kind, name if key == "settings" else key, value, f"--{key}")
        elif get_origin(kind) is tuple and value is not None:
            values[key] = tuple(value)
        else:
            values[key] = value
    return values


def _settings(kind: type[BaseModel], name: str, text: str, flag: str) -> BaseModel:
    """Read settings from JSON, or take the section of that name (or all of them) from a configuration file."""
    from pipeline.config import Config, load

    if text.lstrip().startswith("{"):
        try:
            return kind.model_validate_json(text)
        except ValidationError as error:
            what = "; ".join(": ".join(filter(None, (_dotted(item["loc"]), item["msg"]))) for item in error.errors())
            raise ConfigError(what, where=flag, remedy="see docs/configuration.md") from error
    config = load(Path(text))
    if kind is Config:
        return config
    section = getattr(config, name)
    if section is None:
        raise ConfigError(f"the configuration has no section `{name}`", where=text, remedy="add the section")
    return section  # type: ignore[no-any-return]


def _dotted(path: Sequence[str | int]) -> str:
    return ".".join(map(str, path))


def _report_bug(name: str, error: Exception, given: dict[str, Any]) -> None:
    """Show where a bug happened; the message itself may repeat input, so it is kept where input may be."""
    if name not in SEES_IDENTIFIERS:
        say("".join(traceback.format_exception(error)))
    else:
        frames = traceback.extract_tb(error.__traceback__)
        say("".join(traceback.format_list(frames)))
        say(f"{type(error).__name__} (its message may repeat input and is withheld)")
        key = given.get("key") or (given["restricted"] / "key" if given.get("restricted") else None)
        if key is not None:
            _keep_message(name, error, key)
    say(f"this is a bug in {name}; please report the lines above")


def _is_output_closed() -> bool:
    """Tell whether whoever read what is printed has gone, as `head` does; a pipe between our processes is a bug."""
    with suppress(OSError, ValueError):
        place = sys.stdout.fileno()
        asked = select.poll()
        asked.register(place, 0)  # asked for nothing, it still tells of errors: a pipe without a reader has one
        if any(state & select.POLLERR for _, state in asked.poll(0)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), place)  # the interpreter flushes once more when it ends
            return True
    return False


def _keep_message(name: str, error: Exception, key: Path) -> None:
    """Write the whole message for its owner alone, beside the secret key: by default into the restricted folder."""
    target = key.parent / f"error-{name}.txt"
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(descriptor, 0o600)  # it may be there from an earlier run, opened up since
            stream.write("".join(traceback.format_exception(error)))
    except OSError as fault:
        say(f"the full message could not be kept in {target} ({fault.strerror})")
    else:
        say(f"the full message stands in {target}")
