"""The report in a real browser: headless Chromium, no driver, no network."""

import html
import json
import re
import shutil
import subprocess

import pytest

from gradmem.lab.findings import findings
from gradmem.lab.origin import Origin
from gradmem.lab.report import html_page
from gradmem.lab.report.page import SECTIONS
from gradmem.lab.tasks.breast_cancer import BreastCancer

from .synthetic import change_runs, comparison, failed

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
WIDTHS = (1200, 400)

# Tells what the browser sees: the page runs in a frame as wide as a window of this width would be.
PROBE = """<!doctype html><meta charset="utf-8"><body style="margin:0"><script>
const said = [];
async function look(width) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  document.body.append(frame);
  await new Promise(done => { frame.onload = done; frame.src = "report.html"; });
  const page = frame.contentDocument, root = page.documentElement;
  const all = what => [...page.querySelectorAll(what)], box = e => e.getBoundingClientRect();
  const boxes = all("body > *, section > *, figure, p, h1, h2");
  said.push({
    width,
    inner: frame.contentWindow.innerWidth,
    scroll: root.scrollWidth,
    wide: boxes.filter(b => box(b).right > width + 1).map(b => b.outerHTML.slice(0, 80)),
    sections: all("[id]").map(e => e.id).filter(i => NAMES.includes(i)),
    empty: all("section").filter(s => s.innerText.trim().length < 20).length,
    figures: all("figure svg").length,
    flat: all("figure svg").filter(s => box(s).height < 60).length,
    scrollable: all(".scroll").filter(s => s.scrollWidth > s.clientWidth).length,
    fetched: frame.contentWindow.performance.getEntriesByType("resource").map(e => e.name),
    paper: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
    ink: frame.contentWindow.getComputedStyle(page.body).color,
  });
}
const NAMES = NAMES_HERE;
(async () => {
  try { for (const width of WIDTHS_HERE) await look(width); }
  catch (error) { said.push({error: String(error)}); }
  document.body.innerHTML = "";
  const out = document.createElement("pre");
  out.id = "said"; out.textContent = JSON.stringify(said);
  document.body.append(out);
})();
</script></body>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    names = ("sgd", "sgd_c", "adam", "adam_c")
    made = comparison(
        {name: [0.85 + 0.02 * i + 0.003 * k for i in range(6)] for k, name in enumerate(names)},
        task=BreastCancer(),  # which the theorem is about, so that no section is left out
    )
    error = "Traceback\n" + "x" * 300 + "\nRuntimeError: <script>document.title='bad'</script>"
    made = change_runs(made, "adam", lambda runs: [failed(runs[0], "crashed", error), *runs[1:]])
    where = tmp_path_factory.mktemp("page")
    toml = 'command = "compare"\noptimizers = ["' + '", "'.join(names * 6) + '"]\n'
    (where / "report.html").write_text(html_page(findings(made, Origin(toml))), encoding="utf-8")
    probe = PROBE.replace("NAMES_HERE", json.dumps(["verdict", "warnings", *SECTIONS]))
    (where / "probe.html").write_text(probe.replace("WIDTHS_HERE", json.dumps(WIDTHS)))
    return where


def seen_by_the_browser(folder, dark):
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--virtual-time-budget=20000",
        "--dump-dom",
        (folder / "probe.html").as_uri(),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    said = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.DOTALL)
    assert said, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(said[1])), console


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


@pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(BROWSERS)} on PATH")
def test_the_page_in_a_browser_wide_and_narrow_light_and_dark(folder):
    for dark in (False, True):
        views, console = seen_by_the_browser(folder, dark)
        assert console == []
        assert [view.get("width") for view in views] == list(WIDTHS), views
        for view in views:
            assert view["inner"] == view["width"]
            assert view["scroll"] <= view["width"], view["wide"]
            assert view["wide"] == []
            assert view["sections"] == ["verdict", "warnings", *SECTIONS]
            assert view["fetched"] == []
            assert (view["empty"], view["flat"]) == (0, 0)
            assert view["figures"] >= 11
            assert (brightness(view["paper"]) < brightness(view["ink"])) == dark
        assert views[1]["scrollable"] > 0  # the tables do, inside their boxes
