"""The files `checkpoints/STUDY/plan/PHASE.json`: the keys of each phase's runs, and all else that decides its results.

DVC's stages depend on these files instead of `params.yaml` and the source, so that an edit asks only for the phases
that it concerns.
"""

import json
from pathlib import Path
from typing import Any

from coopnet import files
from coopnet.runs.steps import fingerprint, tables
from coopnet.runs.workspace import Workspace
from coopnet.study import Study
from coopnet.study.phases import TRAINING


def texts(workspace: Workspace, plan: Study) -> dict[str, str]:
    """The text of each file, by phase: the phases of training, and the tables.

    A text changes exactly if some of the phase's results have to be made anew.
    """
    runs: dict[str, dict[str, str]] = {phase: {} for phase in TRAINING}
    for run in plan.everything():
        runs[run.phase][run.name] = run.key
    content: dict[str, Any] = {
        phase: {"evaluation": fingerprint("evaluation"), "runs": own} for phase, own in runs.items()
    }
    content["tables"] = {"words": tables(workspace, plan).parameters, "phases": runs}
    return {phase: json.dumps(one, indent=1, sort_keys=True) + "\n" for phase, one in content.items()}


def write(workspace: Workspace, plan: Study) -> None:
    """Write the files of a study; a file that is right keeps its date."""
    for path, text in _files(workspace, plan):
        if not _has(path, text):
            files.write_text(path, text)


def are_written(workspace: Workspace, plan: Study) -> bool:
    """Whether the files are those of this plan."""
    return all(_has(path, text) for path, text in _files(workspace, plan))


def _files(workspace: Workspace, plan: Study) -> list[tuple[Path, str]]:
    return [(workspace.phase_keys(plan.name, phase), text) for phase, text in texts(workspace, plan).items()]


def _has(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()
