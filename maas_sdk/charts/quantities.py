"""Readable numbers: each with its unit, three significant digits, no false precision."""

from __future__ import annotations

from typing import Final

__all__ = [
    "count",
    "data_size",
    "duration",
    "percent",
    "ratio",
    "round_duration",
    "round_percent",
    "scientific",
]

_RAISED: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def duration(seconds: float) -> str:
    """Format ``0.00042`` as ``420 µs``, ``0.0371`` as ``37.1 ms``, ``95`` as ``1 min 35 s``."""
    # Rounded first, or 59.97 s would be written as "60.0 s".
    if round(seconds, 1) >= 60:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        # What rounds to 1.00 of the larger unit is written in it, and not as 1,000 of the smaller
        # one.
        if abs(seconds) >= 0.9995 * factor:
            return f"{_three_digits(seconds / factor)} {unit}"
    return f"{_three_digits(seconds / 1e-9)} ns" if seconds else "0 s"


def round_duration(seconds: float) -> str:
    """Format a round duration, such as a tick of an axis: ``0.05`` as ``50 ms``."""
    value, _, unit = duration(seconds).partition(" ")
    return f"{value.rstrip('0').rstrip('.') if '.' in value else value} {unit}"


def data_size(nbytes: float) -> str:
    """Format ``1536`` as ``1.54 kB``; decimal units, as network and cloud bills use."""
    nbytes = round(nbytes)
    if abs(nbytes) < 1000:
        return f"{nbytes} B"
    value = float(nbytes)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if abs(value) < 999.5:
            return f"{_three_digits(value)} {unit}"
    return f"{_three_digits(value / 1000)} TB"


def percent(share: float, *, digits: int = 2) -> str:
    """Format ``0.98611`` as ``98.61 %``."""
    return f"{100 * share:.{digits}f} %"


def round_percent(share: float) -> str:
    """Format a round share, such as a tick of an axis: ``0.5`` as ``50 %``."""
    return percent(share, digits=0)


def count(number: float) -> str:
    """Format ``12345.6`` as ``12,346``; below ten, one digit after the point unless whole."""
    if abs(number) < 10 and number != int(number):
        return f"{number:.1f}"
    return f"{number:,.0f}"


def ratio(value: float) -> str:
    """Format ``1.4142`` as ``1.41 ×``."""
    return f"{_three_digits(value)} ×"


def scientific(value: float) -> str:
    """Format ``0.0000019`` as ``1.9 × 10⁻⁶``; ``0.113`` needs no exponent and stays."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')} × 10{str(int(exponent)).translate(_RAISED)}"


def _three_digits(value: float) -> str:
    size = abs(value)
    # The bounds lie where rounding gives one digit more.
    if size >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"
