"""Random settings, claims and published figures: they are accepted, or refused in one helpful line.

Random values follow the schema of the models, so a new key is fuzzed as soon as it exists.
"""

import copy
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from conftest import ROOT
from coopnet import study
from coopnet.claims import entries
from coopnet.claims.entries import KINDS, Claim
from coopnet.files.errors import CoopNetError
from coopnet.report import published
from coopnet.report.published import Figure, Source
from coopnet.study.settings import Experiment, Overlay, Parameters

BIN = Path(sys.executable).parent
PARAMS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
ROWS = ("baseline", "one1", "one3", "one3_continued", "one3_to_5_masked", "one3_to_5_split", "merge3_refit", "combine3")
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
BASE = PARAMS | {"experiments": {name: PARAMS["experiments"][name] for name in ROWS}}
OVERLAY: dict[str, Any] = {"device": "cpu", "seeds": [0], "time_scale": 0.5, "every_experiment": {}, "experiments": {}}
SCHEMAS: dict[type[BaseModel], dict[str, Any]] = {
    model: model.model_json_schema() for model in (Parameters, Overlay, Experiment, Claim, Source, Figure)
}
FEW = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # examples are small enough without shrinking
)


REMEDIES = (
    *("valid", "known", "missing", "mean", "must", "need", "take", "not", "repeat", "make", "do ", "is for", "leave"),
    *("remove", "rename", "begin", "give", "ascend", "lies", "let it"),
)

# Values by the schema --------------------------------------------------------------------------------


def followed(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema, or the schema that it refers to."""
    reference = schema.get("$ref")
    return whole["$defs"][reference.rpartition("/")[2]] if reference else schema


def by_schema(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that the schema allows; some keys of a mapping are left out, including required ones."""
    schema = followed(schema, whole)
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return st.one_of([by_schema(option, whole) for option in options])
    match schema.get("type"):
        case "object" if "properties" in schema:
            parts = {key: by_schema(value, whole) for key, value in schema["properties"].items()}
            named = {key: parts.pop(key) for key in ("kind",) if key in parts}
            return st.fixed_dictionaries(named, optional=parts)
        case "array" if "prefixItems" in schema:
            return st.tuples(*(by_schema(part, whole) for part in schema["prefixItems"])).map(list)
        case "array":
            return st.lists(by_schema(schema.get("items", {}), whole), min_size=schema.get("minItems", 0), max_size=4)
        case "integer":
            low, high = schema.get("minimum", -3), schema.get("maximum", 10**30)
            return st.one_of(st.integers(low, min(high, low + 8)), st.integers(low, high))
        case "number":
            low, high = (schema.get(key, schema.get(f"exclusive{key.capitalize()}")) for key in ("minimum", "maximum"))
            return st.floats(low, high, allow_nan=False, allow_infinity=False)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "string":
            return st.sampled_from(["one3", "baseline"]) | st.text(max_size=20)
        case _:
            return st.dictionaries(st.text(max_size=5), st.integers(), max_size=2)


def fields(schema: Mapping[str, Any], whole: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[Any]:
    """Every key of the schema, by its path, with the schema of its value; `kind` distinguishes sections."""
    schema = followed(schema, whole)
    for option in [*schema.get("anyOf", []), *schema.get("oneOf", [])]:
        yield from fields(option, whole, path)
    for key, value in schema.get("properties", {}).items():
        kind = schema["properties"].get("kind", {}).get("const")
        yield (*path, key), kind, sorted(schema["properties"])
        yield from fields(value, whole, (*path, key))


ROW_FIELDS = list(fields(SCHEMAS[Experiment], SCHEMAS[Experiment]))


# Running ---------------------------------------------------------------------------------------------


def put(content: dict[str, Any], path: tuple[str, ...], value: Any, kind: str | None = None) -> None:
    """Set a value deep in mappings; `kind` is that of the mapping that contains it."""
    *parents, last = path
    for part in parents:
        content[part] = content[part] if isinstance(content.get(part), dict) else {}
        content = content[part]
    if kind is not None and content.get("kind") != kind:
        content.clear()
        content["kind"] = kind
    content[last] = value


def write(folder: Path, content: Any, overlay: Any = None) -> Path:
    """A workspace with these settings."""
    (folder / "studies").mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(
        yaml.dump(content, Dumper=DUMPER, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    if overlay is not None:
        text = yaml.dump(overlay, Dumper=DUMPER, sort_keys=False, allow_unicode=True)
        (folder / "studies" / "other.yaml").write_text(text, encoding="utf-8")
    return folder


def outcome(folder: Path, name: str = "full") -> str:
    """The error message for a study, empty if it loads; any exception except the one for users is a bug."""
    try:
        plan = study.load(folder, name)
    except CoopNetError as error:
        message = str(error)
        assert len(message.splitlines()) == 1, message
        assert len(message) < 4_000
        assert message.isprintable(), message
        assert any(word in message for word in REMEDIES), message
        return message
    assert plan.runs
    for run in plan.runs.values():
        assert run.seed < 2**63  # what the tables can hold
    return ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for one workspace after another."""
    return tmp_path_factory.mktemp("fuzz")


# params.yaml and overlays ------------------------------------------------------------------------------


def check_any_settings(folder: Path, row: Any, top: Any, overlay: Any) -> None:
    """One set of settings that follows the schema."""
    content = copy.deepcopy(BASE) | {key: value for key, value in top.items() if key not in ("defaults", "experiments")}
    content["experiments"]["one3"] = study.merge(content["experiments"]["one3"], row)
    outcome(write(folder, content, OVERLAY | overlay))
    outcome(folder, "other")


ANY = {
    "row": by_schema(SCHEMAS[Experiment], SCHEMAS[Experiment]),
    "top": by_schema(SCHEMAS[Parameters], SCHEMAS[Parameters]),
    "overlay": by_schema(SCHEMAS[Overlay], SCHEMAS[Overlay]),
}


@given(**ANY)
@FEW
def test_what_the_schema_allows_loads_or_is_refused_in_one_line(folder: Path, row: Any, top: Any, overlay: Any) -> None:
    """Any values of the right types, in any combination, give a study or a one-line error."""
    check_any_settings(folder, row, top, overlay)


@pytest.mark.slow
def test_what_the_schema_allows_at_length(folder: Path) -> None:
    """The test before, with new examples each time; the seed is printed."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"hypothesis seed {seed}")
    from hypothesis import seed as seeded

    @seeded(seed)
    @given(**ANY)
    @settings(max_examples=3_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def many(row: Any, top: Any, overlay: Any) -> None:
        check_any_settings(folder, row, top, overlay)

    many()


CONFUSED = [
    *([1, [2]], {"a": {"b": 1}}, "no such thing", "\u202e", "a\x85b", "$(touch x)", "{{ 7*7 }}", {1, 2}, b"\xff"),
    *(math.nan, math.inf, -math.inf, 10**30, -(10**30), 10**400, 1e308, -1e308, 0.5, True, None),
]


@given(field=st.sampled_from(ROW_FIELDS), value=st.sampled_from(CONFUSED))
@FEW
@example(field=(("model", "width"), None, []), value=10**400)
@example(field=(("training", "optimizer", "lr"), "sgd", []), value=math.nan)
def test_a_value_of_another_type_is_named_with_its_key(folder: Path, field: Any, value: Any) -> None:
    """If a row is refused for one value, the message has the row's name and the key's path."""
    path, kind, _ = field
    content = copy.deepcopy(BASE)
    row = content["experiments"]["one3"]
    put(row, path, value, kind)
    message = outcome(write(folder, content))
    try:
        Experiment.model_validate(study.merge(BASE["defaults"], row))
    except ValueError:
        assert "experiments.one3: " in message
        # A start that the value has made complete may lack its parent, which is found later.
        assert ".".join(path) in message or "parent" in message


NUMBERS = {
    ("model", "width"): (1, 10_000),
    ("model", "branches"): (1, 100),
    ("training", "epochs"): (0, 1_000_000),
    ("training", "batch_size"): (2, 2**31 - 1),
    ("training", "test_every"): (1, 2**31 - 1),
    ("data", "split_seed"): (0, 2**31 - 1),
    ("data", "validation"): (0, None),
}


@pytest.mark.parametrize("path", NUMBERS, ids=".".join)
def test_a_number_out_of_range_is_named_with_key_and_value(path: tuple[str, ...], folder: Path) -> None:
    """One below the minimum and one above the maximum are refused with the key, the value and the bound."""
    low, high = NUMBERS[path]
    for value, bound in ((low - 1, low), (high and high + 1, high)):
        if bound is None:
            continue
        content = copy.deepcopy(BASE)
        put(content["experiments"]["one3"], path, value)
        message = outcome(write(folder, content))
        for word in (f"experiments.one3: {'.'.join(path)}: {value} is not valid", f"equal to {bound}"):
            assert word in message, message


def distance(one: str, other: str) -> int:
    """Edit distance between two words: insertions, deletions, changes and swaps of neighbours."""
    table = {(i, 0): i for i in range(len(one) + 1)} | {(0, j): j for j in range(len(other) + 1)}
    for i, a in enumerate(one, 1):
        for j, b in enumerate(other, 1):
            costs = [table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b)]
            if i > 1 and j > 1 and (a, b) == (other[j - 2], one[i - 2]):
                costs.append(table[i - 2, j - 2] + 1)
            table[i, j] = min(costs)
    return table[len(one), len(other)]


@st.composite
def typos(draw: st.DrawFn, word: str) -> str:
    """A word with one typing error: a letter lost, doubled, changed, or two swapped."""
    place = draw(st.integers(0, len(word) - 1))
    letter = draw(st.sampled_from("abcxyz_"))
    swapped = word[:place] + word[place : place + 2][::-1] + word[place + 2 :]
    slips = [word[:place] + word[place + 1 :], word[:place] + word[place] + word[place:]]
    return draw(st.sampled_from([*slips, word[:place] + letter + word[place + 1 :], swapped, word.upper()]))


@given(data=st.data(), field=st.sampled_from(ROW_FIELDS))
@settings(FEW, max_examples=60)
def test_a_misspelt_key_is_answered_with_the_nearest(folder: Path, data: st.DataObject, field: Any) -> None:
    """For a key with one typing error the message has its path, and a known key at least as near as the right one."""
    path, kind, known = field
    slip = data.draw(typos(path[-1]))
    if slip in known or not slip or path[-1] == "kind":
        return
    content = copy.deepcopy(BASE)
    put(content["experiments"]["one3"], (*path[:-1], slip), 1, kind)
    message = outcome(write(folder, content))
    assert f"{slip} is not a known key" in message or f"{slip!r} is not a known key" in message, message
    hints = [name for name in known if f"did you mean {name!r}?" in message]
    assert hints, message
    assert distance(slip.lower(), hints[0]) <= max(distance(slip.lower(), path[-1]), 2)


CHOICES = [
    (path, options)
    for path, options in (
        (("data", "dataset"), ["digits", "cifar10", "cifar100"]),
        (("model", "gate"), ["learned", "mean", "none"]),
        (("training", "precision"), ["fp32", "bf16"]),
        (("training", "selection"), ["last", "best_validation"]),
        (("part",), ["foundation", "variants", "growth", "step2", "elsewhere", "distillation"]),
        (("start", "kind"), ["masked", "split", "zero_pad", "zero_output", "merge", "combine", "imported", "continue"]),
    )
]


@given(data=st.data(), choice=st.sampled_from(CHOICES))
@FEW
def test_a_misspelt_choice_is_answered_with_the_nearest(folder: Path, data: st.DataObject, choice: Any) -> None:
    """Likewise for a value from a list, with the possible values."""
    path, options = choice
    meant = data.draw(st.sampled_from(options))
    slip = data.draw(typos(meant))
    if slip in options or slip == "random":
        return
    content = copy.deepcopy(BASE)
    put(content["experiments"]["one3"], path, slip)
    message = outcome(write(folder, content))
    assert ".".join(path) in message
    assert slip in message
    assert "; did you mean '" in message, message
    for option in options:
        assert option in message


def test_all_mistakes_of_a_section_are_told_at_once(folder: Path) -> None:
    """All mistakes are reported at once, and a misspelt key is not also reported as missing."""
    content = copy.deepcopy(BASE) | {"device": "gpu", "seeds": [0, -1], "thread": 2}
    del content["threads"]
    message = outcome(write(folder, content))
    for told in ("thread is not a known key; did you mean 'threads'?", 'device: "gpu" is not valid', "seeds.1: -1"):
        assert told in message
    assert "threads is missing" not in message
    content = copy.deepcopy(BASE) | {f"x{place}": 1 for place in range(60)}
    assert message.count("also: ") == 2
    assert outcome(write(folder, content)).endswith("also: 55 more")


# Documents -----------------------------------------------------------------------------------------------

TEXT = yaml.safe_dump(BASE, sort_keys=False)
ALIASES = "".join(f"  k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGES = "".join(f"  k{i}: &k{i} {{<<: [{', '.join([f'*k{i - 1}'] * 9)}]}}\n" for i in range(1, 12))
MAPS = "".join(f"  k{i}: &k{i} {{{', '.join(f'm{j}: *k{i - 1}' for j in range(9))}}}\n" for i in range(1, 12))
DEEP = "".join(f"  k{i}: &k{i} {'[' * 50}*k{i - 1}{']' * 50}\n" for i in range(1, 60))
CHAIN = {"about": "x", "parents": ["e0"], "start": {"kind": "continue"}}
DOCUMENTS: dict[str, tuple[bytes, str]] = {
    name: (text.encode() if isinstance(text, str) else text, words)
    for name, (text, words) in {
        "nothing": ("", "must be a mapping of keys to values, not NoneType"),
        "a list": ("- 1", "must be a mapping of keys to values, not list"),
        "ten megabytes in a value": (TEXT.replace("title: ", "title: " + "x" * 10**7), "a value has more than 10,000"),
        "twenty megabytes": (TEXT + "#" * 20_000_000, "more than 16,777,216 bytes"),
        "100,000 open brackets": ("title: " + "[" * 100_000, "nested more than 64 levels deep"),
        "100,000 open mappings": ("title: " + "{a: " * 100_000, "nested more than 64 levels deep"),
        "100,000 indented keys": ("- " * 100_000, "nested more than 64 levels deep"),
        "deep by aliases": (TEXT.replace("defaults:\n", f"defaults:\n  k0: &k0 [1]\n{DEEP}"), "more than 64 levels"),
        "billion laughs": (TEXT.replace("defaults:\n", f"defaults:\n  k0: &k0 [lol]\n{ALIASES}"), "1,000,000 values"),
        "billion merges": (TEXT.replace("defaults:\n", f"defaults:\n  k0: &k0 {{a: 1}}\n{MERGES}"), "1,000,000 values"),
        "billion keys": (TEXT.replace("defaults:\n", f"defaults:\n  k0: &k0 {{a: 1}}\n{MAPS}"), "1,000,000 values"),
        "an alias of itself": (TEXT.replace("title: ", "title: &r [*r]\n#"), "is not valid YAML"),
        "an object of Python": ("title: !!python/object/apply:os.system ['touch pwned']", "is not valid YAML"),
        "a name of Python": ("title: !!python/name:os.system ''", "is not valid YAML"),
        "Latin 1": ("title: Zürich".encode("latin-1"), "is not UTF-8 (at byte 8); save it as UTF-8"),
        "UTF-16": (TEXT.encode("utf-16"), "is not UTF-8"),
        "a tab": ("title:\n\tx: 1", "line 2, column 1"),
        "a null byte": (TEXT + "\0", "is not valid YAML"),
        "two documents": (TEXT + "---\n" + TEXT, "is not valid YAML"),
        "a key twice": (TEXT + "threads: 1\n", "key 'threads' is given twice"),
        "a number of 4,000 digits": (TEXT.replace("seeds:\n- 0", "seeds:\n- " + "9" * 4_000), "seeds.0: 9999"),
        "a number of 9,000 digits": (TEXT.replace("seeds:\n- 0", "seeds:\n- 0x" + "f" * 9_000), "is not valid YAML"),
        "a number of 100,000 digits": (TEXT.replace("seeds:\n- 0", "seeds:\n- 1" + ":1" * 50_000), "10,000 characters"),
        "a billion seeds": (
            TEXT.replace("seeds:\n- 0", "seeds: 1000000000\nx:\n- 0"),
            "seeds: 1000000000 is not valid",
        ),
        "100,000 seeds": (yaml.dump(BASE | {"seeds": list(range(50_000))}, Dumper=DUMPER), "more than 10,000 runs"),
        "a chain of 300 experiments": (
            yaml.safe_dump(
                PARAMS
                | {
                    "experiments": {"e0": {"about": "x"}}
                    | {f"e{i}": CHAIN | {"parents": [f"e{i - 1}"]} for i in range(1, 300)}
                }
            ),
            "is 100 generations deep already",
        ),
        "combinations of combinations": (
            yaml.safe_dump(
                PARAMS
                | {
                    "experiments": {"s0": {"about": "x", "model": {"branches": 1, "gate": "none"}}}
                    | {
                        name: row
                        for i in range(1, 40)
                        for name, row in {
                            f"c{i}": {
                                "about": "x",
                                "parents": [f"s{i - 1}"] * 9,
                                "start": {"kind": "combine"},
                                "model": {"branches": 9, "gate": "mean", "trunk": "own"},
                                "training": {"epochs": 0},
                            },
                            f"s{i}": {
                                "about": "x",
                                "parents": [f"c{i}"],
                                "model": {"branches": 1, "gate": "none"},
                                "training": {"distillation": {"kind": "soft_labels"}},
                            },
                        }.items()
                    }
                }
            ),
            "more than 10,000 runs",
        ),
    }.items()
}

LIMITED = """
import json, resource, sys
from pathlib import Path
from coopnet import study
from coopnet.files.errors import CoopNetError
from coopnet.study import plan
plan.MOST_RUNS //= 10  # the real bound takes ten times as long
resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (120,) * 2)
for folder in sorted(Path(sys.argv[1]).iterdir()):
    try:
        study.load(folder)
    except CoopNetError as error:
        print(json.dumps([folder.name, str(error)]), flush=True)
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The error message for each document, from a process with 2 GB of memory and two minutes for all of them."""
    root = tmp_path_factory.mktemp("documents")
    for name, (content, _) in DOCUMENTS.items():
        (root / name).mkdir()
        (root / name / "params.yaml").write_bytes(content)
    done = subprocess.run([sys.executable, "-c", LIMITED, root], capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (root / "pwned").exists()
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_hostile_document_is_refused_with_bounded_memory_and_time(name: str, refusals: dict[str, str]) -> None:
    """Bombs, deep nesting, other encodings and non-mappings are refused in one line; nothing runs, nothing crashes."""
    assert DOCUMENTS[name][1] in refusals[name]
    assert len(refusals[name].splitlines()) == 1
    assert len(refusals[name]) < 1_000


@pytest.mark.parametrize("text", ["\ufeff" + TEXT, TEXT.replace("\n", "\r\n"), TEXT + "...\n"])
def test_a_harmless_document_loads(text: str, tmp_path: Path) -> None:
    """A byte order mark, Windows line ends and an end-of-document mark change nothing."""
    (tmp_path / "params.yaml").write_bytes(text.encode())
    assert list(study.load(tmp_path).experiments) == list(ROWS)


# Claims and figures --------------------------------------------------------------------------------------

CLAIMS: dict[str, Any] = yaml.safe_load((ROOT / "claims.yaml").read_text(encoding="utf-8"))
FIGURES: dict[str, Any] = yaml.safe_load((ROOT / "figures.yaml").read_text(encoding="utf-8"))
EXPERIMENTS = study.rows(ROOT)
ODD = st.one_of(
    st.sampled_from(
        [*CONFUSED, "one3.branch" + "9" * 5_000, "one3.branch1\u0663", "one3@transfer", "=cmd|' /C calc'!A0"]
    ),
    st.text(max_size=8),
    st.integers(),
    st.floats(),
)


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every container in a tree with each of its keys."""
    pairs = list(content.items() if isinstance(content, dict) else enumerate(content))
    inside = [place for _, value in pairs if isinstance(value, dict | list) for place in places(value)]
    return [(content, key) for key, _ in pairs] + inside


@given(data=st.data(), which=st.sampled_from(["claims.yaml", "figures.yaml"]))
@settings(FEW, max_examples=80)
def test_claims_and_figures_are_accepted_or_refused_in_one_line(folder: Path, data: st.DataObject, which: str) -> None:
    """Keys that are removed, misspelt or changed, anywhere in either file, never raise an unexpected exception."""
    whole = CLAIMS if which == "claims.yaml" else FIGURES
    name = data.draw(st.sampled_from(sorted(whole)))
    content = {name: copy.deepcopy(whole[name])}
    container, key = data.draw(st.sampled_from(places(content)))
    match data.draw(st.sampled_from(["delete", "replace", "rename"])):
        case "delete":
            del container[key]
        case "rename" if isinstance(container, dict):
            container[data.draw(st.one_of(typos(key), st.text(max_size=8), st.just(3), st.none()))] = container.pop(key)
        case _:
            container[key] = data.draw(ODD)
    path = folder / which
    path.write_text(yaml.dump(content, Dumper=DUMPER, sort_keys=False, allow_unicode=True), encoding="utf-8")
    try:
        if which == "claims.yaml":
            entries.read(path, EXPERIMENTS, EXPERIMENTS)
        else:
            published.read(path, EXPERIMENTS)
        message = ""
    except CoopNetError as error:
        message = str(error)
    assert message.isprintable()
    assert not message or which in message


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"kind": [1], "of": "one3"}, "kind: [1] is not known"),
        ({"kind": "better", "of": "one3.branch" + "9" * 5_000, "than": "one1"}, "is no model"),
        ({"kind": "better", "of": "one3.branch\u0661", "than": "one1"}, "it must be `experiment`"),
    ],
)
def test_a_hostile_part_of_a_claim_is_refused(part: dict[str, Any], words: str, tmp_path: Path) -> None:
    """A kind that is a list, or a branch with thousands of digits or with non-ASCII digits."""
    assert set(KINDS) >= {"better"}
    claim = {"number": "1", "text": "A.", "source": "B", "section": "growth", "parts": [part]}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"one": claim}), encoding="utf-8")
    with pytest.raises(CoopNetError) as refused:
        entries.read(tmp_path / "claims.yaml", EXPERIMENTS)
    assert words in str(refused.value)


# As a user runs it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "words"), [("a: [", "is not valid YAML"), (TEXT.replace("device:", "divice:"), "'device'")]
)
def test_the_command_line_says_one_line(document: str, words: str, tmp_path: Path) -> None:
    """A wrong file ends any command with exit code 1 and one line, without a traceback."""
    (tmp_path / "params.yaml").write_text(document, encoding="utf-8")
    done = subprocess.run([BIN / "coopnet", "runs"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("coopnet: error: params.yaml")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
