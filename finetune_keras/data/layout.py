"""One layout of what a person sees: text where printed, HTML in a notebook."""

from collections import namedtuple

from finetune_keras.data.printable import printable
from finetune_keras.data.table import format_table

# Of `rows` the first cell stands left, the others right; `bars` are the places
# of columns whose numbers are drawn as bars as well, but for a last row of
# totals.
Table = namedtuple("Table", "header rows bars", defaults=[()])
Listing = namedtuple("Listing", "title lines")
# Lines of `(label, x, y)`, and marks of `(x, label)`.
Curves = namedtuple(
    "Curves", "title x_label lines marks log_x", defaults=[(), False]
)
# `entries` is a function, called where pictures can be seen: it gives pairs of
# the bytes of a JPEG or PNG and a caption.
Pictures = namedtuple("Pictures", "title entries")


class Shown:
    """What shows itself: as text by `print`, as HTML in a notebook.

    A class says once, in `_layout`, what there is to see.
    """

    def _layout(self):
        """Lists sentences, the parts above, and what is `Shown` itself."""
        raise NotImplementedError

    def __str__(self):
        return as_text(self._layout())

    def __repr__(self):
        return str(self)

    def _repr_html_(self):
        from finetune_keras.data.layout_html import fragment

        return fragment(self._layout())


def as_text(parts):
    """Lays parts out as lines; figures and pictures are left out."""
    return printable("\n".join(_texts(parts)))


def _texts(parts):
    for part in parts:
        if isinstance(part, Shown):
            yield from _texts(part._layout())
        elif isinstance(part, Table):
            yield format_table(part.header, part.rows)
        elif isinstance(part, Listing):
            yield "\n  ".join([part.title, *part.lines])
        elif isinstance(part, str):
            yield part
