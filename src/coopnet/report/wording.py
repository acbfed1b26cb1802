"""Numbers and lists as text."""

import math
from collections.abc import Iterable, Sequence

MINUS, TIMES, DOT = "\u2212", "\u00d7", " \u00b7 "


def number(value: float | None, places: int = 2, *, sign: bool = False) -> str:
    """A number with a real minus sign, or a dash if there is none; `sign` shows + as well."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{abs(value):,.{places}f}"
    negative = value < 0 and float(text.replace(",", "")) != 0
    return (MINUS if negative else ("+" if sign and float(text.replace(",", "")) else "")) + text


def spread(mean: float, std: float | None, places: int = 2, *, sign: bool = False) -> str:
    """`mean ± std`; the mean alone for a single seed."""
    text = number(mean, places, sign=sign)
    return text if std is None or math.isnan(std) else f"{text} ± {number(std, places)}"


def scientific(value: float | None) -> str:
    """`3.1e-7` as 3.1 × 10⁻⁷; 0 is 0."""
    if value is None or math.isnan(value):
        return "–"
    if value == 0 or 0.001 <= abs(value) < 10_000:
        return number(value, 3) if value else "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} {TIMES} {power(int(exponent))}"


def power(exponent: int) -> str:
    """`10⁶`."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def listing(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    words = list(words)
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def span(values: Iterable[int]) -> str:
    """`20`, or `20 to 160` if the values differ."""
    values = sorted(set(values))
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"


def count(n: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def spans(values: Iterable[int], noun: str) -> str:
    """`1 seed`, `3 seeds`, `3 to 5 seeds`."""
    text = span(values)
    return f"{text} {noun}" if text == "1" else f"{text} {noun}s"


def first_of(shown: int, whole: int, where: str = "the table has all") -> str:
    """` The first 3 of 8; the table has all.`; nothing if all are shown."""
    return f" The first {shown:,} of {whole:,}; {where}." if shown < whole else ""


def between(values: Sequence[float]) -> str:
    """`+0.20 to +1.10`: the lowest and the highest of signed values."""
    low, high = number(min(values), sign=True), number(max(values), sign=True)
    return low if low == high else f"{low} to {high}"


def interval(low: float, high: float) -> str:
    """`[−0.17, +0.13]`."""
    return f"[{number(low, sign=True)},\u00a0{number(high, sign=True)}]"


def flops(value: float) -> str:
    """`5.9 × 10¹²`."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}\u00a0{TIMES}\u00a0{power(int(exponent))}"
