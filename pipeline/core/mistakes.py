"""Mistakes in a configuration, in words: where, what, and what may have been meant."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from pipeline.core.marked_yaml import KeyPath

# pydantic puts the tag of a union between the keys ("intensity", "window", "width"): it is not in the file.
_TAGS = {"percentile", "window", "sensitivity", "specificity", "youden", "list", "columns"}
_NAMES_OF_MEMBERS = ("literal[", "constrained-")  # the same for a choice of a word or a number

# In the words of the file, where pydantic's are those of a program; by its type of error.
_WANTED = {
    "string_type": 'should be text; numbers, and words such as yes and no, need quotes here: "1", "yes"',
    "tuple_type": "should be a list, such as [one, another]",
    "model_type": "should be a section with keys of its own",
    "model_attributes_type": "should be a section with keys of its own",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "path_type": "should be a path",
}
FORMS = {
    "^[a-z0-9][a-z0-9_-]{0,63}$": "should be of small letters, digits, - and _, and begin with a letter or a digit",
    "^[A-Z][A-Z0-9]{1,15}$": "should be of capital letters and digits, as in the files",
    "^[0-9a-f]{64}$": "should be of 64 digits from 0 to 9 and a to f",
}
"""What a text should be like, for each regular expression of the settings."""


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
    told = _in_words(item) or f"{message[0].lower()}{message[1:]}"
    return f"{place}: `{dotted}`: {told}" if dotted else f"{place}: {told}"  # of the file as a whole


def _in_words(item: Mapping[str, Any]) -> str:
    if item["type"] == "string_pattern_mismatch":
        return FORMS.get(item["ctx"]["pattern"], "")
    if item["type"] == "union_tag_invalid":
        return f"its {item['ctx']['discriminator']} should be one of {item['ctx']['expected_tags']}".replace("'", "`")
    return _WANTED.get(item["type"], "")


def _is_tag(path: Sequence[str | int], index: int) -> bool:
    if str(path[index]).startswith(_NAMES_OF_MEMBERS):
        return True
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
