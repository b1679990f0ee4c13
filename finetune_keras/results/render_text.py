"""The layout of a report, and its numbers as text."""

from finetune_keras.data.layout import Table, as_text
from finetune_keras.data.printable import (
    number,
    one_line,
    outcome,
    printable,
)

_MOST_CLASSES = 20
# At most so many, and a fifth of all.
_WORST = 5
NAMES = {
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "ece": "ECE",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R2",
    "iou": "IoU",
    "mean_iou": "mean IoU",
    "mean_dice": "mean Dice",
    "map_50": "mAP 50",
    "map_50_95": "mAP 50-95",
    "ap_50": "AP 50",
    "ap_50_95": "AP 50-95",
    "mrr": "MRR",
    "ndcg_at_10": "nDCG at 10",
    "rouge_l": "ROUGE-L",
}


def layout(report):
    """Lists the parts of a `Report` that are printed."""
    parts = [headline(report), table(metric_rows(report))]
    parts += [f"Note: {note}" for note in report.notes]
    if report.calibration:
        parts.append(f"Calibration: {facts_line(report.calibration)}")
    parts += coverage_lines(report)
    if report.per_class:
        parts.append(table(class_rows(report, _MOST_CLASSES)))
        left_out = len(report.per_class) - _MOST_CLASSES
        if left_out > 0:
            parts.append(f"{left_out} better classes: see `per_class`.")
    parts += [table(slice_rows(report, column)) for column in report.slices]
    if report.worst:
        parts.append(table(_worst_rows(report)))
    # An empty line between them.
    return [x for part in parts for x in ("", part)][1:]


def headline(report):
    """One line on what was evaluated."""
    return (
        f"Report on {one_line(report.model)}: {kind(report)}, "
        f"{len(report):,} examples"
    )


def kind(report):
    """What was predicted: the task, and how many classes it has, if any."""
    width = len(report.classes)
    counted = f", {width} {report.task.noun}" if width else ""
    return f"{report.task}{counted}"


def metric_table(report):
    """The table of metrics as text."""
    return as_text([table(metric_rows(report))])


def metric_rows(report, form=number):
    """Header and rows of the table of metrics."""
    header = ["metric", "value"] + ["95 % interval"] * bool(report.intervals)
    rows = [
        [label(name), form(value), interval(report.intervals.get(name), form)]
        for name, value in report.metrics.items()
    ]
    return [header, *(row[: len(header)] for row in rows)]


def class_rows(report, most=None, form=number):
    """Header and rows of the table of classes, the worst ones if many."""
    table = list(report.per_class.items())
    if most is not None and len(table) > most:
        key, sign = report.task.class_metric
        # What is undefined is no bad one.
        known = [x for x in table if x[1][key] is not None]
        others = [x for x in table if x[1][key] is None]
        table = sorted(known, key=lambda item: sign * item[1][key]) + others
        table = table[:most]
    names = [name for name in table[0][1] if name != "n"]
    return [
        ["class", "n", *map(label, names)],
        *(
            [one_line(name), f"{row['n']:,}", *(form(row[k]) for k in names)]
            for name, row in table
        ),
    ]


def slice_rows(report, column, form=number):
    """Header and rows of the table of one column of slices."""
    main, others = report.task.main_metric, report.task.more_metrics
    header = [one_line(column), "n", label(main)]
    header += ["95 % interval"] * bool(report.intervals)
    rows = []
    for value, row in report.slices[column].items():
        cells = [one_line(value), f"{row['n']:,}", form(row["metrics"][main])]
        if report.intervals:
            cells.append(interval(row["intervals"][main], form))
        rows.append(cells + [form(row["metrics"][name]) for name in others])
    return [header + [label(name) for name in others], *rows]


def coverage_lines(report):
    """Sentences on what the model decides, abstains from, and its sets."""
    facts, count, lines = report.coverage or {}, len(report), []
    if "decided" in facts:
        decided, left = facts["decided"], count - facts["decided"]
        lines.append(
            f"Decides on {decided:,} of {count:,} examples "
            f"({percent(decided / count)}), right on "
            f"{percent(facts['right'])} of them; abstains on {left:,}, of "
            f"which {percent(facts['right_abstained'])} would have been right."
        )
    if "set_size" in facts:
        lines.append(
            f"Prediction sets hold the truth of "
            f"{percent(facts['sets_hold_truth'])} of the examples, with "
            f"{facts['set_size']:.2f} classes on average."
        )
    return lines


def worst_of(report):
    """The examples of high loss that are shown."""
    return report.worst[: fifth(report)]


def fifth(report):
    """How many examples are shown as the worst of all, one at least."""
    return max(len(report) // 5, 1)


def sentence(report):
    """What a report says, in one sentence."""
    name = report.task.main_metric
    value, pair = report.metrics[name], report.intervals.get(name)
    if value is None:
        return headline(report)
    if report.task == "classification":
        form, found = percent, f"right on {percent(value)} of"
    else:
        form, found = number, f"{label(name)} {number(value)} on"
    ends = f", 95 % interval {interval(pair, form)}" if pair else ""
    return f"{one_line(report.model)}: {found} {len(report):,} examples{ends}"


def percent(share):
    """A share as percentage; a dash where it is undefined."""
    return "-" if share is None else f"{100 * share:.1f} %"


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


def even(value):
    """A number with as many digits as the others; a dash where undefined."""
    return "-" if value is None else f"{value:.3f}"


def interval(pair, form=number):
    """`low to high`, or a dash."""
    return "-" if pair is None else " to ".join(map(form, pair))


def chance(value):
    """A probability, or those of several labels."""
    if isinstance(value, dict):
        return ", ".join(f"{one_line(k)} {v:.2f}" for k, v in value.items())
    return "" if value is None else f"{value:.3f}"


def _worst_rows(report):
    rows = map(worst_cells, worst_of(report)[:_WORST])
    return [["worst", "true", "predicted", "probability", "loss"], *rows]


def name_of(entry):
    """What an example is called: its file, or else its place in the data."""
    name = entry.get("name")
    if name is None:
        return entry["index"]
    # The end of a path tells more than its beginning.
    return one_line(name, 40) if len(name) <= 40 else f"…{name[-39:]}"


def worst_cells(entry):
    """The cells of an example of high loss, see `Report.worst`."""
    return [
        name_of(entry),
        outcome(entry["true"]),
        outcome(entry["predicted"]),
        chance(entry["probability"]),
        number(entry["loss"]),
    ]


def table(rows):
    """The `Table` of rows that begin with the header."""
    return Table(rows[0], rows[1:])


def _is_float(value):
    return isinstance(value, float)
