"""YAML with line numbers, so that an error can say where it is."""

from pathlib import Path

import yaml

from pipeline.core.errors import ConfigError

KeyPath = tuple[str | int, ...]


def read_yaml(path: Path) -> tuple[object, dict[KeyPath, int]]:
    """Read a YAML file and the line on which each key stands.

    Returns
    -------
    tuple
        The plain values, and a mapping from the path of a key to its line, counted from 1.

    Raises
    ------
    ConfigError
        If the file is missing, is not YAML, names a key twice, or holds values within themselves.
    """
    lines: dict[KeyPath, int] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
        if node is not None:
            _collect(node, (), lines, path)
    except OSError as error:
        what = f"the file cannot be read ({error.strerror})"
        raise ConfigError(what, where=str(path), remedy="check the path and the permissions") from error
    except UnicodeDecodeError as error:
        raise ConfigError("the file is not UTF-8 text", where=str(path), remedy="save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        what = f"not valid YAML: {error.problem}"
        raise ConfigError(what, where=f"{path}:{line}", remedy="check indentation, colons and quotes") from error
    except yaml.reader.ReaderError as error:  # the one error of YAML that is not marked with its line
        line = text.count("\n", 0, error.position) + 1
        what = "not valid YAML: a character that cannot be printed"
        raise ConfigError(what, where=f"{path}:{line}", remedy="type that line anew") from error
    except RecursionError as error:
        what = "values stand within each other too deeply, or within themselves"
        raise ConfigError(what, where=str(path), remedy="write them out without & and *") from error
    return values, lines


def _collect(node: yaml.Node, prefix: KeyPath, lines: dict[KeyPath, int], path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*prefix, str(key.value))
            if here in lines:
                what = f"the key {'.'.join(map(str, here))} stands twice (first on line {lines[here]})"
                raise ConfigError(what, where=f"{path}:{key.start_mark.line + 1}", remedy="remove one of them")
            lines[here] = key.start_mark.line + 1
            _collect(value, here, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[*prefix, index] = value.start_mark.line + 1
            _collect(value, (*prefix, index), lines, path)
