"""`coopnet compare`: two models on the same test images, side by side."""

from coopnet.deploy import images, measure
from coopnet.deploy.models import BATCHES, open_model
from coopnet.runs.workspace import Workspace


def compare(workspace: Workspace, a: str, b: str, data: str, branches: list[int] | None) -> None:
    """Print accuracy, calibration and latency of both models, their agreement, and their difference with its interval.

    Raises:
        CoopNetError: there is no such model or dataset, or its images or classes do not fit a model.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    test = images.labelled(workspace, data)
    models = [open_model(name, branches) for name in (a, b)]
    for model in models:
        model.preprocessing.check_classes(model.name, data, test.class_names)
    with images.progress("classifying", 2 * len(test.images)) as advance:
        logits = [model.logits(test.images, advance) for model in models]
    qualities = [measure.quality(one, test.labels) for one in logits]
    apart = measure.difference(logits[0], logits[1], test.labels)

    table = Table(f"on the test images of {escape(data)}", escape(a), escape(b))
    table.add_row("images", *(f"{one.images:,}" for one in qualities))
    table.add_row(
        "top-1 (95 % interval)", *(f"{one.top1:.2f} % ({one.low:.2f} to {one.high:.2f})" for one in qualities)
    )
    table.add_row("top-5", *(f"{one.top5:.2f} %" for one in qualities))
    table.add_row("expected calibration error", *(f"{one.ece:.2f} %" for one in qualities))
    table.add_row("negative log-likelihood", *(f"{one.nll:.4f} nats" for one in qualities))
    for batch in BATCHES:
        table.add_row(f"latency, batch {batch}", *(f"{model.latency(batch):.2f} ms" for model in models))
    table.add_row("form", *(model.form for model in models))
    console = Console()
    console.print(table)
    console.print(
        f"B − A: {apart.top1:+.2f} points of top-1, 95 % interval {apart.low:+.2f} to {apart.high:+.2f} (paired); "
        f"they agree on {apart.agreement:.2f} % of the images.\n"
        f"The intervals cover the choice of test images only. Latency on: {measure.machine()}.",
        highlight=False,
        soft_wrap=True,
    )
