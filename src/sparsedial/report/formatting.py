"""Names and numbers as text, the same in the terminal, on the page and in the figures."""

from __future__ import annotations

import unicodedata

from sparsedial.analysis.estimates import Estimate, finite_number

MISSING = "–"
"""Text for a number that is not known."""

ALL = "100.0%"
"""Text for all activations. There is no more, so it is never a lower bound."""

PARAMETER_UNITS = {"B": 1e9, "M": 1e6, "K": 1e3}

ROUNDS_UP = 0.9995
"""Share of a unit from which on a number is rounded to one unit if it has three digits."""

WHITE_SPACE = "\t\n\r\x0b\x0c\x85\u2028\u2029"


def sanitize_text(value: object) -> str:
    r"""Return text on one line and without control characters.

    Tabs and line breaks become spaces. Terminal escapes, text-direction overrides, lone surrogates and characters that
    XML cannot hold become escape sequences.

    Args:
        value: Text from a model, a task or a study, or any other value.

    Returns:
        Text that is safe to print. It still has to be escaped for HTML.

    Example:
        >>> sanitize_text("a\x1b[31mb\nc")
        'a\\x1b[31mb c'
    """
    text = str(value)
    if text.isprintable():  # neither a control character nor a line break
        return text
    return "".join(map(_sanitize_character, text))


def format_percent(value: object) -> str:
    """Return a fraction as a percentage with one decimal.

    Args:
        value: A fraction, or a missing value.

    Returns:
        The percentage, or a dash.

    Example:
        >>> format_percent(0.391), format_percent(None)
        ('39.1%', '–')
    """
    number = finite_number(value)
    return MISSING if number is None else f"{100 * number:.1f}%"


def format_sparsity(value: object, is_lower_bound: bool = False) -> str:
    """Return a sparsity as a percentage.

    Args:
        value: A fraction, or a missing value.
        is_lower_bound: True if the value is right-censored. It is then marked with ``≥``, unless it is 100.0%.

    Returns:
        The percentage, or a dash.

    Example:
        >>> format_sparsity(0.4), format_sparsity(0.4, is_lower_bound=True)
        ('40.0%', '≥ 40.0%')
    """
    text = format_percent(value)
    if is_lower_bound and text not in (MISSING, ALL):
        return f"≥ {text}"
    return text


def format_interval(low: object, high: object, is_high_censored: bool = False) -> str:
    """Return a 95% interval of fractions as percentages.

    Args:
        low: Lower end, or a missing value.
        high: Upper end, or a missing value.
        is_high_censored: True if the upper end is a lower bound. It is then marked with ``≥``, unless it is 100.0%.

    Returns:
        The interval. Empty if one of its ends is missing.

    Example:
        >>> format_interval(0.36, 0.415), format_interval(0.36, 0.415, True), format_interval(None, 0.4)
        ('36.0–41.5%', '36.0–≥41.5%', '')
    """
    if finite_number(low) is None or finite_number(high) is None:
        return ""
    end = format_percent(high)
    if is_high_censored and end != ALL:
        end = f"≥{end}"
    return f"{format_percent(low).removesuffix('%')}–{end}"


def format_estimate(estimate: Estimate) -> str:
    """Return an estimate with its interval.

    Args:
        estimate: A fraction with its interval.

    Returns:
        The percentage and, if it is known, the interval in parentheses. Only the interval if the value is not known,
        and a dash if neither is known.

    Example:
        >>> format_estimate(Estimate(0.39, 0.37, 0.41)), format_estimate(Estimate(0.4, is_lower_bound=True))
        ('39.0% (37.0–41.0%)', '≥ 40.0%')
    """
    text = format_sparsity(estimate.value, estimate.is_lower_bound)
    interval = format_interval(estimate.low, estimate.high, estimate.is_high_censored)
    if not interval:
        return text
    if text == MISSING:
        return interval
    return f"{text} ({interval})"


def format_number(value: object) -> str:
    """Return a number with up to four significant digits. Integers from 10 on have separators between thousands.

    Args:
        value: A number, or a missing value.

    Returns:
        The number, or a dash.

    Example:
        >>> format_number(0.97315), format_number(1200), format_number(None)
        ('0.9731', '1,200', '–')
    """
    number = finite_number(value)
    if number is None:
        return MISSING
    if number.is_integer() and abs(number) >= 10:
        return f"{int(number):,}"
    return f"{number:.4g}"


def format_parameters(parameters: object) -> str:
    """Return a number of parameters with its unit, and with three digits.

    Args:
        parameters: The number, or a missing value.

    Returns:
        The number. Empty if it is not known.

    Example:
        >>> format_parameters(134_515_008), format_parameters(7_240_000_000), format_parameters(None)
        ('135 M', '7.24 B', '')
    """
    number = finite_number(parameters)
    if not number:
        return ""
    for unit, size in PARAMETER_UNITS.items():
        if number >= ROUNDS_UP * size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def format_signed(value: float) -> str:
    """Return a number with its sign and one decimal.

    Args:
        value: The number.

    Returns:
        The number, with a minus sign rather than a hyphen.

    Example:
        >>> format_signed(3.14), format_signed(-0.5)
        ('+3.1', '−0.5')
    """
    return f"{value:+.1f}".replace("-", "−")


def format_points(value: object) -> str:
    """Return a difference of fractions in percentage points, with its sign.

    Args:
        value: The difference, or a missing value.

    Returns:
        The difference, or a dash.

    Example:
        >>> format_points(0.081), format_points(-0.02), format_points(None)
        ('+8.1', '−2.0', '–')
    """
    number = finite_number(value)
    return MISSING if number is None else format_signed(100 * number)


def format_point_interval(low: object, high: object) -> str:
    """Return an interval of differences of fractions in percentage points.

    Args:
        low: Lower end.
        high: Upper end.

    Returns:
        The ends with their signs.

    Example:
        >>> format_point_interval(0.05, 0.11)
        '+5.0 to +11.0'
    """
    return f"{format_points(low)} to {format_points(high)}"


def format_list(names: list[str]) -> str:
    """Return names as a list in a sentence.

    Args:
        names: At least one name.

    Returns:
        The names, separated by commas and "and".

    Example:
        >>> format_list(["up"]), format_list(["input", "up", "gate"])
        ('up', 'input, up and gate')
    """
    *first, last = names
    if not first:
        return last
    return f"{', '.join(first)} and {last}"


def _sanitize_character(character: str) -> str:
    if character in WHITE_SPACE:
        return " "
    if unicodedata.category(character)[0] != "C":
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
