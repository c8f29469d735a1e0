"""The files of a report: complete, self-contained and safe."""

from __future__ import annotations

import csv
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from synthetic import make_program_results, make_results

from zeromean.errors import ZeromeanError
from zeromean.study import ProgramTask, report
from zeromean.study.engine.results import Results
from zeromean.study.report import content, curves, drawing, forest, profile, rates
from zeromean.study.report.drawing import NAMED, OTHERS, styles
from zeromean.study.report.summary import summarize
from zeromean.study.spec.metric import LOSS, MINUS
from zeromean.study.spec.presets import PARTS
from zeromean.study.spec.records import Candidate, Epoch, Key, Run

CURVES = {
    "plain": ((0.4, 0.7, 0.7), (0.5, 0.8, 0.8)),
    "gc": ((0.5, 0.7, 0.8), (0.5, 0.9, 0.8)),
    "gc-update": ((0.6, 0.7, 0.7), (0.6, 0.8, 0.7)),
}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return make_results(tmp_path, CURVES)


def make_tuned(out: Path, **methods: list[float]) -> Results:
    """A tuned study: validation scores of the rates 0.01, 0.1 and 1 by method, two seeds each."""
    found = make_results(
        out, dict.fromkeys(methods, CURVES["plain"]), tuning={"rates": (0.01, 0.1, 1.0)}
    )
    (task,) = found.study.tasks
    trials = tuple(
        Run(
            Key(task.label, "adam", method, 100 + seed, trial),
            Candidate(rate),
            (Epoch(1, {"score": score + 0.01 * seed, "loss": 0.5}, 1.0),),
        )
        for method, scores in methods.items()
        for trial, (rate, score) in enumerate(zip((0.01, 0.1, 1.0), scores, strict=True))
        for seed in range(2)
    )
    best = {
        method: (0.01, 0.1, 1.0)[int(np.nanargmax(scores))] for method, scores in methods.items()
    }
    runs = tuple(replace(run, candidate=Candidate(best[run.key.method])) for run in found.runs)
    return replace(found, runs=(*runs, *trials))


class Page(HTMLParser):
    """The text, attributes and balance of a page."""

    VOID = ("meta", "img")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = ""
        self.attributes: list[tuple[str, str]] = []
        self.charts = 0
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        self.charts += tag == "svg"
        self.text += " " * (tag in ("td", "th"))  # cells are words of their own
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def attribute(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


def test_page_needs_no_other_file_and_no_network(results: Results) -> None:
    path = report.write(results)
    page = Page(path)
    assert page.charts == 3  # scores, training, differences
    assert not page.attribute("src")
    assert not page.attribute("href")
    assert not re.search(r"https?://|@import|url\((?!#)|<script", path.read_text(encoding="utf-8"))
    assert [file.name for file in results.out.iterdir()] == ["report.html"]


def test_ids_on_page_are_unique(tmp_path: Path) -> None:
    ids = Page(report.write(make_results(tmp_path, CURVES, CURVES))).attribute("id")
    assert ids
    assert len(set(ids)) == len(ids)


def test_charts_are_deterministic(results: Results) -> None:
    first = report.write(results).read_bytes()
    assert report.write(results).read_bytes() == first


def test_page_starts_with_verdict_then_table_settings_and_command(results: Results) -> None:
    text = Page(report.write(results)).text
    (section,) = report.sections(results)
    for part in (
        *(one.text for one in section.conclusions),
        *(cell for row in section.table.rows for cell in row[1:]),
        "nothing was tuned",
        results.command,
    ):
        assert part in text
    places = [
        text.index(part)
        for part in ("gc: too few seeds.", "Results", "Final accuracy", "Settings", "Command")
    ]
    assert places == sorted(places)


def test_profile_counts_comparisons_within_a_factor_of_the_best() -> None:
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
    methods = {"plain": CURVES["plain"], **dict.fromkeys([*PARTS][1:18], CURVES["gc"])}
    (comparison,) = make_results(tmp_path, methods).comparisons
    few = curves.draw_scores(make_results(tmp_path, CURVES).comparisons[0])
    many = curves.draw_scores(comparison)
    assert many.get_figheight() > few.get_figheight() + 1
    drawing.svg(many, "many")  # a collapsed layout would warn


def legend(chart: drawing.Figure) -> list[str]:
    (found,) = chart.legends
    return [text.get_text() for text in found.get_texts()]


def test_legend_explains_lines_bands_and_marks(tmp_path: Path) -> None:
    results = make_results(tmp_path, CURVES, diverged=[("gc", 0)])
    (comparison,) = results.comparisons
    for chart in (curves.draw_scores(comparison), curves.draw_training(comparison)):
        assert chart is not None
        assert legend(chart) == [
            *CURVES,
            "diverged run",
            "line: mean over seeds",
            "band: ± 1 standard deviation",
            "a third of the epochs",
        ]


def test_coinciding_curves_are_marked(tmp_path: Path) -> None:
    same = {**CURVES, "ws": CURVES["gc"]}
    (comparison,) = make_results(tmp_path, same).comparisons
    chart = curves.draw_scores(comparison)
    assert "ws (same scores as gc)" in legend(chart)
    dashed = [
        line for line in chart.axes[0].lines if line.get_color() == styles(["ws"])["ws"].color
    ]
    assert dashed[0].is_dashed()


def test_training_is_drawn_with_its_learning_rate(results: Results) -> None:
    (comparison,) = results.comparisons
    chart = curves.draw_training(comparison)
    assert chart is not None
    labels = [axes.get_ylabel() for axes in chart.axes]
    assert labels == ["Training accuracy, %", "Training loss", "Learning rate"]
    first = chart.axes[2].lines[0].get_ydata()
    assert list(first) == pytest.approx([0.05, 0.025, 0.05 / 3])


def test_diverged_run_is_dotted_up_to_its_last_finite_score(tmp_path: Path) -> None:
    curves_by_method = {"plain": [(0.9, 0.8, 0.7)], "gc": [(0.9, 1.1, math.nan)]}
    results = make_results(tmp_path, curves_by_method, diverged=[("gc", 0)], metric=LOSS)
    chart = curves.draw_scores(results.comparisons[0])
    dotted, cross = (line for line in chart.axes[0].lines if line.get_color() == NAMED["gc"])
    assert dotted.get_xydata().tolist() == [[1, 0.9], [2, 1.1]]
    assert cross.get_xydata().tolist() == [[2, 1.1]]


def test_correction_counts_the_comparisons_that_were_tested(tmp_path: Path) -> None:
    diverged = [("gc-update", 0), ("gc-update", 1)]
    text = Page(report.write(make_results(tmp_path, CURVES, diverged=diverged))).text
    assert "Holm" not in text
    text = Page(report.write(make_results(tmp_path, CURVES))).text
    assert "Holm's procedure for 2 comparisons" in text


def test_curves_without_training_records_have_no_training_chart(results: Results) -> None:
    runs = tuple(
        replace(
            run,
            epochs=tuple(Epoch(one.number, {"score": one.score}) for one in run.epochs),
        )
        for run in results.runs
    )
    bare = replace(results, runs=runs)
    assert curves.draw_training(bare.comparisons[0]) is None
    assert Page(report.write(bare)).charts == 2


def test_tuned_study_shows_scores_over_rates_before_the_table(tmp_path: Path) -> None:
    results = make_tuned(tmp_path, plain=[0.5, 0.8, 0.6], gc=[0.5, 0.7, 0.9])
    (comparison,) = results.comparisons
    chart = rates.draw(results, comparison)
    lines = {tuple(line.get_xdata()) for line in chart.axes[0].lines}
    assert (0.01, 0.1, 1.0) in lines
    assert {(0.1,), (1.0,)} <= lines  # the rings
    page = report.write(results).read_text(encoding="utf-8")
    assert page.index("Validation score by learning rate") < page.index("Final accuracy")


def test_charts_show_means_deviations_and_differences(tmp_path: Path) -> None:
    scores = {"plain": ((0.4, 0.7), (0.5, 0.9)), "gc": ((0.5, 0.7), (0.7, 0.8))}
    results = make_results(tmp_path, scores)
    upper, lower = curves.draw_scores(results.comparisons[0]).axes
    means = [list(line.get_ydata()) for line in upper.lines[:2]]
    assert means == [pytest.approx([45, 80]), pytest.approx([60, 75])]
    band = upper.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(80 + 10 * 2**0.5)
    assert list(lower.lines[1].get_ydata()) == pytest.approx([15, -5])
    (axes,) = forest.draw(results, summarize(results)).axes
    (mean,) = (line for line in axes.lines if line.get_marker() == "|")
    assert list(mean.get_xdata()) == pytest.approx([-5])


def test_tuning_compares_the_last_scores_of_trials_in_the_direction_of_the_metric(
    tmp_path: Path,
) -> None:
    found = make_tuned(tmp_path, plain=[0.5, 0.4, 0.6], gc=[0.5, 0.4, 0.3])
    info = {name: msgspec.structs.replace(one, metric=LOSS) for name, one in found.infos.items()}

    def changed(run: Run) -> Run:
        trial = run.key.trial
        if trial < 0:
            return replace(run, candidate=Candidate(0.1, 1e-3))
        diverged = {"loss": math.nan} if (run.key.method, trial) == ("gc", 2) else {}
        first = Epoch(1, {"score": 9.0 - trial})
        last = Epoch(2, {**run.epochs[0].metrics, **diverged})
        candidate = Candidate(0.1, (1e-4, 1e-3, 1e-2)[trial])
        return replace(run, candidate=candidate, epochs=(first, last))

    results = replace(found, infos=info, runs=tuple(map(changed, found.runs)))
    lines = rates.draw(results, results.comparisons[0]).axes[0].lines
    means = [line.get_ydata() for line in lines if line.get_marker() == "o"]
    assert means == [[pytest.approx(0.405)]] * 4  # the line and the ring of each method
    text = Page(report.write(results)).text
    other = "the next best, learning rate 0.1, weight decay 0.0001, scored +0.1000"
    assert text.count(f"weight decay 0.001; {other}") == 2
    assert "1 of 3 trials diverged" in text


def test_tuned_study_states_the_noise_of_the_choice(tmp_path: Path) -> None:
    results = make_tuned(tmp_path, plain=[0.5, 0.8, 0.6], gc=[0.5, 0.7, 0.9])
    text = Page(report.write(results)).text
    assert content.TUNING_NOISE in text
    assert content.TUNING_NOISE in report.write_markdown(results).read_text(encoding="utf-8")
    assert f"learning rate 0.1; the next best, learning rate 1, scored {MINUS}20.00 points" in text
    assert "(deviation between seeds 0.71)" in text
    assert "learning rate 1; " in text
    assert "this is the end of the range" in text
    untuned = Page(report.write(make_results(tmp_path, CURVES))).text
    assert content.TUNING_NOISE not in untuned


def test_methods_look_the_same_in_every_chart(tmp_path: Path) -> None:
    """Methods that are not trained once shifted the colors in the chart of tuning."""
    methods = ("plain", "ws+gc", "ws+gc-update", "cwn")
    study = {"optimizer": "sgd", "tuning": {"rates": (0.1, 0.2)}}
    results = make_results(tmp_path, dict.fromkeys(methods, CURVES["gc"]), **study)
    (comparison,) = results.comparisons
    look = styles(methods)
    handles, labels = rates.draw(results, comparison).axes[0].get_legend_handles_labels()
    found = {
        label: handle.lines[0].get_color() for label, handle in zip(labels, handles, strict=True)
    }
    assert found == {method: look[method].color for method in ("plain", "ws+gc", "cwn")}


def test_methods_that_are_the_same_are_shown_once_with_a_note(tmp_path: Path) -> None:
    results = make_results(tmp_path, CURVES, optimizer="sgd")
    (section,) = report.sections(results)
    assert section.table.header == ("", "plain", "gc")
    assert {one.comparisons for one in section.summaries} == {1}
    note = "gc-update is the same method as gc with sgd; it was trained once."
    assert note in Page(report.write(results)).text
    assert note in report.write_markdown(results).read_text(encoding="utf-8")


def test_forest_plot_comes_first_with_more_than_two_comparisons(tmp_path: Path) -> None:
    many = report.write(make_results(tmp_path, CURVES, CURVES)).read_text(encoding="utf-8")
    label = "Differences to plain at the end"
    assert many.index(label) < many.index("Final accuracy")
    few = report.write(make_results(tmp_path, CURVES)).read_text(encoding="utf-8")
    assert few.index("Final accuracy") < few.index(label)


def test_forest_plot_has_a_panel_per_metric(tmp_path: Path) -> None:
    results = make_results(tmp_path, CURVES, CURVES)
    other = msgspec.structs.replace(results.infos["digits1/cnn"], metric=LOSS)
    mixed = replace(results, infos={**results.infos, "digits1/cnn": other})
    chart = forest.draw(mixed, summarize(mixed))
    assert [axes.get_xlabel() for axes in chart.axes] == [
        "Difference, points (higher is better)",
        "Difference, in loss (lower is better)",
    ]
    assert [len(axes.get_yticks()) for axes in chart.axes] == [2, 2]


@pytest.mark.parametrize("width", [390, 1200])
def test_browser_shows_page_within_its_width(
    tmp_path: Path, width: int, browser: Callable[[Path], str]
) -> None:
    """The page reports its own width: only what scrolls by itself may be wider."""
    methods = {**CURVES, "ws-conv+gc+init=lecun": CURVES["gc"]}
    path = report.write(make_results(tmp_path, methods, methods))
    probe = (
        "<script>addEventListener('load', () => parent.document.title ="
        " `${document.documentElement.scrollWidth} of ${innerWidth}`)</script></body>"
    )
    probed, frame = tmp_path / "probed.html", tmp_path / "frame.html"
    text = path.read_text(encoding="utf-8")
    probed.write_text(text.replace("</body>", probe), encoding="utf-8")
    # A frame of the wanted width, because the window of a browser has a smallest one.
    frame.write_text(f"<iframe src='probed.html' width={width} height=800 frameborder=0></iframe>")
    (title,) = re.findall(r"<title>(.*?)</title>", browser(frame))
    scroll, inner = title.split(" of ")
    assert int(scroll) <= int(inner) == width


def test_note_of_a_study_comes_first(results: Results) -> None:
    note = "Training is shortened: <3 of 30 epochs."
    study = msgspec.structs.replace(results.study, note=note)
    noted = replace(results, study=study)
    assert note in Page(report.write(noted)).text.partition("gc: ")[0]
    assert report.write_markdown(noted).read_text(encoding="utf-8").splitlines()[2] == note
    assert note not in report.write_markdown(results).read_text(encoding="utf-8")


def test_names_from_outside_are_escaped(results: Results) -> None:
    (task,) = results.study.tasks
    named = msgspec.structs.replace(task, data="npz:<script>alert(1)</script>.npz")
    study = msgspec.structs.replace(results.study, tasks=(named,))
    runs = tuple(replace(run, key=run.key._replace(task=named.label)) for run in results.runs)
    info = {named.label: results.infos[task.label]}
    changed = replace(results, study=study, runs=runs, infos=info)
    path = report.write(changed)
    assert "<script>" not in path.read_text(encoding="utf-8")
    assert "<script>alert(1)</script>.npz" in Page(path).text


@pytest.mark.filterwarnings("error")
def test_charts_show_any_name_as_it_is(tmp_path: Path) -> None:
    label, name = r"$\frac$", "\u51c6$\\x$"  # no formulas, and a glyph that matplotlib lacks
    tuned = make_tuned(tmp_path, plain=[0.5, 0.8, 0.6], gc=[0.5, 0.7, 0.9])
    methods = tuple(
        msgspec.structs.replace(one, label=label) if one.label == "gc" else one
        for one in tuned.study.methods
    )
    results = replace(
        tuned,
        study=msgspec.structs.replace(tuned.study, methods=methods),
        runs=tuple(
            replace(run, key=run.key._replace(method=label)) if run.key.method == "gc" else run
            for run in tuned.runs
        ),
        infos={
            task: msgspec.structs.replace(info, metric=msgspec.structs.replace(LOSS, name=name))
            for task, info in tuned.infos.items()
        },
    )
    (comparison,) = results.comparisons
    for chart, shown in (
        (forest.draw(results, summarize(results)), label),
        (rates.draw(results, comparison), label),
        (rates.draw(results, comparison), name),
        (curves.draw_scores(comparison), name),
        (curves.draw_training(comparison), name),
        (profile.draw(results, summarize(results)), label),
    ):
        assert shown in drawing.svg(chart, "chart")


def test_every_method_has_a_look_of_its_own() -> None:
    methods = (*NAMED, *(f"other-{number}" for number in range(36)))
    given = styles(methods)
    assert len(set(given.values())) == len(methods) == 40
    # Each as a line, as a mark, and on the page.
    for second in ("line", "marker", "border"):
        assert len({(one.color, getattr(one, second)) for one in given.values()}) == 40
    # Other methods do not change the look of the named ones.
    assert given["gc"] == styles(("plain", "gc"))["gc"]


def luminance(color: str) -> float:
    parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def test_colors_have_enough_contrast_on_white() -> None:
    for color in (*NAMED.values(), *OTHERS, "#555555"):
        assert 1.05 / (luminance(color) + 0.05) >= 4.5, color


def test_several_comparisons_share_a_page(tmp_path: Path) -> None:
    results = make_results(tmp_path, CURVES, CURVES)
    page = Page(report.write(results))
    assert page.charts == 1 + 2 * 2 + 1  # forest plot; scores and training each; profile
    parts = report.sections(results)
    heads = [*report.headline(parts), *(part.comparison.name for part in parts)]
    places = [page.text.index(part) for part in heads]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("scores", "diverged"),
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
    scores: dict[str, tuple[tuple[float, ...], ...]],
    diverged: list[tuple[str, int]],
) -> None:
    text = Page(report.write(make_results(tmp_path, scores, diverged=diverged))).text
    assert not re.search(r"\bnan\b|\binf\b|None", text)
    assert f"{sum(method == 'gc' for method, _ in diverged)} of {len(scores['gc'])}" in text


def test_failed_runs_without_epochs_make_a_page(results: Results) -> None:
    runs = tuple(
        Run(run.key, run.candidate, (), failure="exit code 1") if run.key.method == "gc" else run
        for run in results.runs
    )
    failed = replace(results, runs=runs)
    text = Page(report.write(failed)).text
    assert "gc: nothing to compare." in text
    assert not re.search(r"\bnan\b|\binf\b|None", text)


def test_missing_folder_is_named_with_the_place_of_the_results(results: Results) -> None:
    shutil.rmtree(results.out)
    with pytest.raises(ZeromeanError, match=r"cannot be written.*safe in its study.sqlite"):
        report.write(results)


def test_csv_holds_every_run_and_metric(results: Results) -> None:
    runs, epochs = report.write_csv(results)
    with runs.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results.runs)
    assert rows[0]["status"] == "finished"
    with epochs.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(results.runs)
    assert (rows[1]["score"], rows[1]["learning_rate"]) == ("0.7", "0.025")


def test_csv_holds_the_tuned_values_of_a_program(results: Results) -> None:
    """Its learning rate, which is unknown, was once written as nan."""
    values = (("width", 64.0),)
    program = replace(
        results,
        runs=tuple(
            replace(run, candidate=Candidate(math.nan, None, values)) for run in results.runs
        ),
    )
    file, _ = report.write_csv(program)
    row = next(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    assert (row["width"], row["learning_rate"], row["weight_decay"]) == ("64.0", "", "")


@pytest.mark.parametrize("name", ["runs.csv", "epochs.csv", "report.html", "report.md"])
def test_files_are_never_written_through_a_link(results: Results, name: str) -> None:
    precious = results.out / "precious"
    precious.write_text("keep")
    (results.out / name).symlink_to(precious)
    report.write(results)
    report.write_markdown(results)
    report.write_csv(results)
    assert precious.read_text() == "keep"
    assert not (results.out / name).is_symlink()


def test_charts_are_well_formed(results: Results) -> None:
    (comparison,) = results.comparisons
    text = drawing.svg(curves.draw_scores(comparison), "one").replace("xlink:href", "href")
    root = ElementTree.fromstring(text)
    assert root.attrib["viewBox"].startswith("0 0 360 ")


def test_tuned_values_of_a_program_are_drawn_and_described(tmp_path: Path) -> None:
    """A program has no learning rate of its own, so the first tuned value takes its place."""
    results = make_tuned(tmp_path, plain=[0.5, 0.8, 0.6], gc=[0.5, 0.7, 0.9])

    def renamed(run: Run) -> Run:
        values = (("width", run.candidate.lr),)
        return replace(run, candidate=Candidate(float("nan"), None, values))

    program = replace(results, runs=tuple(map(renamed, results.runs)))
    chart = rates.draw(program, program.comparisons[0])
    assert chart.axes[0].get_xlabel() == "width"
    assert (0.01, 0.1, 1.0) in {tuple(line.get_xdata()) for line in chart.axes[0].lines}
    text = Page(report.write(program)).text
    assert "width 0.1; the next best, width 1, scored" in text
    assert not re.search(r"\bnan\b", text.partition("Settings")[0])


def test_report_of_a_program_claims_nothing_about_its_test_set(tmp_path: Path) -> None:
    """The best of a run's test accuracies was once reported as chosen without them."""
    task = ProgramTask(command=("train.py",), metric="accuracy=acc NUMBER", best=True)
    found = make_program_results(tmp_path, task, {"plain": [(0.7, 0.6)], "gc": [(0.8, 0.7)]})
    page = report.write(found).read_text()
    assert "Nothing was chosen" not in page
    assert "test examples" not in page
    assert "what they were measured on is its choice" in page
    assert "accuracy=acc NUMBER; higher is better; a run is scored by its best value" in page


def test_report_says_why_runs_of_a_program_failed(tmp_path: Path) -> None:
    """A crash was once counted as a divergence, without its reason."""
    task = ProgramTask(command=("train.py",), metric="accuracy=acc NUMBER")
    curves = {"plain": [(0.7, 0.6)] * 3, "gc": [(0.8, 0.7)] * 3}
    found = make_program_results(tmp_path, task, curves)
    why = "it ended with exit code 1; MemoryError"
    runs = tuple(
        replace(run, failure=why, test_score=None)
        if run.key.method == "gc" and run.key.seed > 0
        else run
        for run in found.runs
    )
    page = report.write(replace(found, runs=runs)).read_text()
    assert f"gc failed with 2 of 3 seeds; seed 1: {why}" in page
    assert "Diverged or failed runs" in page
    assert "diverged or failed run<" in page
    assert "without runs that diverged or failed" in page
