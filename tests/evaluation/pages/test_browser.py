"""The pages in a real browser: nothing fails, nothing is cut off, and every text can be read in light and dark.

Needs Chromium; without one these tests are skipped.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ray_ggsm.evaluation.pages import report, study_report
from tests.helpers import reports

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

PROBE = """<script>
const failed = [];
addEventListener("error", e => failed.push(e.message));
const numbers = c => c.match(/[\\d.]+/g).map(Number);
const linear = v => v <= 10.31475 ? v / 3294.6 : ((v / 255 + .055) / 1.055) ** 2.4;
const light = c => .2126 * linear(c[0]) + .7152 * linear(c[1]) + .0722 * linear(c[2]);
function ground(e) { for (; e; e = e.parentElement) { const c = numbers(getComputedStyle(e).backgroundColor);
  if (c.length == 3 || c[3] > .5) return c.slice(0, 3); } return [255, 255, 255]; }
function contrast(e) { const style = getComputedStyle(e);
  const [a, b] = [numbers(e.ownerSVGElement ? style.fill : style.color).slice(0, 3), ground(e)].map(light);
  return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); }
addEventListener("load", () => {
  const texts = [...document.querySelectorAll("main *")].filter(e => e.getClientRects().length && e.tagName != "title"
    && [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()));
  const order = texts.map(e => [contrast(e), e.textContent.trim().slice(0, 40)]).sort((a, b) => a[0] - b[0]);
  const page = document.documentElement;
  page.dataset.found = [failed.join(), texts.length, page.scrollWidth - innerWidth, ...order[0]].join("|");
});
</script>"""


@pytest.fixture(scope="module", params=["report", "study"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "report":
        html = report.render(reports.report(**reports.FULL))
    else:
        html = study_report.render(reports.study_report(reports.small_study()))
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(html.replace("<head>", f"<head>{PROBE}", 1))
    return file


def browse(*arguments: str) -> str:
    assert BROWSER is not None
    fixed = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    done = subprocess.run([BROWSER, *fixed, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(("scheme", "width"), [("light", 1240), ("dark", 420)])
def test_every_text_can_be_read(page: Path, scheme: str, width: int) -> None:
    dark = "--blink-settings=preferredColorScheme=" + ("0" if scheme == "dark" else "1")
    dom = browse(dark, f"--window-size={width},900", "--dump-dom", page.as_uri())
    match = re.search(r'data-found="([^"]*)"', dom)
    assert match, "the page did not load"
    failed, texts, overflow, contrast, where = match.group(1).split("|", 4)
    assert not failed
    assert int(texts) > 50
    assert int(overflow) <= 0, "the page is wider than the window"
    assert float(contrast) >= 4.5, f"too faint: {where}"


def test_it_prints(page: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.pdf"
    browse("--no-pdf-header-footer", f"--print-to-pdf={file}", page.as_uri())
    assert len(re.findall(rb"/Type\s*/Page\b", file.read_bytes())) >= 2
