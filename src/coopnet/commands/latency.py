"""`coopnet timing --latency`: the time that each network of a study takes for a batch of images on this machine.

Latency depends on the layers and not on the weights, so no run has to exist. It is a wall-clock figure, so it has a
file of its own beside the tables, which only the page of timings reads.
"""

from collections.abc import Iterator
from typing import Any

from coopnet import files, study
from coopnet.runs.workspace import LATENCY, Workspace
from coopnet.study import Study

BATCHES = (1, 64)
COLUMNS = ("experiment", "parameters", *(f"batch_{batch}_ms" for batch in BATCHES), "machine")


def measure(workspace: Workspace, name: str) -> None:
    """Write `results/<study>/tables/latency.csv`: milliseconds of each experiment's ensemble, on the CPU.

    Raises:
        CoopNetError: there is no such study, or a network of it cannot be built.
    """
    plan = study.load(workspace.root, name)
    files.write_rows(workspace.tables(name) / LATENCY, list(_rows(plan)), COLUMNS)


def _rows(plan: Study) -> Iterator[dict[str, Any]]:
    import torch

    from coopnet.deploy.measure import machine
    from coopnet.deploy.models import milliseconds
    from coopnet.networks.network import build
    from coopnet.networks.planned import architecture_of

    torch.set_num_threads(plan.threads)
    known: dict[Any, dict[str, float]] = {}
    for name, row in plan.experiments.items():
        dataset = plan.data[row.data.dataset]
        kind = (row.model.model_dump_json(), dataset.classes, dataset.size)
        if kind not in known:
            network = build(architecture_of(row.model, dataset), seed=0).eval().to(memory_format=torch.channels_last)
            known[kind] = {"parameters": sum(parameter.numel() for parameter in network.parameters())}
            for batch in BATCHES:
                images = torch.zeros(batch, 3, dataset.size, dataset.size).to(memory_format=torch.channels_last)
                with torch.inference_mode():
                    known[kind][f"batch_{batch}_ms"] = round(milliseconds(lambda: network(images)), 3)  # noqa: B023
        yield {"experiment": name, **known[kind], "machine": machine()}
