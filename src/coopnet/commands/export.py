"""`coopnet export`: write one branch, several, or the ensemble of a network in a portable format, with a model card."""

import logging
from pathlib import Path

from coopnet.deploy import export as exporting
from coopnet.deploy import images
from coopnet.files.errors import CoopNetError
from coopnet.library import saved
from coopnet.runs.workspace import Workspace

log = logging.getLogger(__name__)


def export(
    workspace: Workspace,
    source: str,
    out: Path,
    *,
    branches: list[int] | None,
    form: str,
    with_preprocessing: bool,
    data: str | None,
) -> None:
    """Write the export of a run or of a saved network.

    Raises:
        CoopNetError: as `deploy.export.write`, or there is no such network or dataset.
    """
    one = saved.read(source)
    test = images.of_record(workspace, one.record, data)
    with images.progress("exporting", 0 if test is None else len(test.images)) as advance:
        made = exporting.write(
            one,
            out,
            name=source,
            branches=branches,
            form=form,
            with_preprocessing=with_preprocessing,
            test=test,
            advance=advance,
        )
    measured = (
        "not measured, because no test images are prepared here"
        if test is None
        else f"measured on {len(test.images):,} test images"
    )
    log.info("%s: a model for %s, %s; %s/%s describes it", out, made.form, measured, out, exporting.CARD)


def chosen(branch: int | None, branches: str | None, ensemble: bool) -> list[int] | None:
    """The branches that the options select; None for all.

    Raises:
        CoopNetError: not exactly one of the options was given, or its text is not a list of numbers.
    """
    if [branch is not None, branches is not None, ensemble].count(True) != 1:
        raise CoopNetError("give one of --branch 1, --branches 1,3 and --ensemble")
    if ensemble:
        return None
    return [branch] if branch is not None else numbers(branches or "", "--branches")


def numbers(text: str, option: str) -> list[int]:
    """Parse a list of numbers such as `1,3`.

    Raises:
        CoopNetError: the text is not such a list.
    """
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise CoopNetError(f"{option} {text!r} is not a list of numbers such as 1,3") from error
