"""Reports and numbers as plain text."""

from finetune_keras.data.printable import printable
from finetune_keras.data.table import format_table

_MOST_CLASSES = 20
_WORST = 5
NAMES = {
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "ece": "ECE",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R2",
}


def render_text(report):
    """Lays out a `Report` as tables."""
    parts = [headline(report), metric_table(report)]
    parts += [f"Note: {note}" for note in report.notes]
    if report.calibration:
        parts.append(f"Calibration: {facts_line(report.calibration)}")
    if report.per_class:
        parts.append(_tabulate(class_rows(report, _MOST_CLASSES)))
        left_out = len(report.per_class) - _MOST_CLASSES
        if left_out > 0:
            parts.append(f"{left_out} better classes: see `per_class`.")
    for column in report.slices:
        parts.append(_tabulate(slice_rows(report, column)))
    if report.worst:
        parts.append(_tabulate(_worst_rows(report)))
    return printable("\n\n".join(parts))


def headline(report):
    """One line on what was evaluated."""
    width = len(report.classes)
    return (
        f"Report on {one_line(report.model)}: {report.task}, {width} "
        f"{report.task.noun}, {len(report):,} examples"
    )


def metric_table(report):
    """The table of metrics as text."""
    return _tabulate(metric_rows(report))


def metric_rows(report):
    """Header and rows of the table of metrics."""
    header = ["metric", "value"] + ["95 % interval"] * bool(report.intervals)
    rows = [
        [label(name), number(value), interval(report.intervals.get(name))]
        for name, value in report.metrics.items()
    ]
    return [header, *(row[: len(header)] for row in rows)]


def class_rows(report, most=None):
    """Header and rows of the table of classes, the worst ones if many."""
    table = list(report.per_class.items())
    if most is not None and len(table) > most:
        chances = report.task.has_chances
        key, sign = ("f1", 1) if chances else (report.task.main_metric, -1)
        table = sorted(table, key=lambda item: sign * item[1][key])[:most]
    names = [name for name in table[0][1] if name != "n"]
    return [
        ["class", "n", *map(label, names)],
        *(
            [one_line(name), f"{row['n']:,}", *(number(row[k]) for k in names)]
            for name, row in table
        ),
    ]


def slice_rows(report, column):
    """Header and rows of the table of one column of slices."""
    main, others = report.task.main_metric, report.task.more_metrics
    header = [one_line(column), "n", label(main)]
    header += ["95 % interval"] * bool(report.intervals)
    rows = []
    for value, row in report.slices[column].items():
        cells = [one_line(value), f"{row['n']:,}", number(row["metrics"][main])]
        if report.intervals:
            cells.append(interval(row["intervals"][main]))
        rows.append(cells + [number(row["metrics"][name]) for name in others])
    return [header + [label(name) for name in others], *rows]


def facts_line(facts):
    """Facts of a calibration in one line."""
    return ", ".join(
        f"{one_line(key)} {number(value) if _is_float(value) else value}"
        for key, value in facts.items()
        if value is not None
    )


def label(name):
    """Name of a metric for people."""
    return NAMES.get(name, printable(name.replace("_", " ")))


def number(value, digits=4):
    """A number in few digits; a dash where it is undefined."""
    return "-" if value is None else f"{value:.{digits}g}"


def interval(pair):
    """`low to high`, or a dash."""
    return "-" if pair is None else f"{number(pair[0])} to {number(pair[1])}"


def outcome(value):
    """What is true or predicted, in one line."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(outcome, value)) or "none"
    return number(value) if _is_float(value) else one_line(value, 60)


def chance(value):
    """A probability, or those of several labels."""
    if isinstance(value, dict):
        return ", ".join(f"{one_line(k)} {v:.2f}" for k, v in value.items())
    return "" if value is None else f"{value:.3f}"


def one_line(value, most=30):
    """A name without line breaks, cut where it is long."""
    text = printable(" ".join(str(value).split()))
    return text if len(text) <= most else text[: most - 1] + "…"


def _worst_rows(report):
    rows = map(worst_cells, report.worst[:_WORST])
    return [["worst", "true", "predicted", "probability", "loss"], *rows]


def worst_cells(entry):
    """The cells of an example of high loss, see `Report.worst`."""
    return [
        entry["index"],
        outcome(entry["true"]),
        outcome(entry["predicted"]),
        chance(entry["probability"]),
        number(entry["loss"]),
    ]


def _tabulate(rows):
    return format_table(rows[0], rows[1:])


def _is_float(value):
    return isinstance(value, float)
