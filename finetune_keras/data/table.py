"""Aligned tables in plain text."""

from finetune_keras.data.printable import printable


def format_table(header, rows):
    """Lays out rows in columns, the first to the left, the others right.

    What a cell holds may come from a stranger's file: it is made printable.
    """
    cells = [[_cell(value) for value in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_line(row, widths) for row in cells]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def _cell(value):
    return printable(str(value)).replace("\n", " ").replace("\t", " ")


def _line(row, widths):
    first, *others = zip(row, widths, strict=True)
    others = [cell.rjust(width) for cell, width in others]
    return "  ".join([first[0].ljust(first[1]), *others])
