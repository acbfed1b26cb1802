"""Generates parts of the reference: parameters from the pydantic models, commands from the command line, JSON schemas.

`python docs/reference.py` writes the two schemas that editors use; `conf.py` puts the rest into the pages.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from coopnet.cli import app
from coopnet.report.topics.method import TERMS
from coopnet.study import settings

ROOT = Path(__file__).parent.parent

Schema = dict[str, Any]

MODELS: Mapping[str, tuple[type[BaseModel], ...]] = {
    "params.yaml": (settings.Parameters,),
    "studies/NAME.yaml": (settings.Overlay,),
    "A row of experiments": (settings.Experiment,),
    "data": (settings.Data,),
    "model": (settings.Model,),
    "start": (
        *(settings.Random, settings.Continue, settings.ZeroPad, settings.ZeroOutput, settings.Masked, settings.Split),
        *(settings.Combine, settings.Merge, settings.Imported),
    ),
    "training": (settings.Training,),
    "training.optimizer": (settings.SGD, settings.Adam),
    "training.schedule": (settings.Schedule, settings.GradientRatio),
    "training.distillation": (
        *(settings.OnTheFly, settings.NoDistillation, settings.Mutual),
        *(settings.SoftLabels, settings.Knowledge),
    ),
    "datasets": (settings.DatasetEntry, settings.HeldOut, settings.Pinned, settings.Counts, settings.Digests),
}
"""Heading on the page → the models that it describes."""

SCHEMAS = {"params.schema.json": settings.Parameters, "studies/overlay.schema.json": settings.Overlay}
"""Committed schema → what it describes."""

ROWS = ("defaults", "every_experiment")
"""Keys that hold a part of a row; `experiments` holds one by name."""

BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
"""Pydantic keeps its own name of a bound if another validator comes first."""


# Schemas for editors -------------------------------------------------------------------------------------------------


def schema(model: type[BaseModel]) -> Schema:
    """JSON schema of a parameter file, in which every row may leave out values that it takes from `defaults`."""
    _, whole = models_json_schema([(model, "validation"), (settings.Experiment, "validation")])
    definitions = whole["$defs"]
    file = definitions.pop(model.__name__)
    outside = _reachable(file, definitions)
    for name, definition in definitions.items():
        if name not in outside:
            definition.pop("required", None)
    definitions["Data"]["properties"].pop("images")  # filled in, not to be set
    row = {"$ref": "#/$defs/Experiment"}
    for key in ROWS:
        if key in file["properties"]:
            described = {"description": file["properties"][key]["description"]}
            file["properties"][key] = row | described
    experiments = file["properties"]["experiments"]
    for place in ("additionalProperties", "patternProperties"):
        if place in experiments:
            experiments[place] = row if place == "additionalProperties" else dict.fromkeys(experiments[place], row)
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", **file, "$defs": definitions}
    return _plain(made)


def _reachable(part: Any, definitions: Schema) -> set[str]:
    """Names of the definitions that a part refers to, directly or not."""
    found: set[str] = set()
    for name in re.findall(r'"#/\$defs/(\w+)"', json.dumps(part)):
        found |= {name} | _reachable(definitions[name], definitions)
    return found


def _plain(part: Any) -> Any:
    """A schema without titles and discriminators, which are redundant, and with the standard's names of bounds."""
    if isinstance(part, list):
        return [_plain(one) for one in part]
    if not isinstance(part, dict):
        return part
    made: Schema = {}
    for key, value in part.items():
        if key == "properties":
            made[key] = {name: _plain(one) for name, one in value.items()}
        elif key == "oneOf":  # a part of a row may fit several kinds
            made["anyOf"] = _plain(value)
        elif key not in ("title", "discriminator"):
            made[BOUNDS.get(key, key)] = _plain(value)
    return made


def written(name: str) -> str:
    """A committed schema, as text."""
    return json.dumps(schema(SCHEMAS[name]), indent=2, ensure_ascii=False) + "\n"


# Parameters ----------------------------------------------------------------------------------------------------------


def parameters() -> str:
    """Every key that `params.yaml` and overlays may have, as Markdown."""
    every = [model for models in MODELS.values() for model in models]
    _, whole = models_json_schema([(model, "validation") for model in every])
    definitions = whole["$defs"]
    assert {model.__name__ for model in every} == set(definitions), "a section of the settings is on no page"
    return "\n".join(line for heading, models in MODELS.items() for line in _section(heading, models, definitions))


def _section(heading: str, models: tuple[type[BaseModel], ...], definitions: Schema) -> Iterator[str]:
    yield f"\n## {heading}\n" if heading.startswith("A ") else f"\n## `{heading}`\n"
    for model in models:
        section = definitions[model.__name__]
        keys = dict(section["properties"])
        kind = keys.pop("kind", None)
        if kind is not None:
            yield f"### `kind: {kind['const']}`\n"
        elif model is not models[0]:
            yield f"### {HEADINGS[model.__name__]}\n"
        yield f"{' '.join(section['description'].split())}\n"
        if keys:
            yield "| key | value | default | meaning |\n| --- | --- | --- | --- |"
        for name, key in keys.items():
            default = "" if name in section.get("required", []) else _code(_default(key.get("default")))
            yield f"| `{name}` | {_kind(key)} | {default or '*needed*'} | {_cell(key['description'])} |"
        if keys:
            yield ""


HEADINGS = {
    "GradientRatio": "`gradient_ratio`",
    "HeldOut": "`test`",
    "Pinned": "`pinned`",
    "Counts": "`pinned.counts`",
    "Digests": "`pinned.digest`",
}
"""Headings of nested sections."""

PLACES = {
    "Data": "#data",
    "Model": "#model",
    "Training": "#training",
    "Schedule": "#trainingschedule",
    "GradientRatio": "#gradient_ratio",
    "DatasetEntry": "#datasets",
    "HeldOut": "#test",
    "Pinned": "#pinned",
    "Counts": "#pinnedcounts",
    "Digests": "#pinneddigest",
    "Random": "#start",
    "SGD": "#trainingoptimizer",
    "OnTheFly": "#trainingdistillation",
}
"""Section → its place on the page; a choice is named by its first option."""


def _kind(key: Schema) -> str:
    """The allowed values of a field, in words."""
    key = _plain(key)
    if "$ref" in key:
        return f"[section]({PLACES[key['$ref'].rpartition('/')[2]]})"
    if "anyOf" in key:
        first = key["anyOf"][0].get("$ref", "").rpartition("/")[2]
        if first in PLACES and len(key["anyOf"]) > 1 and "$ref" in key["anyOf"][1]:
            return f"[one of several]({PLACES[first]})"
        return " or ".join(_kind(one) for one in key["anyOf"])
    if "enum" in key:
        return ", ".join(f"`{value}`" for value in key["enum"])
    if "prefixItems" in key:
        return f"{len(key['prefixItems'])} of: {_kind(key['prefixItems'][0])}"
    if key["type"] == "array":
        number = f"{key['minItems']} of: " if key.get("minItems", 0) == key.get("maxItems", -1) else "list of: "
        return number + _kind(key["items"])
    if key["type"] == "object":
        inside = next(iter(key.get("patternProperties", {}).values()), {})
        return f"name → {_kind(inside)}" if "$ref" in inside else "mapping"
    return WORDS[key["type"]] + _bounds(key)


WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true, false", "null": "`null`"}


def _bounds(key: Schema) -> str:
    low = f" ≥ {key['minimum']:g}" if "minimum" in key else ""
    low = f" > {key['exclusiveMinimum']:g}" if "exclusiveMinimum" in key else low
    high = key.get("maximum", settings.LARGEST)
    top = f" ≤ {high}" if high != settings.LARGEST else ""
    top = f" < {key['exclusiveMaximum']:g}" if "exclusiveMaximum" in key else top
    return low + ("," if low and top else "") + top


def _default(value: Any) -> str:
    if isinstance(value, Mapping):
        return "kind: " + value["kind"] if "kind" in value else "{}"
    return value if isinstance(value, str) else json.dumps(value)


def _code(text: str) -> str:
    return f"`{text}`" if text else "empty"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# Commands ------------------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its arguments and options, as Markdown."""
    return "\n".join(_group(typer.main.get_command(app), "coopnet", "##"))


def _group(group: Any, name: str, level: str) -> Iterator[str]:
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield f"\n{level} `{name} {word}`\n\n{_sentence(command.help)}"
            yield from _group(command, f"{name} {word}", level + "#")
        else:
            yield from _command(command, f"{name} {word}", level)


def _command(command: Any, name: str, level: str) -> Iterator[str]:
    arguments = [one for one in command.params if not one.opts[0].startswith("-")]
    options = [one for one in command.params if one.opts[0].startswith("-") and one.name != "help"]
    words = [_argument(one) if one.required else f"[{_argument(one)}]" for one in arguments] + [
        _option(one) for one in options if one.required
    ]
    if len(options) > sum(one.required for one in options):
        words.append("[OPTIONS]")
    yield f"\n{level} `{name}`\n\n{_sentence(command.help)}\n\n```text\n{' '.join([name, *words])}\n```\n"
    if command.params:
        yield "| argument or option | meaning |\n| --- | --- |"
    for one in (*arguments, *options):
        shown = _option(one) if one in options else _argument(one)
        default = one.default not in (None, False) and one.show_default and not one.required
        remark = f"; default: `{one.default}`" if default else ""
        yield f"| `{shown}` | {_cell(one.help or HELP.get(one.name, ''))}{remark} |"


HELP = {"seed": "whole number, which names the run", "repetitions": "how often each is measured"}
"""Descriptions of arguments that the command line explains by their name only."""


def _argument(one: Any) -> str:
    return str(one.metavar or one.name.upper()).strip("[]")


def _option(one: Any) -> str:
    name = str(one.opts[0])
    return name if one.is_flag else f"{name} {one.metavar or one.opts[0].lstrip('-').upper().replace('-', '_')}"


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# Promises ------------------------------------------------------------------------------------------------------------


def promises(page: str) -> str:
    """The page of guarantees with its lists of promises as tables: promise, test."""
    blocks = re.split(r"(?m)^(?=## |Not promised:)", page)
    return "".join(_table(block) if block.startswith("## ") else block for block in blocks)


def _table(block: str) -> str:
    heading, _, rest = block.partition("\n")
    rows = []
    for item in re.split(r"(?m)^- ", rest)[1:]:
        text = " ".join(item.split())
        promise, tests = text.partition(": `test_")[::2]
        names = re.findall(r"`([^`]+)`", f"`test_{tests}")
        rows.append(f"| {_cell(_capital(promise))}. | {'<br>'.join(map(_breakable, names))} |")
    return "\n".join([heading, "", "| promise | test |", "| --- | --- |", *rows, "", ""])


def _breakable(name: str) -> str:
    """Code that may be broken between its words."""
    parts = re.sub("(_|::)", r"\1<wbr>", name)
    return f'<code class="docutils literal notranslate">{parts}</code>'


def words() -> str:
    """The words of the reports' glossary, with their meanings."""
    return "\n".join(["| word | meaning |", "| --- | --- |", *(f"| {word} | {meaning} |" for word, meaning in TERMS)])


PARTS: Mapping[str, Callable[[], str]] = {"parameters": parameters, "commands": commands, "words": words}
"""Mark in a page → the function that generates its text."""


if __name__ == "__main__":
    for file in SCHEMAS:
        (ROOT / file).write_text(written(file), encoding="utf-8")
