"""Numbers as text: one way to write each kind of quantity, in every document.

Numbers arrive rounded to four significant digits (`document.compose`); here they only lose digits.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

MISSING = "–"
_MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"
_IRREGULAR = {"series": "series", "study": "studies", "class": "classes"}


def count(number: int) -> str:
    """Write a count, in groups of three digits from ten thousand.

    Examples
    --------
    >>> count(9999), count(12345).replace("\N{NO-BREAK SPACE}", "_")
    ('9999', '12_345')
    """
    return str(number) if abs(number) < 10_000 else f"{number:,}".replace(",", SPACE)


def counted(number: int, noun: str) -> str:
    """Write a count with its noun.

    Examples
    --------
    >>> counted(1, "patient"), counted(3, "series"), counted(2, "study")
    ('1 patient', '3 series', '2 studies')
    """
    plural = _IRREGULAR.get(noun, f"{noun}s")
    return f"{count(number)} {noun if number == 1 else plural}"


def decimal(value: float | None, places: int = 3) -> str:
    """Write a number with a fixed number of decimals, or a dash if there is none."""
    if value is None:
        return MISSING
    text = f"{value:.{places}f}"
    is_zero = float(text) == 0
    return text.lstrip("-") if is_zero else text.replace("-", _MINUS)


def signed(value: float | None, places: int = 3) -> str:
    """Write a difference with its sign.

    Examples
    --------
    >>> signed(0.0312), signed(0.0), signed(None)
    ('+0.031', '0.000', '–')
    """
    text = decimal(value, places)
    return f"+{text}" if value is not None and float(f"{value:.{places}f}") > 0 else text


def percent(fraction: float | None, places: int = 1) -> str:
    """Write a fraction as a percentage."""
    return MISSING if fraction is None else f"{decimal(100 * fraction, places)}{SPACE}%"


def share(part: int, whole: int) -> str:
    """Write a count and its percentage of the whole.

    Examples
    --------
    >>> share(5, 20).replace("\N{NO-BREAK SPACE}", "_"), share(0, 0)
    ('5 (25_%)', '0')
    """
    return f"{count(part)} ({percent(part / whole, 0)})" if whole else count(part)


def interval(low: float | None, high: float | None, places: int = 3) -> str:
    """Write an interval, or a dash if there is none."""
    return MISSING if low is None or high is None else f"{decimal(low, places)} to {decimal(high, places)}"


def percent_interval(low: float | None, high: float | None, places: int = 1) -> str:
    """Write an interval of fractions as percentages, with one sign at its end."""
    if low is None or high is None:
        return MISSING
    return f"{decimal(100 * low, places)} to {percent(high, places)}"


def signed_interval(low: float | None, high: float | None, places: int = 3) -> str:
    """Write an interval of differences."""
    return MISSING if low is None or high is None else f"{signed(low, places)} to {signed(high, places)}"


def significant(value: float | None) -> str:
    """Write a number of any size with the digits it has (at most four).

    Examples
    --------
    >>> significant(0.0003), significant(12.5), significant(-2.0)
    ('0.0003', '12.5', '−2')
    """
    return MISSING if value is None else f"{value:.4g}".replace("-", _MINUS)


def confidence(level: float) -> str:
    """Name the level of an interval, for example ``95 % CI``."""
    return f"{100 * level:g}{SPACE}% CI"


def duration(seconds: float) -> str:
    """Write a duration in the two largest units.

    Examples
    --------
    >>> duration(0.4), duration(65), duration(3700)
    ('< 1 s', '1 min 05 s', '1 h 02 min')
    """
    whole = round(seconds)
    if whole < 1:
        return "< 1 s"
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{minutes // 60} h {minutes % 60:02d} min"


def joined(words: Sequence[str], last: str = "and") -> str:
    """Join words as a sentence does.

    Examples
    --------
    >>> joined(["a"]), joined(["a", "b"]), joined(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)


def moment(created: str) -> datetime:
    """Read the moment at which an evaluation was made (ISO 8601; UTC unless it says otherwise).

    Examples
    --------
    >>> moment("2026-11-21T04:20:00+01:00").isoformat()
    '2026-11-21T03:20:00+00:00'
    """
    found = datetime.fromisoformat(created)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def day(created: str) -> str:
    """Write the day of a moment for people, for example ``21 November 2026``."""
    found = moment(created)
    months = (
        "January", "February", "March", "April", "May", "June",
        "July", "August", "September", "October", "November", "December",
    )  # fmt: skip
    return f"{found.day} {months[found.month - 1]} {found.year}"


def capitalised(text: str) -> str:
    """Write the first letter large and leave the others as they are."""
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """Make a text end like a sentence."""
    stripped = text.strip()
    return stripped if not stripped or stripped.endswith((".", "!", "?")) else f"{stripped}."
