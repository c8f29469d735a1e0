"""The documentation site in a browser: widths, resources and search, without a network."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

# Opens each page in a frame of each width and writes what it finds as JSON.
PROBE = """<!doctype html><iframe id=frame height=900 frameborder=0></iframe><pre id=found></pre>
<script>
const frame = document.getElementById("frame"), found = [];
const pause = time => new Promise(resolve => setTimeout(resolve, time));
async function open(url, width) {
  frame.width = width;
  await new Promise(resolve => { frame.onload = resolve; frame.src = url; });
  const view = frame.contentWindow;
  if (view.MathJax?.startup) await view.MathJax.startup.promise;
  await pause(100);
  return view;
}
(async () => {
  for (const url of PAGES) for (const width of [390, 1280]) {
    const view = await open(url, width), root = view.document.documentElement;
    const all = selector => [...view.document.querySelectorAll(selector)];
    const broken = all("img").filter(one => !one.complete || !one.naturalWidth);
    const fonts = [...view.document.fonts].filter(one => one.status === "error");
    found.push({url, width, shown: root.scrollWidth, text: root.innerText.length,
                resources: all("script[src], img, link[rel~=stylesheet], link[rel~=icon]")
                  .map(one => one.src || one.href),
                broken: [...broken.map(one => one.src), ...fonts.map(one => one.family)],
                formulas: all("mjx-container svg, mjx-container mjx-math").length});
  }
  const view = await open(SEARCH, 1280);
  for (let n = 0; n < 50 && !view.document.querySelector("#search-results li a"); n++)
    await pause(100);
  const results = [...view.document.querySelectorAll("#search-results li a")];
  found.push({hits: results.map(one => one.href)});
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx", reason="install the extra docs")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", ROOT / "docs", out],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> list[Path]:
    """Return the pages, without the listings of source files."""
    return sorted(set(site.rglob("*.html")) - set(site.glob("_modules/**/*.html")))


@pytest.mark.timeout(1800)  # it builds the site
def test_pages_in_browser(
    site: Path, pages: list[Path], browser: Callable[[Path], str], tmp_path: Path
) -> None:
    search = (site / "search.html").as_uri() + "?q=momentum"
    probe = tmp_path / "probe.html"
    urls = json.dumps([page.as_uri() for page in pages])
    probe.write_text(PROBE.replace("PAGES", urls).replace("SEARCH", json.dumps(search)))
    (text,) = re.findall(r'<pre id="found">(.*?)</pre>', browser(probe), re.S)
    *shown, searched = json.loads(html.unescape(text))
    assert len(shown) == 2 * len(pages)
    assert [(one["url"], one["shown"]) for one in shown if one["shown"] > one["width"]] == []
    assert [one["broken"] for one in shown if one["broken"]] == []
    assert min(one["text"] for one in shown) > 50
    resources = {name for one in shown for name in one["resources"]}
    assert missing(resources) == set()
    formulas = {Path(one["url"]).stem: one["formulas"] for one in shown}
    assert formulas["concepts"] > 10
    assert any("/jax.html" in hit for hit in searched["hits"])


def test_pages_name_no_resource_elsewhere(pages: list[Path]) -> None:
    """Links may lead elsewhere; what a page needs to be shown may not."""
    needed = r'<(?:script|img|iframe|source)\b[^>]*?\bsrc="([^"]+)"|<link\b[^>]*?\bhref="([^"]+)"'
    for page in pages:
        for match in re.finditer(needed, page.read_text(encoding="utf-8")):
            name = html.unescape(match[1] or match[2])
            address = urlsplit(name)
            assert address.scheme in ("", "data"), f"{page.name}: {name}"
            if address.path and not address.scheme:
                assert (page.parent / unquote(address.path)).is_file(), f"{page.name}: {name}"


def missing(resources: Any) -> set[str]:
    """Return the addresses that are not files of this machine."""
    return {
        name
        for name in resources
        if not name.startswith("data:")
        and not (name.startswith("file:") and Path(unquote(urlsplit(name).path)).is_file())
    }
