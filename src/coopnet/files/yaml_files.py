"""Reading YAML that may be wrong or hostile: plain data only, with bounded memory and time."""

import re
from pathlib import Path
from typing import Any

import yaml

from coopnet.files.errors import CoopNetError

LARGEST = 16 * 2**20
"""Most bytes of a file."""
DEEPEST = 64
"""Most levels of nesting. The C parser recurses: about ten thousand levels overflow its stack without an exception."""
MOST = 1_000_000
"""Most values in a file, each alias counted in full: a few lines of aliases can expand to billions of values."""
LONGEST = 10_000
"""Most characters of one value; PyYAML needs quadratic time for a long number."""

SURPRISING = re.compile(r"[-+]?0[0-9_]+|.*:.*")
"""Integers that YAML 1.1 reads to another base: octal after a zero, and sexagesimal with colons."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C parser if PyYAML has it
    """A loader that refuses duplicate keys (PyYAML would keep the last one), and numbers that mislead."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue  # `<<: *anchor`, which PyYAML merges below
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    value: int = loader.construct_yaml_int(node)
    str(value)  # raises if Python would refuse to print it in a message
    if SURPRISING.fullmatch(node.value):
        meant = value if ":" in node.value else int(node.value.replace("_", ""))
        problem = f"{node.value} would be read as {value}; write {meant}"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return value


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def read(path: Path) -> Any:
    """Read a file of YAML.

    Raises:
        CoopNetError: the file is missing, unreadable, not UTF-8 or not YAML, repeats a key, or is beyond the bounds
            above.
    """
    try:
        with path.open("rb") as handle:
            content = handle.read(LARGEST + 1)
    except OSError as error:
        raise CoopNetError(f"cannot read {path}: {error}; run this from the folder that holds it") from None
    if len(content) > LARGEST:
        raise CoopNetError(f"{path} has more than {LARGEST:,} bytes; too many for settings; check the path")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CoopNetError(f"{path} is not UTF-8 (at byte {error.start}); save it as UTF-8") from None
    try:
        _measure(text)
        return yaml.load(text, _Loader)
    except Exception as error:  # besides YAMLError, PyYAML raises any error of its scalar conversions
        reason = " ".join(str(error).split()).replace('"<unicode string>"', path.name)  # PyYAML's name for a text
        raise CoopNetError(f"{path} is not valid YAML: {reason}") from None


def _measure(text: str) -> None:
    """Refuse YAML that is too deep, too long or too large, by its parser events, which do not expand aliases."""
    values, height = 0, 0
    known: dict[str, tuple[int, int]] = {}  # for each anchor: its number of values and their height
    opened: list[tuple[str | None, int, int]] = []  # open collections: anchor, values before, height before
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, values, height))
            values, height = values + 1, 0
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before, beside = opened.pop()
            height += 1
            if anchor:
                known[anchor] = (values - before, height)
            height = max(height, beside)
        elif isinstance(event, yaml.AliasEvent):
            more, levels = known.get(event.anchor or "", (1, 0))
            values, height = values + more, max(height, levels)
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            if len(event.value) > LONGEST:
                raise _beyond(event, f"a value has more than {LONGEST:,} characters; shorten it")
        if len(opened) + height > DEEPEST:
            raise _beyond(event, f"it is nested more than {DEEPEST} levels deep; remove some")
        if values > MOST:
            raise _beyond(event, f"it has more than {MOST:,} values, aliases included; remove some")


def _beyond(event: yaml.Event, why: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=why, problem_mark=event.start_mark)  # type: ignore[arg-type]  # a Mark of the C parser
