"""The files of a comparison: complete, self-contained, safe."""

from __future__ import annotations

import base64
import dataclasses
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image
from synthetic import make_results
from zeromean.study.methods import PARTS

from zeromean.errors import ZeromeanError
from zeromean.recipes.catalog import recipes
from zeromean.study import report
from zeromean.study.engine.results import Results
from zeromean.study.report import profile
from zeromean.study.report.styles import Style, styles

CURVES = {
    "plain": ((0.4, 0.7, 0.7), (0.5, 0.8, 0.8)),
    "gc": ((0.5, 0.7, 0.8), (0.5, 0.9, 0.8)),
    "gc-update": ((0.6, 0.7, 0.7), (0.6, 0.8, 0.7)),
}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return make_results(tmp_path, CURVES)


class Page(HTMLParser):
    """The text, attributes and balance of a page."""

    VOID = ("meta", "img")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = ""
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def attribute(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


def test_the_page_needs_no_other_file_and_no_network(results: Results) -> None:
    path, picture = report.write(results)
    page = Page(path)
    source, differences = page.attribute("src")
    assert differences.startswith("data:image/png;base64,")
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == picture.read_bytes()
    assert not page.attribute("href")
    assert not re.search(r"https?://|@import|url\(|<script", path.read_text(encoding="utf-8"))


def test_the_page_shows_sentence_then_table_settings_and_command(results: Results) -> None:
    path, _ = report.write(results)
    text = Page(path).text
    (section,) = report.sections(results)
    expected = [
        *section.conclusions,
        *(cell for _, cells in section.table for cell in cells),
        "nothing",
        results.command,
    ]
    for part in expected:
        assert part in text
    places = [
        text.index(part) for part in (expected[0], "Results", "Settings", "Command", expected[-1])
    ]
    assert places == sorted(places)


def test_a_profile_counts_comparisons_within_a_factor_of_the_best() -> None:
    amounts = [
        {"plain": 20.0, "gc": 10.0},
        {"plain": 10.0, "gc": 15.0},
        {"plain": 10.0, "gc": math.inf},
        {"plain": math.inf, "gc": math.inf},
    ]
    found = profile.ratios(amounts)
    assert found == {"plain": [2, 1, 1, math.inf], "gc": [1, 1.5, math.inf, math.inf]}
    assert profile.share_within(found["plain"], 1) == 0.5
    assert profile.share_within(found["plain"], 2) == 0.75
    assert profile.share_within(found["gc"], 1.4) == 0.25
    assert profile.share_within(found["gc"], 1e9) == 0.5


def test_many_methods_leave_the_curves_their_room(tmp_path: Path) -> None:
    curves = {"plain": CURVES["plain"], **dict.fromkeys([*PARTS][:17], CURVES["gc"])}
    _, picture = report.write(make_results(tmp_path, curves))  # a collapsed one would warn
    with Image.open(picture) as image:
        assert image.height > 1.3 * image.width


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_the_page_within_its_width(tmp_path: Path, width: int) -> None:
    """The page reports its own width: nothing may stick out but what scrolls by itself."""
    path, *_ = report.write(make_results(tmp_path, CURVES, CURVES))
    probe = (
        "<script>addEventListener('load', () => document.title ="
        " `${document.documentElement.scrollWidth} of ${innerWidth},`"
        " + [...document.images].every(one => one.naturalWidth > 0))</script></body>"
    )
    probed = tmp_path / "probed.html"
    # A frame of the wanted width: the window of a browser has a smallest one.
    frame = tmp_path / "frame.html"
    probed.write_text(
        path.read_text(encoding="utf-8").replace(
            "</body>", probe.replace("document.title =", "parent.document.title =")
        ),
        encoding="utf-8",
    )
    frame.write_text(f"<iframe src='probed.html' width={width} height=800 frameborder=0></iframe>")
    done = subprocess.run(
        (
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu"),
            *("--allow-file-access-from-files", "--virtual-time-budget=5000"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", frame.as_uri()),
        ),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    (title,) = re.findall(r"<title>(.*?)</title>", done.stdout)
    sizes, images = title.split(",")
    scroll, inner = sizes.split(" of ")
    assert int(scroll) <= int(inner) == width
    assert images == "true"


def test_what_has_to_be_known_of_a_study_is_said_first(results: Results) -> None:
    note = "Training is shortened: <3 of 30 epochs."
    noted = dataclasses.replace(results, study=dataclasses.replace(results.study, note=note))
    words = Page(report.write(noted)[0]).text
    assert note in words.partition("Results")[0]
    text = report.write_markdown(noted).read_text(encoding="utf-8")
    assert text.splitlines()[2] == note
    assert note not in report.write_markdown(results).read_text(encoding="utf-8")


def test_names_from_outside_are_escaped(results: Results) -> None:
    (task,) = results.study.tasks
    named = replace(task, data="npz:<script>alert(1)</script>.npz")
    study = dataclasses.replace(results.study, tasks=(named,))
    runs = tuple(
        dataclasses.replace(run, key=run.key._replace(task=named.label)) for run in results.runs
    )
    facts = {named.label: results.facts[task.label]}
    path, _ = report.write(dataclasses.replace(results, study=study, runs=runs, facts=facts))
    assert "<script>" not in path.read_text(encoding="utf-8")
    assert "<script>alert(1)</script>.npz" in Page(path).text


def test_the_picture_is_a_png_with_each_methods_color(results: Results) -> None:
    _, picture = report.write(results)
    with Image.open(picture) as image:
        assert image.format == "PNG"
        seen = {color for _, color in image.convert("RGB").getcolors(maxcolors=2**24) or []}

    def shade(one: Style) -> tuple[int, ...]:
        return tuple(bytes.fromhex(one.color[1:]))

    assert {shade(one) for one in styles(tuple(CURVES)).values()} <= seen
    assert shade(styles(["gc-conv"])["gc-conv"]) not in seen


def test_every_method_has_a_look_of_its_own() -> None:
    methods = (
        "plain",
        "gc",
        "gc-conv",
        "gc-update",
        *(f"clip-norm={bound}" for bound in range(36)),
    )
    given = styles(methods)
    assert len(set(given.values())) == len(methods) == 40
    # As a line, as a mark, and on the page.
    for second in ("line", "marker", "border"):
        assert len({(one.color, getattr(one, second)) for one in given.values()}) == 40
    # Others beside it do not change it.
    assert given["gc"] == styles(("plain", "gc"))["gc"]


def test_the_recipe_of_most_methods_has_a_look_for_each() -> None:
    methods = max((one.study.methods for one in recipes()), key=len)
    assert len(methods) > 16
    assert len(set(styles(methods).values())) == len(methods)


def test_lines_that_share_a_color_differ_in_every_part_of_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    methods = ("plain", *[one for one in PARTS if not one.startswith("gc")][:16])
    curves = {"plain": CURVES["plain"], **dict.fromkeys(methods[1:], CURVES["gc"])}
    page = report.write(make_results(tmp_path, curves, curves))[0].read_text(encoding="utf-8")
    (upper, _), _, (differences,), _, (profile_axes,) = (one.axes for one in drawn)
    for axes in (upper, profile_axes):
        lines = [one for one in axes.lines if one.get_label() in methods]
        assert len({(one.get_color(), one.get_linestyle()) for one in lines}) == len(methods)
    marks = [one for one in differences.lines if one.get_marker() in ("o", "s", "^")]
    assert len({(one.get_color(), one.get_marker()) for one in marks}) == len(methods) - 1
    shown = re.findall(r'class="key" style="border-top: 3px (.*?)"></span>([^<]*)<', page)
    assert {name: look for look, name in shown}.keys() == set(methods)
    assert len(set(shown)) == len({look for look, _ in shown}) == len(methods)


def test_several_comparisons_share_a_page_with_a_picture_each(tmp_path: Path) -> None:
    results = make_results(tmp_path, CURVES, CURVES)
    path, *pictures = report.write(results)
    page = Page(path)
    assert [picture.name for picture in pictures] == ["curves.png", "curves-2.png"]
    assert len(page.attribute("src")) == 2 * 2 + 1  # curves and differences each, one profile
    one, other = report.sections(results)
    places = [
        page.text.index(str(part))
        for part in (report.headline(results), one.comparison.name, other.comparison.name)
    ]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("curves", "diverged"),
    [
        ({"plain": ((0.5,),), "gc": ((0.6,),)}, []),
        ({"plain": ((0.5, 0.6),), "gc": ((0.6,),)}, [("gc", 0)]),
        (
            {"plain": ((0.1,), (0.1,)), "gc": ((0.1,), (0.1,))},
            [("plain", 0), ("plain", 1), ("gc", 0), ("gc", 1)],
        ),
    ],
    ids=["one seed and one epoch", "the only gc run diverged", "every run diverged"],
)
def test_poor_results_make_a_page_too(
    tmp_path: Path,
    curves: dict[str, tuple[tuple[float, ...], ...]],
    diverged: list[tuple[str, int]],
) -> None:
    path, _ = report.write(make_results(tmp_path, curves, diverged=diverged))
    text = Page(path).text
    assert not re.search(r"\bnan\b|\binf\b|None", text)
    assert f"{sum(method == 'gc' for method, _ in diverged)} of {len(curves['gc'])}" in text


def test_a_folder_that_vanished_is_told_with_where_the_results_are(results: Results) -> None:
    shutil.rmtree(results.out)
    with pytest.raises(
        ZeromeanError, match=r"cannot be format_number.*all results are in .*study.sqlite"
    ):
        report.write(results)
