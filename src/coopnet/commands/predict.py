"""`coopnet predict`: classify image files with a model."""

import csv
import logging
import sys
from collections.abc import Iterable

from coopnet.deploy import images
from coopnet.deploy.models import open_model
from coopnet.deploy.predict import Prediction, found, predict
from coopnet.files.errors import CoopNetError

log = logging.getLogger(__name__)


def show(model: str, places: list[str], branches: list[int] | None, top: int, *, as_csv: bool) -> None:
    """Print the most probable classes of every image, as lines or as CSV.

    Raises:
        CoopNetError: there is no such model or no image; or some images could not be read (the others are printed).
    """
    opened, paths = open_model(model, branches), found(places)
    with images.progress("classifying", len(paths)) as advance:
        predictions = predict(opened, paths, top=top, advance=advance)
        unread = _csv(predictions, top) if as_csv else _lines(predictions)
    if unread:
        raise CoopNetError(f"{unread} of {len(paths)} images could not be read; they are named above")


def _lines(predictions: Iterable[Prediction]) -> int:
    unread = 0
    for one in predictions:
        if one.error is not None:
            unread += 1
            log.warning("%s", one.error)
            continue
        shares = zip(one.classes, one.probabilities, strict=True)
        print(f"{one.path}\t" + ", ".join(f"{name} {share:.3f}" for name, share in shares))
    return unread


def _csv(predictions: Iterable[Prediction], top: int) -> int:
    unread, table = 0, csv.writer(sys.stdout, lineterminator="\n")
    header = ["image", *(f"{what}{rank}" for rank in range(1, top + 1) for what in ("class", "probability")), "error"]
    table.writerow(header)
    for one in predictions:
        unread += one.error is not None
        if one.error is not None:
            log.warning("%s", one.error)
        shares = [f for pair in zip(one.classes, map("{:.6f}".format, one.probabilities), strict=True) for f in pair]
        table.writerow([one.path, *shares, *[""] * (len(header) - 2 - len(shares)), one.error or ""])
    return unread
