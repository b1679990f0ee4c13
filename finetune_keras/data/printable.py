"""Names, texts and numbers, made safe and short to show."""

import re
import unicodedata
from html import escape

_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def printable(text):
    """Text without control characters, halves of pairs and changed direction.

    No font and no file can take them, they rearrange what stands around, or
    a terminal obeys them. Line breaks and tabs stay.
    """
    return "".join("\ufffd" if _is_control(c) else c for c in text)


def _is_control(character):
    if character in "\n\t" or character.isprintable():
        return False
    # Joiners stay: scripts and emoji need them.
    return unicodedata.category(character) in ("Cc", "Cs") or (
        character in _DIRECTIONS
    )


def number(value, digits=4):
    """A number in few digits; a dash where it is undefined."""
    return "-" if value is None else f"{value:.{digits}g}"


def outcome(value):
    """What is true or predicted, in one line."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(outcome, value)) or "none"
    return number(value) if isinstance(value, float) else one_line(value, 60)


def one_line(value, most=30):
    """A name without line breaks, cut where it is long."""
    text = printable(" ".join(str(value).split()))
    return text if len(text) <= most else text[: most - 1] + "…"


def as_file_name(name):
    """One part of the name of a file, of any name, and not empty."""
    # Cut, since the name of a file has a limit.
    return re.sub(r"[^\w.-]", "_", name)[:40].lstrip(".") or "_"


def as_html(value):
    """Anything as text within HTML, and within the quotes of attributes."""
    return escape(printable(str(value)), quote=True)


def as_markdown(name):
    """Any name as a part of a line of Markdown that stands for itself."""
    name = " ".join(printable(name).split())
    if re.fullmatch(r"\w+([ -]\w+)*", name):
        return name
    # A fence longer than any in the name cannot be closed by it.
    runs = re.findall("`+", name)
    fence = "`" * (1 + max(map(len, runs), default=0))
    return f"{fence} {name} {fence}" if runs else f"`{name}`"
