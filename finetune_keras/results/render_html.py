"""A report as one HTML file that needs nothing else."""

from finetune_keras.data.figure import to_png
from finetune_keras.data.layout import Curves, Listing, Pictures, Table
from finetune_keras.data.layout_html import STYLE, blocks
from finetune_keras.data.previews import image_of, text_of, thumbnail
from finetune_keras.data.printable import as_html, number, one_line, outcome
from finetune_keras.models.summary import TrainableSummary
from finetune_keras.results import metrics
from finetune_keras.results import render_text as texts
from finetune_keras.results.bundle_facts import describe_environment
from finetune_keras.results.explanation import explain_worst

_MOST_CLASSES = 1000
# Of more classes the confusion matrix is a list.
_MOST_NUMBERS = 15
_MOST_PAIRS = 20
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; color: #1d2228;
  background: #fff; max-width: 62em; padding: 1em max(1em, 3vw) 4em; }
h1 { font-size: 1.6em; line-height: 1.25; margin: .6em 0 .3em; }
h2 { font-size: 1.15em; margin: 2.2em 0 .4em; }
h1, h2 { overflow-wrap: anywhere; text-wrap: balance; }
.lead { opacity: .75; margin: 0; overflow-wrap: anywhere; }
.ftk .wide { max-height: none; }
.ftk .curves { display: grid; gap: 1.2em;
  grid-template-columns: repeat(auto-fill, minmax(min(19em, 100%), 1fr)); }
.note { background: #fff4d1; padding: .5em .8em; border-radius: 4px;
  overflow-wrap: anywhere; }
.confusion td { text-align: center; min-width: 2.2em; }
.confusion th.up { writing-mode: vertical-rl; transform: rotate(180deg);
  text-align: left; padding: .7em .25em; border: 0; }
@media (prefers-color-scheme: dark) {
  body { color: #e3e6ea; background: #14171b; }
  .note { background: #3a3115; }
  .ftk .few img { background: #fff; border-radius: 4px; }
}
@media (max-width: 30em) {
  .ftk th, .ftk td { padding: .25em .4em; font-size: .9em; }
}
@media print {
  :root { color-scheme: light; }
  body { color: #000; background: #fff; max-width: none; padding: 0;
    font-size: 11px; }
  .ftk .wide { overflow: visible; }
  h2 { break-after: avoid; }
  figure, tr, .note { break-inside: avoid; }
}
"""
# Even where something slipped through, nothing is run and nothing is loaded.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render_html(report, model=None, history=None, data=None):
    """Returns a `Report` as the text of an HTML page.

    With the model that was judged the worst predictions are explained.
    """
    # Even digits, where all are of one scale.
    form = texts.even if report.task.has_chances else number
    sections = [
        ("Figures", _figures(report, form)),
        ("Coverage", _coverage(report)),
        ("Confusion", _confusion(report)),
        ("Classes", _classes(report, form)),
        *(
            (f"By {one_line(x)}", _slice(report, x, form))
            for x in report.slices
        ),
        ("Calibration", _calibration(report)),
        ("Highest losses", _worst(report)),
        ("What spoke for these predictions", _reasons(report, model)),
        ("Training", _training(history)),
        ("Data", [] if data is None else [data]),
        ("Model", _facts(report, model, data)),
    ]
    body = "\n".join(
        f"<section><h2>{as_html(title)}</h2>\n{_section(parts)}</section>"
        for title, parts in sections
        if parts
    )
    title = as_html(texts.sentence(report))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{title}</title>\n"
        f"<style>{STYLE}{_STYLE}</style></head>\n"
        f'<body class="ftk"><main><h1>{title}</h1>\n'
        f'<p class="lead">{as_html(texts.headline(report))}</p>\n'
        f"{body}\n</main></body></html>\n"
    )


def _section(parts):
    """Parts in their order; what is HTML already is in a list of its own."""
    return "\n".join(
        part[0] if isinstance(part, list) else blocks([part]) for part in parts
    )


def _figures(report, form):
    notes = [[f'<p class="note">{as_html(note)}</p>'] for note in report.notes]
    return [texts.table(texts.metric_rows(report, form)), *notes]


def _classes(report, form):
    if not report.per_class:
        return []
    return [texts.table(texts.class_rows(report, _MOST_CLASSES, form))]


def _slice(report, column, form):
    return [texts.table(texts.slice_rows(report, column, form))]


def _coverage(report):
    found = (report.coverage or {}).get("abstained") or []
    rows = [
        [texts.name_of(x), outcome(x["true"]), outcome(x["predicted"])]
        + [f"{x['confidence']:.3f}"]
        for x in found[: texts.fifth(report)]
    ]
    parts = texts.coverage_lines(report)
    if rows:
        header = ["abstained", "true", "would have said", "confidence"]
        parts += ["The least sure first:", Table(header, rows)]
    return parts


# === What is taken for what ===


def _confusion(report):
    if report.confusion is None:
        return []
    if len(report.classes) > _MOST_NUMBERS:
        return [_pairs(report)]
    words = (
        "Rows are true, columns predicted; the bluer, the greater the share of "
        "the row."
    )
    return [words, [_matrix(report)]]


def _matrix(report):
    names = [as_html(one_line(name, 40)) for name in report.classes]
    head = "".join(f'<th class="up" scope="col">{name}</th>' for name in names)
    rows = [
        f'<tr><th scope="row">{name}</th>'
        + "".join(map(_shaded, row, row / max(row.sum(), 1)))
        + "</tr>"
        for name, row in zip(names, report.confusion, strict=True)
    ]
    return (
        '<div class="wide" tabindex="0"><table class="confusion">'
        f"<thead><tr><th></th>{head}</tr></thead>\n"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _shaded(count, share):
    shade = f"background:rgb(76 143 214/{0.8 * share:.2f})"
    return f'<td style="{shade}">{count or ""}</td>'


def _pairs(report):
    """The most frequent confusions."""
    counts, names = report.confusion.copy(), report.classes
    totals = counts.sum(axis=1)
    counts[range(len(counts)), range(len(counts))] = 0
    order = counts.ravel().argsort(kind="stable")[::-1][:_MOST_PAIRS]
    places = [divmod(int(i), len(counts)) for i in order]
    rows = [
        [one_line(names[i]), one_line(names[j]), f"{counts[i, j]:,}"]
        + [texts.percent(counts[i, j] / totals[i])]
        for i, j in places
        if counts[i, j]
    ]
    header = ["true", "predicted", "examples", "of the class"]
    return Table(header, rows) if rows else "Nothing is taken for another."


# === How sure it is ===


def _calibration(report):
    parts = []
    if report.confusion is not None:
        bins = metrics.calibration_bins(report.predictions)
        filled = bins["weight"] > 0
        sure, right = bins["confidence"][filled], bins["accuracy"][filled]
        lines = [("model", sure, right), ("perfect", [0, 1], [0, 1])]
        title = "Share that is right, by confidence"
        parts.append(Curves(title, "confidence", lines))
    if report.calibration:
        rows = [
            [key.replace("_", " "), outcome(value)]
            for key, value in report.calibration.items()
            if value is not None
        ]
        parts.append(Table(["fact", "value"], rows))
    return parts


# === Examples ===


def _worst(report):
    sheet, worst = worst_sheet(report), texts.worst_of(report)
    others = [x for x in worst if image_of(x["input"]) is None]
    parts = [Pictures("", lambda: sheet)] if sheet else []
    return parts + ([_worst_table(others)] if others else [])


def worst_sheet(report):
    """Lists pictures of the worst examples, with what is said of each."""
    pairs = [(thumbnail(x["input"]), x) for x in texts.worst_of(report)]
    return [(data, _caption(entry)) for data, entry in pairs if data]


def _worst_table(entries):
    rows = [["example", "input", "true", "predicted", "probability", "loss"]]
    for entry in entries:
        name, *cells = texts.worst_cells(entry)
        rows.append([name, text_of(entry["input"]), *cells])
    # Values have no probability.
    columns = [x for x in zip(*rows, strict=True) if any(map(str, x[1:]))]
    return texts.table(list(zip(*columns, strict=True)))


def _caption(entry):
    name, true, predicted, chance, loss = texts.worst_cells(entry)
    name = name if entry.get("name") else f"Example {name}"
    sure = f" ({chance})" if isinstance(entry["probability"], float) else ""
    lines = [name, f"true: {true}", f"predicted: {predicted}{sure}"]
    more = text_of(entry["input"])
    return "\n".join([*lines, f"loss: {loss}", *([more] if more else [])])


def _reasons(report, model):
    worst = texts.worst_of(report)
    if model is None or not worst or not report.task.is_explained:
        return []
    figure = explain_worst(report, model, min(5, len(worst))).figure()
    caption = (
        "Of the first ones above, in their order. Red spoke for what is "
        "named; in texts, blue spoke against it."
    )
    return [Pictures("", lambda: [(to_png(figure), caption)])]


# === Where it comes from ===


def _training(history):
    if history is None:
        return []
    parts = history._layout()
    curves = [part for part in parts if isinstance(part, Curves)]
    others = [part for part in parts if not isinstance(part, Curves)]
    findings = [Listing("What the losses say:", history.findings)]
    return [
        [f'<div class="curves">{blocks(curves)}</div>'],
        *findings * bool(history.findings),
        *others,
    ]


def _facts(report, model, data):
    if model is None:
        return []
    summary = TrainableSummary(model)
    told, inputs = describe_environment(), getattr(model, "inputs", None) or []
    rows = [
        ["name", one_line(report.model, 60)],
        ["predicts", texts.kind(report)],
        ["parameters", f"{summary.num_params:,}"],
        ["trainable", f"{summary.num_trainable:,}"],
        ["inputs", ", ".join(f"{x.name} {x.shape}" for x in inputs)],
        ["backend", told["backend"]],
        ["python", told["python"]],
        *map(list, told["packages"].items()),
    ]
    if data is not None:
        rows.append(["fingerprint of the data", data.fingerprint])
    return [Table(["fact", "value"], rows)]
