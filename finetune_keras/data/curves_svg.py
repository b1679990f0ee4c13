"""Curves as inline SVG, which takes its colours from the page around."""

import math

from finetune_keras.data.printable import as_html

_WIDTH, _HEIGHT = 400, 200
_LEFT, _TOP, _RIGHT, _BOTTOM = 52, 36, 12, 30
_COLOURS = 4


def draw(curves):
    """A `Curves` as a figure with a caption that is also its alternative."""
    lines = [(label, _finite(x, y)) for label, x, y in curves.lines]
    lines = [(label, points) for label, points in lines if points]
    if not lines:
        return ""
    points = [point for _, found in lines for point in found]
    marks = [(x, label) for x, label in curves.marks if math.isfinite(x)]
    place = _placed(points, [x for x, _ in marks], curves.log_x)
    inner = [
        _axes(points, place, curves.x_label),
        *(_mark(i, *mark, place) for i, mark in enumerate(marks)),
        *(_path(i, found, place) for i, (_, found) in enumerate(lines)),
    ]
    words = "; ".join(
        f"{label} from {found[0][1]:.4g} to {found[-1][1]:.4g}"
        for label, found in lines
    )
    keys = "".join(
        f'<span class="key"><span class="c{i % _COLOURS}">&#9632;</span> '
        f"{as_html(label)}</span>"
        for i, (label, _) in enumerate(lines)
    )
    title = as_html(curves.title)
    return (
        f"<figure><figcaption><b>{title}</b> {keys}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{title}: {as_html(words)}">'
        f"{''.join(inner)}</svg></figure>"
    )


def _finite(x, y):
    pairs = zip(map(float, x), map(float, y), strict=True)
    return [pair for pair in pairs if all(map(math.isfinite, pair))]


def _placed(points, marks, log_x):
    """The function from a point to its place in the drawing."""
    scale = math.log if log_x else float
    xs = [scale(x) for x in [*(x for x, _ in points), *marks]]
    ys = [y for _, y in points]
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)
    wide, high = x_high - x_low or 1.0, y_high - y_low or 1.0
    inner = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x, y):
        return (
            round(_LEFT + inner[0] * (scale(x) - x_low) / wide, 1),
            round(_TOP + inner[1] * (y_high - y) / high, 1),
        )

    return place


def _axes(points, place, x_label):
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [
        f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>',
        _text((_LEFT + right) / 2, _HEIGHT - 8, x_label, "middle"),
    ]
    (low, _), (high, _) = min(points), max(points)
    for x, anchor in {low: "start", high: "end"}.items():
        parts.append(
            _text(place(x, points[0][1])[0], _HEIGHT - 8, f"{x:.3g}", anchor)
        )
    for y in {min(y for _, y in points), max(y for _, y in points)}:
        height = place(points[0][0], y)[1] + 4
        parts.append(_text(_LEFT - 6, height, f"{y:.4g}", "end"))
    return "".join(parts)


def _mark(i, x, label, place):
    left = place(x, 0.0)[0]
    d = f"M{left} {_TOP}V{_HEIGHT - _BOTTOM}"
    line = f'<path class="axis" stroke-dasharray="3" d="{d}"/>'
    # Of two that are close the labels stand one above the other.
    top = _TOP - 6 - 15 * (i % 2)
    anchor = "end" if left > 0.6 * _WIDTH else "start"
    return line + _text(left, top, label, anchor)


def _path(i, points, place):
    kind = f"c{i % _COLOURS}"
    places = [place(*point) for point in points]
    if len(places) == 1:
        (x, y) = places[0]
        return f'<circle class="{kind}" cx="{x}" cy="{y}" r="3"/>'
    d = "M" + "L".join(f"{x} {y}" for x, y in places)
    return f'<path class="{kind}" d="{d}"/>'


def _text(x, y, text, anchor):
    text = as_html(" ".join(str(text).split())[:24])
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'
