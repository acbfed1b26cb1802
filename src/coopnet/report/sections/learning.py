"""Learning curves, and the learning rates of single modules."""

from coopnet.report.document import Picture, Section, Table
from coopnet.report.frames import PARTS, Panels, Tables


def section(tables: Tables) -> Section:
    """Every trained experiment, epoch by epoch."""
    tail = " Lines are means over seeds, bands span all seeds." if tables.replicated else ""
    items: list[Table | Picture] = []
    for name, panels in tables.panels.items():
        caption = "Training from scratch: test top-1."
        if "finetuning" in name:
            caption = (
                "Training that starts from trained networks: test top-1; of a single parent the final ensemble is the "
                "dotted line."
            )
        items.append(Picture(name, _whose(tables, panels) + caption + tail, "history.csv"))
    if not tables.factors.empty:
        caption = (
            "How many times the base learning rate each module gets where every module has its own (mean over the "
            "steps of an epoch, first seed): modules from the input at the top to the output."
        )
        items.append(Picture("factors", caption, "factors.csv"))
    return Section("curves", "Learning curves", [], items)


def _whose(tables: Tables, panels: Panels) -> str:
    """Part and data of a figure, where the study has several."""
    several = len({panels.data for panels in tables.panels.values()}) > 1
    words = [PARTS.get(panels.part, panels.part)] if len(tables.parts) > 1 else []
    words += [panels.data] if several else []
    return f"{', '.join(words)}. " if words else ""
