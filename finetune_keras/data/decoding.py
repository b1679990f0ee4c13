"""Text files in whatever encoding they say."""

import codecs

# Longer marks first: that of UTF-32 begins as that of UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path, encoding=None):
    """Reads a text file, with the ends of its lines as they are.

    Without an `encoding` it is what the mark at the start of the file says, or
    UTF-8. Where it is of another, a `ValueError` names the line.
    """
    with open(path, "rb") as file:
        data = file.read()
    used = encoding or marked_encoding(data)
    try:
        text = data.decode(used)
    except LookupError as error:
        raise ValueError(
            "`encoding` must be one that Python knows, such as "
            f'"utf-8" or "cp1252". Received: encoding={encoding!r}'
        ) from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        _refuse(path, data, used, f"line {line}, byte {data[error.start]:#x}")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        _refuse(path, data, used, f"line {line}, a byte of 0")
    return text


def marked_encoding(data):
    """Encoding that bytes say at their start, or UTF-8."""
    return next((n for mark, n in _MARKS if data.startswith(mark)), "utf-8")


def _refuse(path, data, used, where):
    zeros = data[:400:2].count(0), data[1:400:2].count(0)
    likely = '"cp1252" or "latin-1" for files of Western Europe'
    if sum(zeros) > 40 or b"\0" in data[:2]:
        likely = f'"utf-16-{"le" if zeros[1] > zeros[0] else "be"}"'
    raise ValueError(
        f"The file is not in {used}: {where}. Pass its `encoding`, such as "
        f"{likely}, where there is such an argument, or save it as UTF-8. "
        f"Received: path={str(path)!r}"
    )
