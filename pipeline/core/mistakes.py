"""Mistakes in a configuration, in words: where, what, and what may have been meant."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from pipeline.core.marked_yaml import KeyPath

# pydantic puts the tag of a union between the keys ("intensity", "window", "width"): it is not in the file.
_TAGS = {"percentile", "window", "sensitivity", "specificity", "youden", "list", "columns"}


def describe_error(item: Mapping[str, Any], lines: Mapping[KeyPath, int], name: str, model: type[BaseModel]) -> str:
    """Say in one line where a mistake stands, what it is, and for an unknown key which one may have been meant.

    Parameters
    ----------
    item
        One of the errors of a pydantic ``ValidationError``.
    lines, name
        Line of each key, and name of the file.
    model
        What the values were checked against.
    """
    path = tuple(item["loc"])
    known = [path[:length] for length in range(len(path), 0, -1)]
    key = tuple(part for index, part in enumerate(path) if not _is_tag(path, index))
    line = next((lines[k] for candidate in [key, *known] for k in [candidate, candidate[:-1]] if k in lines), None)
    place = f"{name}:{line}" if line else name
    dotted = ".".join(map(str, key))
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(str(key[-1]), _keys_at(key[:-1], model), n=1, cutoff=0.5)
        hint = f"; did you mean `{nearest[0]}`?" if nearest else f"; known: {', '.join(_keys_at(key[:-1], model))}"
        return f"{place}: unknown key `{dotted}`{hint}"
    if item["type"] == "missing":
        return f"{place}: `{dotted}` is missing"
    told = f"{message[0].lower()}{message[1:]}"
    return f"{place}: `{dotted}`: {told}" if dotted else f"{place}: {told}"  # of the file as a whole


def _is_tag(path: Sequence[str | int], index: int) -> bool:
    return index > 0 and path[index] in _TAGS and path[index - 1] in {"intensity", "operating_point", "findings"}


def _keys_at(path: Sequence[str | int], model: type[BaseModel]) -> list[str]:
    """List the keys known at a place, over all members of a union."""
    models: list[type[BaseModel]] = [model]
    for part in path:
        if isinstance(part, int):  # a place in a list
            continue
        fields = [one.model_fields[str(part)] for one in models if str(part) in one.model_fields]
        models = [found for field in fields for found in _models_in(field.annotation)]
    return sorted({key for one in models for key in one.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
