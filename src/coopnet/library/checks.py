"""Checks of arguments: an error names the argument and what it may be."""

from collections.abc import Sequence
from numbers import Integral, Real

from coopnet.files.errors import CoopNetError
from coopnet.study import did_you_mean


def check_network(network: object) -> None:
    """Refuse what is not a cooperative network, such as a plain module.

    Raises:
        CoopNetError: names its type, and the functions that make cooperative networks.
    """
    if not hasattr(network, "architecture"):
        raise CoopNetError(
            f"a {type(network).__name__} is not a cooperative network; make one with coopnet.wrap or "
            "coopnet.cooperative"
        )


def check_choice(option: str, value: object, known: Sequence[str]) -> None:
    """Refuse a word that an option does not know.

    Raises:
        CoopNetError: names the option and the words that it knows.
    """
    if value not in known:
        hint = did_you_mean(str(value), known)
        raise CoopNetError(f"{option} {value!r} is not known{hint} (known: {', '.join(known)})")


def check_counts(**counts: object) -> None:
    """Refuse a number of branches, classes or channels that is not a whole number of 1 or more.

    Raises:
        CoopNetError: names the first such argument.
    """
    for option, count in counts.items():
        if not isinstance(count, Integral) or isinstance(count, bool) or int(count) < 1:
            raise CoopNetError(f"{option} {count!r} is not a whole number of 1 or more")


def check_noise(noise: object) -> None:
    """Refuse a standard deviation that is negative or no number.

    Raises:
        CoopNetError: names it.
    """
    if not isinstance(noise, Real) or not 0 <= float(noise) < float("inf"):
        raise CoopNetError(f"noise {noise!r} is not a number of 0 or more; it is a standard deviation")


def check_seed(seed: object) -> None:
    """Refuse a seed that PyTorch would not accept.

    Raises:
        CoopNetError: it is not a whole number, or outside PyTorch's range.
    """
    if not isinstance(seed, Integral) or not -(2**63) <= int(seed) < 2**64:
        raise CoopNetError(f"seed {seed!r} is not a whole number from -2**63 to 2**64 - 1; give another")
