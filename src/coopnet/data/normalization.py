"""The constants with which images are normalised."""

from coopnet.data.datasets import Dataset

LAN2018 = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}
"""The constants of the published ONE code, for CIFAR-10 and CIFAR-100 (github.com/Lan1991Xu/ONE_NeurIPS2018)."""


def normalization(dataset: Dataset, kind: str) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel, in units of the full range.

    Args:
        dataset: the dataset whose training set gives the constants.
        kind: `dataset`, or `lan2018` for those of the published code.
    """
    if kind == "lan2018":
        return LAN2018
    return {"mean": list(dataset.mean), "std": list(dataset.std)}
