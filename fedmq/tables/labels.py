"""Labels of categories and classes: which texts are one label."""

from collections.abc import Iterable, Mapping

from fedmq.tables.table import is_number

TRUE, FALSE = frozenset({"true", "t", "yes", "y", "1"}), frozenset({"false", "f", "no", "n", "0"})
_INTEGER_DIGITS_MAX = 300
_NUMBERS_BEGIN = frozenset("0123456789+-.")  # a look that is quicker than reading the number


def label_key(cell: str | float) -> object:
    """Return what is equal for cells that are one label: 1, 1.0 and 01; True and true. White space around is no part.

    Any other difference, such as capital letters, makes another label.
    """
    if isinstance(cell, float):
        return cell
    text = cell.strip()
    if text[:1] in _NUMBERS_BEGIN and is_number(text):
        digits = text.lstrip("+-")
        return int(text) if digits.isdecimal() and len(digits) <= _INTEGER_DIGITS_MAX else float(text.replace(",", ""))
    return text.lower() if text.lower() in ("true", "false") else text


def codes_of(labels: Iterable[str]) -> Mapping[object, int]:
    """Return the place of each label, counted from 0, by its key."""
    return {label_key(label): place for place, label in enumerate(labels)}
