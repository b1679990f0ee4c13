"""The layout of what a person sees, as HTML that loads and runs nothing."""

import base64
import re

from finetune_keras.data.curves_svg import draw
from finetune_keras.data.layout import Curves, Listing, Pictures, Shown, Table
from finetune_keras.data.printable import as_html

_MOST_ROWS = 1000
_LONG = 30
# Colours come from around, be it light or dark; figures stand in columns.
STYLE = """
.ftk { line-height: 1.45; max-width: 62em; }
.ftk p { margin: .4em 0; overflow-wrap: anywhere; white-space: pre-line; }
.ftk .wide { overflow: auto; max-height: 32em; margin: .6em 0; }
.ftk table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  background: none; margin: 0; }
.ftk th, .ftk td { padding: .25em .7em; text-align: right; vertical-align: top;
  border: 0; border-bottom: 1px solid rgb(128 128 128 / .3); }
.ftk th, .ftk td { white-space: nowrap; }
.ftk th { font-weight: 600; }
.ftk tr > :first-child, .ftk .text { text-align: left; }
.ftk tr > :first-child { padding-left: 0; }
.ftk td.text { min-width: 12em; max-width: 28em; white-space: pre-line;
  overflow-wrap: anywhere; }
.ftk td i { display: block; height: 3px; margin-left: auto;
  background: #4c8fd6; }
.ftk figure { margin: 0; }
.ftk figcaption { font-size: .85em; overflow-wrap: anywhere;
  white-space: pre-line; }
.ftk .sheet { display: grid; gap: .8em; margin: .6em 0;
  grid-template-columns: repeat(auto-fill, minmax(min(8em, 100%), 1fr)); }
.ftk .sheet.few { display: block; }
.ftk img { max-width: 100%; height: auto; margin: 0; }
.ftk .sheet img { width: 100%; }
.ftk .few img { width: auto; }
.ftk svg { width: 100%; max-width: 26em; height: auto; display: block; }
.ftk svg text { font: 13px system-ui, sans-serif; fill: currentColor; }
.ftk svg path { fill: none; stroke-width: 2; }
.ftk svg .axis { stroke: currentColor; stroke-width: 1; opacity: .4; }
.ftk svg circle { fill: currentColor; }
.ftk .c0 { stroke: #4c8fd6; color: #4c8fd6; }
.ftk .c1 { stroke: #e0803a; color: #e0803a; }
.ftk .c2 { stroke: #4aa564; color: #4aa564; }
.ftk .c3 { stroke: #a374c9; color: #a374c9; }
.ftk .key { display: inline-block; margin-right: 1em; }
"""


def fragment(parts):
    """A piece of HTML with its styles, for the output of a notebook."""
    style = re.sub(r"\s+", " ", STYLE)
    return f'<div class="ftk"><style>{style}</style>\n{blocks(parts)}\n</div>'


def blocks(parts):
    """The HTML of parts of a layout, one below the other."""
    return "\n".join(_block(part) for part in parts if part != "")


def image(data, alt):
    """An image that lies in the page."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{as_html(alt)}" src="{source}">'


def _block(part):
    if isinstance(part, Shown):
        return blocks(part._layout())
    return _BLOCKS[type(part)](part)


def _table(table):
    more = len(table.rows) - _MOST_ROWS
    shown = table.rows[:_MOST_ROWS]
    columns = range(len(table.header))
    tops = [_highest(table, column) for column in columns]
    kinds = [_kind(row[column] for row in shown) for column in columns]
    head = "".join(
        f'<th scope="col"{kind}>{as_html(x)}</th>'
        for x, kind in zip(table.header, kinds, strict=True)
    )
    rows = ["".join(map(_cell, row, tops, kinds)) for row in shown]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    head = f"<thead><tr>{head}</tr></thead>" if any(table.header) else ""
    return (
        f'<div class="wide" tabindex="0"><table>{head}\n'
        f"<tbody>{body}</tbody></table></div>"
        + (f"<p>and {more:,} more</p>" if more > 0 else "")
    )


def _kind(cells):
    """The class of a column of long texts, which stand left and are broken."""
    longest = max((len(str(cell)) for cell in cells), default=0)
    return ' class="text"' if longest > _LONG else ""


def _cell(value, top, kind):
    text, number = as_html(value), top and _number(value)
    if number is None or number > top:
        return f"<td{kind}>{text}</td>"
    width = round(100 * number / top, 1)
    return f'<td>{text}<i style="width:{width}%"></i></td>'


def _highest(table, column):
    """The number whose bar is the longest, or `None` of other columns."""
    if column not in table.bars:
        return None
    numbers = [_number(row[column]) for row in table.rows[:-1]]
    return max((x for x in numbers if x is not None), default=None)


def _number(cell):
    try:
        return max(float(str(cell).replace(",", "")), 0.0)
    except ValueError:
        return None


def _listing(listing):
    lines = "".join(f"<li>{as_html(line)}</li>" for line in listing.lines)
    return f"<p>{as_html(listing.title)}</p>\n<ul>{lines}</ul>"


def _pictures(pictures):
    try:
        entries = pictures.entries()
    except ImportError:
        # Without Pillow, or matplotlib, the rest is seen all the same.
        return ""
    figures = "\n".join(
        f"<figure>{image(data, caption)}"
        f"<figcaption>{as_html(caption)}</figcaption></figure>"
        for data, caption in entries
    )
    few = " few" if len(entries) == 1 else ""
    title = f"<p>{as_html(pictures.title)}</p>\n" if pictures.title else ""
    return f'{title}<div class="sheet{few}">{figures}</div>' if entries else ""


_BLOCKS = {
    str: lambda text: f"<p>{as_html(text)}</p>",
    Table: _table,
    Listing: _listing,
    Pictures: _pictures,
    Curves: draw,
}
