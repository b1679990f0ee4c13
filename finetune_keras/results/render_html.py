"""A report as one HTML file that needs nothing else."""

import base64
from html import escape

from finetune_keras.results import previews, render_figures
from finetune_keras.results import render_text as texts
from finetune_keras.results.explanation import explain_worst

_MOST_CLASSES = 1000
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; color: #222;
       max-width: 62em; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .8em; text-align: right; vertical-align: top;
         border-bottom: 1px solid #ddd; }
th:first-child, td:first-child, td.text { text-align: left; }
td.text { max-width: 32em; overflow-wrap: anywhere; white-space: pre-wrap; }
img { max-width: 100%; } td img { min-width: 6em; }
.note { background: #fff6d6; padding: .5em .8em; }
"""
# Even where something slipped through, nothing is run and nothing is loaded.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render_html(report, model=None):
    """Returns a `Report` as the text of an HTML page.

    With the model that was judged the worst predictions are explained.
    """
    parts = [
        f"<h1>{_safe(texts.headline(report))}</h1>",
        _table(texts.metric_rows(report)),
        *(f'<p class="note">{_safe(note)}</p>' for note in report.notes),
        *_calibration(report),
        *_pictures(report),
        *_classes(report),
        *_slices(report),
        *_worst(report),
        *_reasons(report, model),
    ]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{_safe(texts.headline(report))}</title>\n"
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _calibration(report):
    if not report.calibration:
        return []
    rows = [["fact", "value"]]
    rows += [
        [key, texts.outcome(value)]
        for key, value in report.calibration.items()
        if value is not None
    ]
    return ["<h2>Calibration</h2>", _table(rows)]


def _pictures(report):
    if report.task != "classification":
        return []
    plots = {
        "Confusion matrix": render_figures.plot_confusion,
        "Reliability": render_figures.plot_reliability,
    }
    return [
        f"<h2>{title}</h2>\n"
        + _image(render_figures.to_png(plot(report)), "png")
        for title, plot in plots.items()
    ]


def _classes(report):
    if not report.per_class:
        return []
    return ["<h2>Classes</h2>", _table(texts.class_rows(report, _MOST_CLASSES))]


def _slices(report):
    parts = []
    for column in report.slices:
        parts.append(f"<h2>By {_safe(texts.one_line(column))}</h2>")
        parts.append(_table(texts.slice_rows(report, column)))
    return parts


def _worst(report):
    if not report.worst:
        return []
    header = ["example", "true", "predicted", "probability", "loss", "input"]
    cells = "".join(f"<th>{name}</th>" for name in header)
    rows = "\n".join(_worst_row(entry) for entry in report.worst)
    return [
        "<h2>Highest losses</h2>",
        f"<table><tr>{cells}</tr>\n{rows}</table>",
    ]


def _reasons(report, model):
    if model is None or not report.worst:
        return []
    figure = explain_worst(report, model).figure()
    return [
        "<h2>What spoke for these predictions</h2>",
        "<p>Of the first ones above, in their order. Red spoke for what is "
        "named; in texts, blue spoke against it.</p>",
        _image(render_figures.to_png(figure), "png"),
    ]


def _worst_row(entry):
    values = texts.worst_cells(entry)
    cells = "".join(f"<td>{_safe(value)}</td>" for value in values)
    jpeg = previews.thumbnail(entry["input"])
    picture = "" if jpeg is None else _image(jpeg, "jpeg")
    seen = f"{picture}{_safe(previews.text_of(entry['input']))}"
    return f'<tr>{cells}<td class="text">{seen}</td></tr>'


def _table(rows):
    header, *others = rows
    lines = ["".join(f"<th>{_safe(cell)}</th>" for cell in header)]
    lines += ["".join(f"<td>{_safe(c)}</td>" for c in row) for row in others]
    return "<table>" + "\n".join(f"<tr>{x}</tr>" for x in lines) + "</table>"


def _image(data, kind):
    encoded = base64.b64encode(data).decode()
    return f'<img alt="" src="data:image/{kind};base64,{encoded}">'


def _safe(value):
    return escape(texts.printable(str(value)), quote=True)
