"""Exact numbers for radii and step sizes: ``8/255`` is a fraction, and 0.031 is another number. Imports no torch."""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, PlainSerializer

from robustbench_gkl.core.errors import UserError, unknown

Norm = Literal["linf", "l2", "l1"]
NORMS: tuple[Norm, ...] = get_args(Norm)
PUBLISHED_NORMS: dict[str, str] = {"linf": "Linf", "l2": "L2", "l1": "L1"}
"""How RobustBench, pyautoattack and torchattacks spell the norms."""
_ENDLESS = re.compile(r"e[+-]?\d{4,}", re.IGNORECASE)
"""Exponents that would take an exact number of thousands of digits, or millions."""


_written = functools.lru_cache(Fraction)
"""A thousand records have the same few radii."""


def parse_fraction(text: str | int | float | Fraction, *, what: str = "eps") -> Fraction:
    """Return ``text`` as an exact fraction: ``"8/255"``, ``"0.3"``, ``0.3`` (its shortest decimal) or ``8 / 255``.

    A float that is the nearest one to k/255 means k/255.

    Raises:
        UserError: not a number, a negative one, or one beyond the range of floats.
    """
    try:
        if isinstance(text, bool) or (isinstance(text, str) and _ENDLESS.search(text)):
            raise ValueError
        if isinstance(text, float):
            levels = Fraction(round(text * 255), 255)
            value = levels if float(levels) == text else Fraction(repr(float(text)))
        else:
            value = _written(text) if isinstance(text, str) else Fraction(text)
        float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise UserError(f"{what} must be a number such as 8/255 or 0.3, got {text!r}") from None
    if value < 0:
        raise UserError(f"{what} must not be negative, got {text!r}")
    return value


def format_fraction(value: Fraction) -> str:
    """Return the usual spelling: a short decimal where it is exact (``0.3``), else ``8/255`` or ``1/7``."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest == 1:
        return f"{float(value):g}" if Fraction(f"{float(value):g}") == value else str(value)
    if 255 % value.denominator == 0:
        return f"{value.numerator * (255 // value.denominator)}/255"
    return str(value)


def parse_norm(text: str) -> Norm:
    """Return the norm that ``text`` names: ``linf``, ``Linf``, ``l_inf`` and ``inf`` are the same.

    Raises:
        UserError: an unknown norm.
    """
    plain = str(text).lower().replace("_", "").replace("-", "").replace("∞", "inf")
    for norm in NORMS:
        if plain in (norm, norm.removeprefix("l")):
            return norm
    raise unknown("norm", text, NORMS)


def check_radius(norm: str, eps: str | int | float | Fraction) -> Fraction:
    """Return ``eps`` as an exact fraction if it can be the radius of a threat model in ``norm``.

    Raises:
        UserError: an unknown norm; an eps that is no number, negative, or above 1 for linf.
    """
    norm = parse_norm(norm)
    exact = parse_fraction(eps)
    if norm == "linf" and exact > 1:
        given, levels = format_fraction(exact), format_fraction(exact / 255)
        hint = f"; for {given} of 255 grey levels write {levels}" if exact <= 255 else ""
        raise UserError(f"eps is in the [0, 1] image scale and must be at most 1 for linf, got {given}{hint}")
    return exact


ExactNumber = Annotated[
    Fraction,
    BeforeValidator(lambda value: parse_fraction(value, what="value")),
    PlainSerializer(format_fraction),
]
"""A fraction that is read from ``"8/255"`` or ``0.3`` and written back the same way."""
