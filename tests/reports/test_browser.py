"""The page in a browser without a window: its pictures, its width, its themes, its console.

Needs Chromium, for example Debian's package chromium.
"""

import json
import re
import shutil
import subprocess
import sys

import pytest
from run_folders import NETWORKS, make_analysis, make_potential, make_run

import report
from utils import digest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on the PATH"),
]
# Opens everything that is behind a click, and sends what the browser knows to the page around it.
PROBE = """<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(part => { part.open = true; });
  const pictures = [...document.images].map(image => ({
    natural: image.naturalWidth, width: image.width, height: image.height,
    dark: image.currentSrc === image.parentNode.querySelector("source").srcset,
  }));
  parent.postMessage(JSON.stringify({
    pictures, inner: innerWidth, scroll: document.documentElement.scrollWidth,
    paper: getComputedStyle(document.body).backgroundColor,
  }), "*");
});
</script>"""
# A window is at least 500 pixels wide: a frame has any width.
FRAME = """<!DOCTYPE html>
<meta name="color-scheme" content="light dark">
<script>addEventListener("message", event => {
  document.body.append(`FOUND ${event.data} END`);
});</script>
<iframe src="page.html" style="width: WIDTHpx; height: 900px; border: 0"></iframe>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Path of a page with two runs, one of them with a long name, and an analysis."""
    folder = tmp_path_factory.mktemp("page")
    digests = {name: digest(arrays) for name, arrays in NETWORKS.items() if name != "warm_up"}
    analysis = make_analysis(folder / "analysis", digests)
    make_potential(analysis, f"parameters {digests['baseline']}")
    runs = [make_run(folder / "run"), make_run(folder / ("long_name" * 20), until="search")]
    with pytest.MonkeyPatch.context() as patch:
        out = str(folder / "page.html")
        patch.setattr(sys, "argv", ["report.py", *runs, "--out", out, "--analysis", analysis])
        report.main()
    return folder / "page.html"


def browse(path, profile, dark=False):
    """(the page as the browser has it after loading, what it has logged)"""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={profile}", "--window-size=1600,1000", "--dump-dom"]
    command += ["--enable-logging=stderr", f"--blink-settings=preferredColorScheme={int(not dark)}"]
    # Waits for the message of the frame, too.
    command += ["--virtual-time-budget=10000", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def framed(folder, text, width):
    """Path of a page that shows `text` in a frame so wide, with the probe in it."""
    (folder / "page.html").write_text(text.replace("</main>", f"</main>{PROBE}"))
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    return folder / "frame.html"


def console(log):
    """The lines of the log that the page is the cause of."""
    return [line for line in log.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_the_page_fits_and_has_its_pictures(page, tmp_path, width, dark):
    text, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    assert count == 1, "it would stop the probe"
    dom, log = browse(framed(tmp_path, text, width), tmp_path / "profile", dark)
    found = json.loads(re.search(r"FOUND (\{.*\}) END", dom).group(1))
    assert found["inner"] == width and found["scroll"] <= width
    assert len(found["pictures"]) > 10
    for picture in found["pictures"]:
        assert picture["natural"] > 100
        assert 100 < picture["width"] <= width and picture["height"] > 100
        assert picture["dark"] == dark
    brightness = sum(map(int, re.findall(r"\d+", found["paper"])[:3])) / 3
    assert (brightness < 60) if dark else (brightness > 200)
    assert console(log) == []


def test_the_page_is_silent_under_its_own_policy(page, tmp_path):
    dom, log = browse(page, tmp_path / "profile")
    assert "What was run" in dom and console(log) == []


def test_the_policy_keeps_scripts_out(page, tmp_path):
    dom, log = browse(framed(tmp_path, page.read_text(), 1400), tmp_path / "profile")
    assert "FOUND {" not in dom
    assert console(log), "this is how the other tests would learn of an error"
