"""A page of a report in a real browser, at three widths, light and dark."""

import html
import json
import os
import re
import shutil
import subprocess

import pytest
from PIL import Image

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


def test_nothing_overflows_and_all_is_seen(browser, judged, tmp_path):
    source = html.escape(judged[1].read_text("utf-8"))
    page = tmp_path / "frames.html"
    frames = [
        f'<iframe style="border: 0; width: {width}px; height: 6000px" '
        f'srcdoc="{source}"></iframe>'
        for width in WIDTHS
    ]
    page.write_text(FRAMES.format(frames="".join(frames)), "utf-8")
    for scheme in ("light", "dark"):
        picture = tmp_path / f"{scheme}.png"
        options = ["--window-size=2500,3000", f"--screenshot={picture}"]
        told = look(browser, page, scheme, *options, "--dump-dom")
        facts = json.loads(html.unescape(re.search("<title>(.*?)<", told)[1]))
        assert [one["width"] for one in facts] == WIDTHS
        for one in facts:
            assert one["inner"] <= one["width"] and one["wide"] == []
            assert one["seen"]
            assert (one["back"] == "rgb(255, 255, 255)") == (scheme == "light")
        colours = Image.open(picture).convert("L").resize((50, 60)).getcolors()
        # There is something to see: text, curves, photos.
        assert len(colours) > 50
