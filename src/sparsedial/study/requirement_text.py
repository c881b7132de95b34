"""What a sparse model has to keep of the dense one, in words: a share of the score, or the perplexity.

Results state it as one number, ``retain``. `RETAIN_BY_PERPLEXITY` stands for the perplexity criterion.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsedial.curves.perplexity import PERPLEXITY_INCREASE
from sparsedial.study.criterion import RETAIN_BY_PERPLEXITY

INCREASE = f"{100 * PERPLEXITY_INCREASE:g}% higher"
HIGHER = f"at most {INCREASE}"


@dataclass(frozen=True)
class CurveWords:
    """The words for a curve and its points.

    Attributes:
        quantity: What the curve shows, in lower case.
        kept: Predicate of a point that keeps what is required.
        lost: Predicate of a point that does not.
        crossing: Start of a sentence that ends with the place of the crossing.
    """

    quantity: str
    kept: str
    lost: str
    crossing: str


def format_retain(retain: float) -> str:
    """Return the share that a curve has to keep as a percentage.

    Args:
        retain: The share, in (0, 1].

    Example:
        >>> format_retain(0.99)
        '99%'
    """
    return f"{100 * retain:.4g}%"


def is_by_perplexity(retain: float) -> bool:
    """Return True if results are those of the perplexity criterion.

    Args:
        retain: Share that a curve has to keep, `RETAIN_BY_PERPLEXITY` for the perplexity criterion.
    """
    return retain == RETAIN_BY_PERPLEXITY


def describe_curve(retain: float) -> CurveWords:
    """Return the words for a curve.

    Args:
        retain: Share that a curve has to keep, `RETAIN_BY_PERPLEXITY` for the perplexity criterion.

    Example:
        >>> describe_curve(0.99).kept, describe_curve(RETAIN_BY_PERPLEXITY).kept
        ('at least 99%', 'at most 1% higher')
    """
    if is_by_perplexity(retain):
        return CurveWords("the perplexity", HIGHER, f"more than {INCREASE}", f"The perplexity is {INCREASE}")
    share = format_retain(retain)
    return CurveWords("retention", f"at least {share}", f"below {share}", f"The retention curve crosses {share}")


def describe_required(retain: float) -> str:
    """Return what has to be kept, as the object of "keeps".

    Args:
        retain: Share that a curve has to keep, `RETAIN_BY_PERPLEXITY` for the perplexity criterion.

    Returns:
        The share of the score, or the increase of the perplexity.

    Example:
        >>> describe_required(0.99)
        '99% of the dense score'
        >>> describe_required(RETAIN_BY_PERPLEXITY)
        'a perplexity at most 1% higher than that of the dense model'
    """
    if is_by_perplexity(retain):
        return f"a perplexity {HIGHER} than that of the dense model"
    return f"{format_retain(retain)} of the dense score"


def format_required(retain: float) -> str:
    """Return what has to be kept in few words, for the rows of tables.

    Args:
        retain: Share that a curve has to keep, `RETAIN_BY_PERPLEXITY` for the perplexity criterion.

    Example:
        >>> format_required(0.99), format_required(RETAIN_BY_PERPLEXITY)
        ('99%', 'a perplexity at most 1% higher')
    """
    if is_by_perplexity(retain):
        return f"a perplexity {HIGHER}"
    return format_retain(retain)


def describe_condition(retain: float) -> str:
    """Return the condition that a sparse model has to meet, as a clause.

    Args:
        retain: Share that a curve has to keep, `RETAIN_BY_PERPLEXITY` for the perplexity criterion.

    Example:
        >>> describe_condition(0.99)
        'at least 99% of the dense score is kept'
        >>> describe_condition(RETAIN_BY_PERPLEXITY)
        'the perplexity is at most 1% higher than that of the dense model'
    """
    if is_by_perplexity(retain):
        return f"the perplexity is {HIGHER} than that of the dense model"
    return f"at least {describe_required(retain)} is kept"
