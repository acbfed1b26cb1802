"""YAML from files that may be wrong, or mean harm: only ever data, and read with bounded memory and time."""

from pathlib import Path
from typing import Any

import yaml

from coopnet.files.errors import CoopNetError

LARGEST = 16 * 2**20
"""Bytes of a file."""
DEEPEST = 64
"""Levels of nesting. The parser in C recurses: some ten thousand levels overflow its stack, and no exception tells."""
MOST = 1_000_000
"""Values in a file when each alias counts as all that it stands for: a few lines of aliases can stand for billions."""
LONGEST = 10_000
"""Characters of one value; PyYAML takes quadratic time for a long number."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # C where PyYAML has it
    """YAML that refuses a key given twice, where PyYAML would keep the last, and numbers too long to be shown."""


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
    str(value)  # raises where Python would refuse to show it in a message
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
        raise CoopNetError(f"{path} has more than {LARGEST:,} bytes; that is no file of settings, so put the right one")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CoopNetError(f"{path} is not UTF-8 (at byte {error.start}); save it as UTF-8") from None
    try:
        _measure(text)
        return yaml.load(text, _Loader)
    except Exception as error:  # beside YAMLError, PyYAML lets through what its conversions of scalars raise
        raise CoopNetError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def _measure(text: str) -> None:
    """Refuse what is too deep, too long or too much, from the parser's events: they come one by one, unexpanded."""
    values, height = 0, 0
    known: dict[str, tuple[int, int]] = {}  # of each anchor: how many values it stands for, and their height
    opened: list[tuple[str | None, int, int]] = []  # collections: anchor, values before it, height of what stood before
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
    return yaml.MarkedYAMLError(problem=why, problem_mark=event.start_mark)  # type: ignore[arg-type]  # a Mark of C
