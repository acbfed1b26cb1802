"""Validation of user input, and error messages of one line that name key, value and remedy."""

import difflib
import functools
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from coopnet.data.datasets import DATASETS, Dataset
from coopnet.files.errors import CoopNetError

Checked = TypeVar("Checked", bound=BaseModel)
SHOWN = 5
"""Number of mistakes that one message lists."""


def check(model: type[Checked], content: Any, source: str, data: Mapping[str, Dataset] | None = None) -> Checked:
    """Validate `content`; the error has one line that names key, value and remedy of each mistake.

    `data` are the datasets that rows may name; the default is the project's own.
    """
    try:
        return model.model_validate(content, context={"datasets": DATASETS if data is None else data})
    except ValidationError as error:
        raise CoopNetError(f"{source}: {_explain(model, content, error)}") from None


def _explain(model: type[BaseModel], content: Any, error: ValidationError) -> str:
    errors = error.errors(include_url=False)
    unknown = [one for one in errors if one["type"] == "extra_forbidden"]

    def misspelt(one: Any) -> bool:
        beside = [str(other["loc"][-1]) for other in unknown if other["loc"][:-1] == one["loc"][:-1]]
        return one["type"] == "missing" and any(did_you_mean(word, [one["loc"][-1]]) for word in beside)

    # A missing key may be present but misspelt. It is then reported once, as an unknown key, before other mistakes.
    mistakes = unknown + [one for one in errors if one["type"] != "extra_forbidden" and not misspelt(one)]
    listed = [short(_describe(model, content, one), 400) for one in mistakes[:SHOWN]]
    more = [f"{len(mistakes) - SHOWN} more"] if len(mistakes) > SHOWN else []
    return " — also: ".join(listed + more)


def _describe(model: type[BaseModel], content: Any, error: Any) -> str:
    """One line about one of pydantic's errors."""
    location = [str(part) for part in error["loc"] if part != "[key]"]
    where = _as_written(location, content)
    match error["type"]:
        case "extra_forbidden":
            known = _fields_at(model, location[:-1])
            return f"{where} is not a known key{did_you_mean(location[-1], known)} (known: {', '.join(known)})"
        case "missing":
            return f"{where} is missing"
        case "union_tag_not_found":
            return f"{where}.kind is missing (known: {', '.join(_fields_at(model, location))})"
        case "union_tag_invalid":
            tag, known = error["ctx"]["tag"], _fields_at(model, location)
            return (
                f"{where}.kind: {short(repr(tag))} is not known{did_you_mean(tag, known)} (known: {', '.join(known)})"
            )
        case "value_error":
            message = str(error["ctx"]["error"])
            return f"{where}: {message}" if where else message
        case "dict_type" | "model_type" | "model_attributes_type":
            message = "it must be a mapping of keys to values"
        case "list_type" if isinstance(error["input"], int):
            message = "it must be a list, such as [0, 1, 2]"
        case "literal_error":
            hint = did_you_mean(str(error["input"]), re.findall("'([^']*)'", error["ctx"]["expected"]))
            message = f"{error['msg']}{hint}"
        case _:
            message = error["msg"]
    value = json.dumps(error["input"], default=str, skipkeys=True)
    return f"{where}: {short(value)} is not valid: {message}"


def short(text: str, most: int = 80) -> str:
    """Shorten a text to at most `most` characters, for messages."""
    return text if len(text) <= most else text[: most - 3] + "..."


def _as_written(location: list[str], content: Any) -> str:
    """A location as it is written in the file: on one line, without the `kind` tags that pydantic adds."""
    path = []
    for part in location:
        if isinstance(content, Mapping) and part not in content and part == content.get("kind"):
            continue
        path.append(short(part if part.isprintable() else repr(part)))
        content = content.get(part) if isinstance(content, Mapping) else None
    return ".".join(path)


def _fields_at(model: type[BaseModel], location: list[str]) -> list[str]:
    """Names of the fields that the schema of `model` allows at a location, tagged unions included."""
    schema = _schema(model)
    definitions = schema.get("$defs", {})
    current = schema
    for part in location:
        current = current.get("properties", {}).get(part) or _tagged(current, part) or {}
        if "anyOf" in current:  # a section that may be null
            current = next((one for one in current["anyOf"] if "$ref" in one), current)
        if "$ref" in current:
            current = definitions[current["$ref"].rpartition("/")[2]]
        if "discriminator" in current:
            current = {
                "properties": {
                    tag: definitions[reference.rpartition("/")[2]]
                    for tag, reference in current["discriminator"]["mapping"].items()
                }
            }
    return sorted(current.get("properties", {}))


@functools.cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _tagged(schema: Mapping[str, Any], part: str) -> dict[str, Any] | None:
    named = schema.get("patternProperties") or {"": schema.get("additionalProperties")}
    extra = next(iter(named.values()))
    return extra if isinstance(extra, dict) and part else None


def did_you_mean(word: str, known: Any) -> str:
    """`; did you mean 'one3'?` for the nearest known name, whatever its case; an empty string if none is near."""
    names = {str(name).lower(): str(name) for name in known}
    near = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.5)
    return f"; did you mean {names[near[0]]!r}?" if near else ""
