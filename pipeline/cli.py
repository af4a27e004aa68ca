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
import signal
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

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
    "train",
    "evaluate",
    "report",
)
SEES_IDENTIFIERS = frozenset({"ingest", "deidentify", "label"})  # those of the built-in study are invented
DOCTOR = "doctor"  # the one verb that is no stage
EXIT_USER_ERROR = 2
EXIT_BUG = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m pipeline", description="Transfer learning from DICOM to report.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in STAGES:
        summary = _summary(name)
        verb = verbs.add_parser(name, help=summary, description=summary)
        if words and words[0] == name:  # only the verb asked for is imported
            _add_options(verb, stage(name), name)
    _add_doctor(verbs)
    known = vars(parser.parse_args(words))
    name = known.pop("verb")
    if name == DOCTOR:
        from pipeline.doctor import examine

        return examine(known["configfile"])
    log: Path | None = known.pop("log")
    try:
        open_log(log)
        faulthandler.enable()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stage(name)(**_values(stage(name), name, known))
    except PipelineError as error:
        say(f"error in {name}: {error}")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        say(f"{name}: interrupted")
        return 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001  the one place where bugs are reported
        _report_bug(name, error, known)
        return EXIT_BUG
    return 0


def stage(name: str) -> Callable[..., None]:
    """Import the function of a stage."""
    function: Callable[..., None] = getattr(importlib.import_module(f"pipeline.stages.{name}"), name)
    return function


def _add_doctor(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    summary = "Examine the machine and a study: what is missing, and how to mend it."
    verb = verbs.add_parser(DOCTOR, help=summary, description=summary)
    note = "configuration of the study (default: the built-in one)"
    verb.add_argument("--configfile", type=Path, default=Path("config/config.yaml"), metavar="FILE", help=note)


def _summary(name: str) -> str:
    """First line of a stage module's docstring, read without importing the stage."""
    path = Path(__file__).with_name("stages") / f"{name}.py"
    line = path.read_text(encoding="utf-8").lstrip('"').splitlines()[0]
    return line.removesuffix('"""').strip()


def _add_options(parser: argparse.ArgumentParser, function: Callable[..., None], name: str) -> None:
    hints = get_type_hints(function)
    for option in inspect.signature(function).parameters.values():
        kind = _plain_type(hints[option.name])
        flag = f"--{option.name.replace('_', '-')}"
        required = option.default is inspect.Parameter.empty
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            note = f"the section `{name}` as JSON, or a configuration file"
            parser.add_argument(flag, required=required, default=option.default, metavar="JSON|FILE", help=note)
        elif get_origin(kind) is tuple:
            parser.add_argument(flag, type=get_args(kind)[0], nargs="+", required=required, default=option.default)
        else:
            parser.add_argument(flag, type=kind, required=required, default=option.default, metavar=kind.__name__)
    parser.add_argument("--log", type=Path, default=None, metavar="Path", help="copy of everything printed")


def _plain_type(hint: Any) -> Any:
    """Strip None from an optional type."""
    if get_origin(hint) in {Union, types.UnionType}:
        return next(member for member in get_args(hint) if member is not type(None))
    return hint


def _values(function: Callable[..., None], name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Turn option texts into the arguments of a stage."""
    hints = {key: _plain_type(hint) for key, hint in get_type_hints(function).items()}
    values: dict[str, Any] = {}
    for key, value in given.items():
        kind = hints[key]
        if inspect.isclass(kind) and issubclass(kind, BaseModel) and isinstance(value, str):
            values[key] = _settings(kind, name, value)
        elif get_origin(kind) is tuple and value is not None:
            values[key] = tuple(value)
        else:
            values[key] = value
    return values


def _settings(kind: type[BaseModel], name: str, text: str) -> BaseModel:
    """Read settings from JSON, or take the stage's section (or all of them) from a configuration file."""
    from pipeline.config import Config, load

    if text.lstrip().startswith("{"):
        try:
            return kind.model_validate_json(text)
        except ValidationError as error:
            what = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise ConfigError(what, where="--settings", remedy="see docs/configuration.md") from error
    config = load(Path(text))
    if kind is Config:
        return config
    section = getattr(config, name)
    if section is None:
        raise ConfigError(f"the configuration has no section `{name}`", where=text, remedy="add the section")
    return section  # type: ignore[no-any-return]


def _report_bug(name: str, error: Exception, given: dict[str, Any]) -> None:
    """Show where a bug happened; the message itself may repeat input, so it is kept where input may be."""
    if name not in SEES_IDENTIFIERS:
        say("".join(traceback.format_exception(error)))
    else:
        frames = traceback.extract_tb(error.__traceback__)
        say("".join(traceback.format_list(frames)))
        say(f"{type(error).__name__} (its message may repeat input and is withheld)")
        _keep_message(name, error, given["key"])
    say(f"this is a bug in {name}; please report the lines above")


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
