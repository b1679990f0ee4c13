"""A page of a report in a real browser, at three widths, light and dark."""

import html
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent.parent
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "chrome"]
WIDTHS = [375, 800, 1280]
# One look at frames of all widths: windows are not as narrow as a phone.
FRAMES = """<!DOCTYPE html><title>wait</title>
<body style="margin: 0; display: flex; width: max-content">{frames}<script>
onload = () => {{
  const wide = page => [...page.querySelectorAll("body *")].filter(one =>
    !one.closest(".wide") && one.getBoundingClientRect().right >
    page.documentElement.clientWidth + 1).map(one => one.outerHTML);
  const look = page => ({{
    width: page.documentElement.clientWidth,
    inner: page.documentElement.scrollWidth,
    wide: wide(page),
    back: getComputedStyle(page.body).backgroundColor,
    seen: [...page.images].every(one => one.alt && one.naturalWidth > 0)}});
  document.title = JSON.stringify([...document.querySelectorAll("iframe")]
    .map(frame => look(frame.contentDocument)));
}}</script>"""


@pytest.fixture(scope="module")
def browser():
    named = os.environ.get("FINETUNE_KERAS_BROWSER")
    found = filter(None, map(shutil.which, [named] if named else BROWSERS))
    program = next(found, None)
    if program is None:
        pytest.skip(
            "No browser: install one, such as Debian's package chromium, or "
            "name its program in the environment variable "
            "FINETUNE_KERAS_BROWSER."
        )
    return program


def look(browser, page, scheme, *options):
    """Has a browser without a window open a page; gives what it prints."""
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu"]
    command += [f"--user-data-dir={page.with_name('profile')}"]
    number = ["dark", "light"].index(scheme)
    command += [f"--blink-settings=preferredColorScheme={number}"]
    command += ["--virtual-time-budget=5000", *options, page.as_uri()]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def in_frames(source):
    """A page with another one in frames of all widths."""
    source = html.escape(source)
    frames = [
        f'<iframe style="border: 0; width: {width}px; height: 6000px" '
        f'srcdoc="{source}"></iframe>'
        for width in WIDTHS
    ]
    return FRAMES.format(frames="".join(frames))


def facts_of(told):
    """What the script of the frames has found in each."""
    return json.loads(html.unescape(re.search("<title>(.*?)<", told)[1]))


def test_nothing_overflows_and_all_is_seen(browser, judged, tmp_path):
    page = tmp_path / "frames.html"
    page.write_text(in_frames(judged[1].read_text("utf-8")), "utf-8")
    for scheme in ("light", "dark"):
        picture = tmp_path / f"{scheme}.png"
        options = ["--window-size=2500,3000", f"--screenshot={picture}"]
        facts = facts_of(look(browser, page, scheme, *options, "--dump-dom"))
        assert [one["width"] for one in facts] == WIDTHS
        for one in facts:
            assert one["inner"] <= one["width"] and one["wide"] == []
            assert one["seen"]
            assert (one["back"] == "rgb(255, 255, 255)") == (scheme == "light")
        colours = Image.open(picture).convert("L").resize((50, 60)).getcolors()
        # There is something to see: text, curves, photos.
        assert len(colours) > 50


def test_nothing_in_a_notebook_overflows(browser, tmp_path):
    """Whatever the library returns, as notebooks have stored it."""
    cells = [
        cell
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
        for cell in json.loads(path.read_text("utf-8"))["cells"]
    ]
    outputs = [x for cell in cells for x in cell.get("outputs", [])]
    shown = ["".join(x.get("data", {}).get("text/html", "")) for x in outputs]
    assert len(list(filter(None, shown))) > 40
    page = tmp_path / "frames.html"
    page.write_text(in_frames("<!DOCTYPE html>" + "\n".join(shown)), "utf-8")
    for one in facts_of(look(browser, page, "light", "--dump-dom")):
        assert one["inner"] <= one["width"] and one["wide"] == []
        assert one["seen"]
