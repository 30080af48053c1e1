"""The pictures of the report: what they show, that they say it in words, and that no text gets out of its place."""

from __future__ import annotations

import base64
import itertools
import math
import random
import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from playwright.sync_api import sync_playwright

from crucible_bench import compare
from crucible_bench.plots import (
    CurvePoint,
    ForestRow,
    Picture,
    critical_difference,
    curve,
    forest_plot,
    heat_map,
    paired_lines,
    power_curve,
    run_chart,
    strip_plot,
)
from crucible_bench.plots.axes import linear_axis, log_axis
from crucible_bench.plots.curve import is_geometric
from crucible_bench.plots.density import box_of, density, swarm
from crucible_bench.plots.heat_map import DARKEST
from crucible_bench.plots.numbers import numerals
from crucible_bench.plots.picture import NARROW, WIDE
from crucible_bench.plots.svg import COLOURS, DASHES, SERIES
from crucible_bench.plots.text_layout import BOLD_SIZE, clean, cut, spread, text_width
from crucible_bench.plots.tikz import tikz_of
from crucible_core import Context, Experiment
from crucible_core.report import render_report
from crucible_core.report.document import Document, Section
from crucible_core.report.html import html_of
from crucible_core.report.latex import latex_of
from crucible_core.report.markdown import markdown_of

CHROMIUM = shutil.which("chromium")
SVG = "{http://www.w3.org/2000/svg}"
DRAWN = random.Random(3)


def normal(mean: float, sd: float, n: int) -> list[float]:
    return [DRAWN.gauss(mean, sd) for _ in range(n)]


DAYS = [f"2026-11-{day:02}" for day in range(1, 25)]
HOSTILE = [
    "<script>alert(1)</script>", "]]>", "</style><script>alert(1)</script>", '" onload="alert(1)', "' onclick='x",
    "&amp;&lt;", "<!--", "\x00\x1b[31m", "\ud800", "\u202egnp.exe", "\ufffe",
    "日本語の長い名前のグループ", "שלום", "😀" * 40,
    "x" * 100_000, "", " ", "a\nb", "url(https://evil.example/x)", "\\u{0}", "%s{x}{{y}}",
]  # fmt: skip
CURVE = [(n, 1 - math.exp(-n / 30)) for n in range(2, 101, 7)]

PICTURES: dict[str, Callable[[], Picture]] = {
    "a forest plot": lambda: forest_plot(
        [
            ForestRow("forest − linear", 0.0213, 0.0101, 0.0325, "Holm p 0.002"),
            ForestRow("boosting − linear", 0.0051, -0.0042, 0.0144, "Holm p 0.31"),
            ForestRow("boosting − forest", -0.0162, None, -0.006),
        ],
        axis="difference in accuracy",
        margin=0.01,
        interval="95% CI",
    ),
    "ratios": lambda: forest_plot(
        [ForestRow("a", 1.8, 1.1, 3.2), ForestRow("b", 0.8, 0.3, 2.1), ForestRow("c", 12, 2, None)],
        axis="odds ratio", log=True, margin=1.25,
    ),
    "thirty rows of a tiny scale with long names": lambda: forest_plot(
        [ForestRow(f"component {n}: {'long name ' * 8}", DRAWN.gauss(0, 1e-9), -2e-9, 2e-9, "n.s.") for n in range(30)],
        axis="difference in loss",
    ),
    "far from zero": lambda: forest_plot([ForestRow("a", 1e9, 1e9 - 1e-3, 1e9 + 1e-3)], axis="x", reference=None),
    "the largest numbers": lambda: forest_plot([ForestRow("a", 1e308, -1.7e308, 1.7e308)], axis="x"),
    "a strip plot": lambda: strip_plot(
        {"linear": normal(0.94, 0.01, 10), "forest": normal(0.965, 0.008, 10)},
        measure="accuracy",
        means={"linear": (0.94, 0.933, 0.947), "forest": (0.965, 0.959, None)},
        interval="95% CI",
    ),
    "many values, few different ones, one, and none": lambda: strip_plot(
        {
            "control": normal(10, 2, 3000),
            "correct": [float(DRAWN.random() < 0.8) for _ in range(500)],
            "one": [3.0],
            "same": [4.0] * 60,
            "none": [],
        },
        measure="seconds " * 30,
        means={"control": (10, 9.9, 10.1)},
    ),
    "twenty groups": lambda: strip_plot({f"arm {n}": normal(n / 5, 1, 30) for n in range(20)}, measure="score"),
    "paired lines": lambda: paired_lines(
        "linear",
        "forest",
        [(a, a + DRAWN.gauss(0.02, 0.02)) for a in normal(0.94, 0.01, 10)],
        measure="accuracy",
        names=[f"fold {n}" for n in range(10)],
        difference=(0.021, 0.01, 0.032),
        interval="95% CI",
    ),
    "a thousand pairs": lambda: paired_lines(
        "first " * 20, "second " * 20, [(a, a + DRAWN.gauss(0, 1)) for a in normal(-5, 1, 1000)], measure="loss"
    ),
    "one pair, constant": lambda: paired_lines("old", "new", [(1e9, 1e9)], measure="grade"),
    "a critical-difference diagram": lambda: critical_difference(
        {"forest": 1.4, "boosting": 1.8, "linear": 3.1, "nearest neighbours": 3.7},
        critical_difference=1.2,
        cliques=[["forest", "boosting"], ["linear", "nearest neighbours"]],
        blocks=14,
    ),
    "thirty methods": lambda: critical_difference(
        {f"method number {n} with a long name": 1 + 0.99 * n for n in range(30)},
        critical_difference=5.5,
        cliques=[[f"method number {m} with a long name" for m in range(n, n + 5)] for n in range(0, 25, 2)],
        blocks=50,
    ),
    "two methods of one rank": lambda: critical_difference(
        {"a": 1.5, "b": 1.5}, critical_difference=None, cliques=[["a", "b"]], blocks=4
    ),
    "power": lambda: power_curve({"d = 0.2": CURVE, "d = 0.5": CURVE[:5]}, target=0.8, planned=20),
    "ten curves": lambda: power_curve({f"effect of size {n} {'and more ' * 9}": CURVE for n in range(10)}, planned=60),
    "one point of power": lambda: power_curve({"only": [(10, 0.5)]}, target=None),
    "runs on one axis": lambda: run_chart(
        {
            "accuracy": [(day, 0.94 + DRAWN.gauss(0, 0.004)) for day in DAYS],
            "recall": [(day, None if day == DAYS[4] else 0.92 + DRAWN.gauss(0, 0.006)) for day in DAYS],
        },
        measure="share",
        bounds={"accuracy": 0.93},
        bands={"accuracy": [(0.93, 0.95)] * 20 + [(0.93, None)] * 3 + [None]},
    ),
    "runs in panels": lambda: run_chart(
        {
            "accuracy": [(day, DRAWN.gauss(0.94, 0.004)) for day in DAYS],
            "loss": [(day, DRAWN.gauss(30, 4)) for day in DAYS],
            "tokens": [(day, DRAWN.gauss(1e9, 100)) for day in DAYS],
            "nothing": [(DAYS[0], math.nan)],
        }
    ),
    "one run": lambda: run_chart({"accuracy": [("only run", 0.5)]}),
    "no runs": lambda: run_chart({"accuracy": []}),
    "six series over many runs": lambda: run_chart(
        {f"series {n} {'long ' * 9}": [(f"run {i} {'x' * 40}", n + i % 7) for i in range(300)] for n in range(6)},
        together=True,
    ),
    "a narrow forest plot": lambda: forest_plot(
        [ForestRow("new − old", 0.021, 0.010, 0.032, "p < 0.001"), ForestRow("n " * 99, -0.005, None, 1e-3, "p " * 99)],
        axis="difference " * 9, margin=0.01, interval="95% CI", width=NARROW,
    ),
    "narrow strips": lambda: strip_plot(
        {"linear": normal(0.94, 0.01, 10), "forest " * 20: normal(0.96, 0.01, 300)},
        measure="accuracy " * 20, means={"linear": (0.94, 0.93, None)}, interval="95% CI", width=NARROW,
    ),
    "narrow paired lines": lambda: paired_lines(
        "linear " * 20, "forest " * 20, [(a, a + DRAWN.gauss(0.02, 0.02)) for a in normal(0.94, 0.01, 10)],
        measure="accuracy " * 20, difference=(0.021, 0.01, 0.032), interval="95% CI", width=NARROW,
    ),
    "a narrow critical-difference diagram": lambda: critical_difference(
        {f"method number {n} with a long name": 1 + 0.99 * n for n in range(9)},
        critical_difference=2.5, cliques=[["method number 1 with a long name", "method number 2 with a long name"]],
        blocks=50, width=NARROW,
    ),
    "a heat map with a missing cell": lambda: heat_map(
        {("svm", "0.1"): 0.921, ("svm", "1.0"): 0.975, ("logistic", "0.1"): 0.959, ("logistic", "1.0"): None},
        rows=["svm", "logistic"], columns=["0.1", "1.0"], down="train.model", across="train.C", measure="accuracy",
        marked=[("svm", "1.0")],
    ),
    "a heat map of many levels with long names": lambda: big_heat_map(20, 14, "level of a name " * 9),
    "a narrow heat map of many levels": lambda: big_heat_map(6, 14, "level " * 9, NARROW),
    "a curve": lambda: curve(
        {"": [CurvePoint(x, x / (1 + x), x / (1 + x) - 0.1, x / (1 + x) + 0.1) for x in (0.01, 0.1, 1, 10)]},
        across="train.C", measure="accuracy", interval="95% CI",
    ),
    "five narrow curves": lambda: curve(
        {f"series {n} {'and more ' * 9}": many_points(n, 70) for n in range(5)}, across="x " * 99,
        measure="accuracy " * 20, interval="95% CI", width=NARROW,
    ),
    "narrow power": lambda: power_curve(
        {f"effect of size {n} {'and more ' * 9}": CURVE for n in range(10)}, planned=60, width=NARROW
    ),
}  # fmt: skip


def big_heat_map(rows: int, columns: int, name: str, width: float = WIDE) -> Picture:
    cells = {(f"{r} {name}", f"{c} {name}"): DRAWN.gauss(0, 1e-3) for r in range(rows) for c in range(columns)}
    names = [[f"{n} {name}" for n in range(count)] for count in (rows, columns)]
    return heat_map(cells, rows=names[0], columns=names[1], down=name, across=name, measure=name, width=width)


def many_points(series: int, count: int) -> list[CurvePoint]:
    return [CurvePoint(x, x + series, x + series - 1, None) for x in range(1, count + 1)]


def hostile_pictures(text: str) -> list[Picture]:
    """Every picture with the text in every place that takes one."""
    other = f"{text} 2"
    return [
        forest_plot(
            [ForestRow(text, 1, 0, None, text), ForestRow(other, 1, 0, 2)], axis=text, interval=text, caption=text
        ),
        strip_plot({text: [1, 2, 3], other: []}, measure=text, means={text: (2, 1, 3)}, interval=text, caption=text),
        paired_lines(text, other, [(1, 2), (2, 1)], measure=text, names=[text, other], interval=text, caption=text),
        critical_difference(
            {text: 1, other: 2}, critical_difference=1, cliques=[[text, other]], blocks=3, caption=text
        ),
        power_curve({text: CURVE, other: CURVE}, planned=5, across=text, caption=text),
        run_chart({text: [(text, 1), (text, 2)], other: [(other, 1)]}, measure=text, together=True, caption=text),
        run_chart({text: [(text, 1), (text, 2)], other: [(other, 100)]}, together=False),
        heat_map(
            {(text, text): 1, (other, text): 2}, rows=[text, other], columns=[text, other], down=text, across=text,
            measure=text, marked=[(text, text)], caption=text,
        ),
        curve(
            {text: [CurvePoint(1, 2, 0, 3)], other: [CurvePoint(1, 2)]}, across=text, measure=text, interval=text,
            caption=text,
        ),
    ]  # fmt: skip


@pytest.fixture(scope="module", params=sorted(PICTURES))
def picture(request: pytest.FixtureRequest) -> Picture:
    return PICTURES[request.param]()


ALLOWED = {
    "svg": {"class", "role", "viewBox", "width", "height"},
    "title": set(),
    "desc": set(),
    "style": set(),
    "rect": {"class", "x", "y", "width", "height", "rx"},
    "path": {"class", "d", "stroke-width", "stroke-dasharray", "opacity"},
    "text": {"class", "x", "y", "text-anchor"},
}
CLASSES = {*COLOURS, "crucible-picture", "card", "fill", "line", "dots", "open", "small", "bold", "figures", "halo"}


def checked(picture: Picture) -> ElementTree.Element:
    """The picture as a tree, which holds nothing but what the writer may write."""
    root = ElementTree.fromstring(picture.svg)
    for element in root.iter():
        name = element.tag.removeprefix(SVG)
        assert set(element.attrib) <= ALLOWED[name], (name, element.attrib)
        assert set(element.get("class", "").split()) <= CLASSES
        for attribute in element.attrib.keys() - {"class", "role", "text-anchor"}:
            assert re.fullmatch(r"[-MLHVZh\d. ]+", element.attrib[attribute]), element.attrib[attribute]
    return root


# --- every picture --------------------------------------------------------------------------------------------------


def test_a_picture_is_well_formed_and_holds_only_shapes_and_texts(picture: Picture) -> None:
    root = checked(picture)
    assert root.get("role") == "img"
    assert root[0].tag == f"{SVG}title"
    assert root[1].tag == f"{SVG}desc"
    assert picture.alt == clean(f"{root[0].text}. {root[1].text}", 3000)


def test_a_picture_needs_nothing_from_outside(picture: Picture) -> None:
    body = picture.svg.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)
    assert not re.search(r"(?i)https?:|url\(|@import|href|<script|<image|<use|<foreignObject| id=| on\w+=", body)


def test_a_picture_is_small(picture: Picture) -> None:
    assert len(picture.svg.encode()) < 26_000
    assert len(picture.alt) <= 3000


def test_a_small_picture_takes_a_few_kilobytes() -> None:
    for name in ("a forest plot", "a strip plot", "paired lines", "a critical-difference diagram", "power", "one run"):
        assert len(PICTURES[name]().svg.encode()) < 8_000


def test_the_same_input_gives_the_same_picture() -> None:
    values = normal(0, 1, 40)
    assert strip_plot({"a": values}, measure="x") == strip_plot({"a": values}, measure="x")


def test_nothing_is_drawn_outside_of_the_card(picture: Picture) -> None:
    root = checked(picture)
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for path in root.iter(f"{SVG}path"):
        for x, y in points_of(path):
            assert -0.1 <= x <= width + 0.1
            assert -0.1 <= y <= height + 0.1
    for left, top, right, bottom, text in boxes(root):
        assert left >= 0, text
        assert right <= width, text
        assert top >= 0, text
        assert bottom <= height, text


def test_no_text_lies_on_another(picture: Picture) -> None:
    for (l1, t1, r1, b1, one), (l2, t2, r2, b2, other) in itertools.combinations(boxes(checked(picture)), 2):
        assert r1 <= l2 + 1 or r2 <= l1 + 1 or b1 <= t2 + 1 or b2 <= t1 + 1, (one, other)


def points_of(path: ElementTree.Element) -> list[tuple[float, float]]:
    """The corners of a path."""
    points: list[tuple[float, float]] = []
    x = y = 0.0
    for command, numbers in re.findall(r"([MLHVhZ])([-\d. ]*)", path.get("d", "")):
        values = [float(value) for value in numbers.split()]
        match command:
            case "M" | "L":
                x, y = values
            case "H":
                x = values[0]
            case "V":
                y = values[0]
        if command != "Z":
            points.append((x, y))
    return points


def boxes(root: ElementTree.Element) -> list[tuple[float, float, float, float, str]]:
    """Left, top, right and bottom of each text, as wide as it is in the widest of the usual fonts."""
    found = []
    for text in root.iter(f"{SVG}text"):
        shown = (text.text or "") + "".join(child.tail or "" for child in text)
        classes = text.get("class", "").split()
        size = 11 if "small" in classes else BOLD_SIZE if "bold" in classes else 12
        width = text_width(shown, size)
        x, y = float(text.get("x", "")), float(text.get("y", ""))
        left = x - {"start": 0, "middle": width / 2, "end": width}[text.get("text-anchor", "start")]
        if shown and "halo" not in classes:  # what lies over lines may lie over a label's margin as well
            found.append((left, y - 0.75 * size, left + width, y + 0.2 * size, shown))
    return found


# --- colours --------------------------------------------------------------------------------------------------------


def linear_rgb(colour: str) -> np.ndarray:
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio."""
    dark, light = sorted(float(linear_rgb(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_texts_and_marks_stand_out_from_the_paper_as_wcag_aa_asks(theme: int) -> None:
    paper = COLOURS["paper"][theme]
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for name in ("ink", "soft"):
        assert contrast(COLOURS[name][theme], paper) >= 4.5, name
    for name in SERIES:
        assert contrast(COLOURS[name][theme], paper) >= 3, name


@pytest.mark.parametrize("theme", [0, 1])
def test_numbers_stand_out_from_every_shade_of_a_heat_map(theme: int) -> None:
    paper, shade = (
        [int(COLOURS[name][theme][i : i + 2], 16) for i in (1, 3, 5)] for name in ("paper", "c0")
    )  # fmt: skip
    for opacity in np.linspace(0, DARKEST, 11):
        mixed = [round((1 - opacity) * one + opacity * other) for one, other in zip(paper, shade, strict=True)]
        assert contrast(COLOURS["ink"][theme], "#{:02x}{:02x}{:02x}".format(*mixed)) >= 4.5


# Viénot, Brettel & Mollon 1999, "Digital video colourmaps for checking the legibility of displays by dichromats":
# linear RGB as a person without red or without green cones sees it.
DICHROMATS = {
    "protanopia": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deuteranopia": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
    "everybody else": np.eye(3).tolist(),
}


@pytest.mark.parametrize("theme", [0, 1])
@pytest.mark.parametrize("eyes", sorted(DICHROMATS))
def test_series_are_told_apart_whatever_the_colour_vision(eyes: str, theme: int) -> None:
    seen = [lab(np.array(DICHROMATS[eyes]) @ linear_rgb(COLOURS[name][theme])) for name in SERIES]
    apart = [float(np.linalg.norm(one - other)) for one, other in itertools.combinations(seen, 2)]
    assert min(apart) > 11  # the just noticeable difference is 2.3
    assert len(set(DASHES)) == len(SERIES)


def lab(linear: np.ndarray) -> np.ndarray:
    """CIE L*a*b* under D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(linear, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_style_has_both_themes_and_touches_nothing_but_pictures() -> None:
    style = checked(PICTURES["power"]()).find(f"{SVG}style")
    assert style is not None
    assert style.text is not None
    light, dark = style.text.split("@media (prefers-color-scheme:dark){")
    for name, (on_light, on_dark) in COLOURS.items():
        assert f".{name}{{color:{on_light}}}" in light
        assert f".{name}{{color:{on_dark}}}" in dark
    for selectors in re.findall(r"([^{}]+)\{", light + dark):
        assert all(selector.startswith(".crucible-picture") for selector in selectors.split(",."[:1]))


# --- hostile texts --------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(HOSTILE) | st.text(max_size=30))
@example("x" * 100_000)
def test_no_text_becomes_an_element_or_breaks_the_picture(text: str) -> None:
    for one in hostile_pictures(text):
        checked(one)
        one.svg.encode()
        assert one.svg.isprintable() or all(char.isprintable() or char in "\u200c\u200d" for char in one.svg)
        assert "\n" not in one.alt
        assert len(one.svg) < 20_000


def test_a_text_is_shown_as_it_is_and_a_cut_one_is_whole_in_its_title() -> None:
    root = checked(forest_plot([ForestRow("<b>&amp;", 1, 0, 2), ForestRow("long " * 30, 1, 0, 2)], axis="x"))
    shown = [text.text for text in root.iter(f"{SVG}text")]
    assert "<b>&amp;" in shown
    whole = "long " * 29 + "long"
    texts = [text for text in root.iter(f"{SVG}text") if len(text) and text[0].text == whole]
    assert len(texts) == 1
    assert (texts[0][0].tail or "").endswith("…")


@pytest.fixture(scope="module")
def page() -> Any:
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium, which .ci/run installs")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(color_scheme="dark", viewport={"width": 1000, "height": 800})
        browser.close()


def test_a_browser_runs_and_fetches_nothing_and_every_text_is_within_its_picture(page: Any) -> None:
    blocks = tuple(one for text in HOSTILE for one in hostile_pictures(text)) + tuple(
        make() for make in PICTURES.values()
    )
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: asked.append(dialog.message))
    page.set_content(html_of(Document("All", blocks, ())))
    assert asked == []
    assert page.locator("figure > .wide > svg").count() == len(blocks)
    assert page.locator("script, iframe, image, a, svg svg, foreignObject").count() == 0
    assert (
        page.evaluate(
            "[...document.querySelectorAll('svg *')].some(e => e.getAttributeNames().some(n => n.startsWith('on')))"
        )
        is False
    )
    outside = page.evaluate(
        """[...document.querySelectorAll('svg text')].filter(text => {
            const box = text.getBBox(), card = text.ownerSVGElement.viewBox.baseVal;
            return box.x < 0 || box.y < 0 || box.x + box.width > card.width || box.y + box.height > card.height;
        }).map(text => text.textContent)"""
    )
    assert outside == []
    # The page's dark theme reaches what is drawn.
    assert page.evaluate("getComputedStyle(document.querySelector('svg rect')).fill") == "rgb(20, 23, 29)"


@pytest.mark.slow
@pytest.mark.parametrize("design", ["independent", "paired"])
def test_a_report_fits_a_phone(page: Any, design: Any) -> None:
    groups = {f"{name} of a model with a long name": normal(mean, 0.1, 30) for name, mean in (("a", 0.7), ("b", 0.8))}
    compared = compare(groups, design=design, margin=0.02, measure="accuracy")
    experiment = Experiment.model_validate({"id": "phone", "description": "w " * 90, "pipeline": [{"name": "report"}]})
    ctx = Context.begin(experiment).put_metric("bench", compared.to_dict()).put_artifact("model", "/a/long/path" * 9)
    page.set_viewport_size({"width": 390, "height": 844})
    try:
        page.set_content(render_report(ctx, "html"))
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        outside = """[...document.querySelectorAll('svg, table, p, td')].filter(one => {
            const box = one.getBoundingClientRect();
            return box.width && (box.left < 0 || box.right > 390);
        }).map(one => one.outerHTML.slice(0, 80))"""
        assert page.evaluate(outside) == []
        assert page.locator("svg:visible").count() == page.locator("figure").count() == (3 if design == "paired" else 2)
        # What is drawn for a phone is not a larger drawing made small.
        scales = "[...document.querySelectorAll('.narrow svg')].map(one => one.clientWidth / one.viewBox.baseVal.width)"
        assert all(scale > 0.95 for scale in page.evaluate(scales))
    finally:
        page.set_viewport_size({"width": 1000, "height": 800})


# --- what they show -------------------------------------------------------------------------------------------------


def test_the_alternative_text_of_a_forest_plot_says_the_numbers() -> None:
    said = PICTURES["a forest plot"]().alt
    assert said == (
        "Forest plot of difference in accuracy. forest − linear: 0.0213, 95% CI [0.0101, 0.0325], excludes 0; "
        "boosting − linear: 0.0051, 95% CI [−0.0042, 0.0144], includes 0; "
        "boosting − forest: −0.0162, 95% CI [−∞, −0.0060], excludes 0. Margin from −0.01 to 0.01."
    )


def test_the_other_alternative_texts_say_the_numbers() -> None:
    strip = strip_plot({"a": [1, 2, 3, 4], "b": []}, measure="score", means={"a": (2.5, 0.5, 4.5)}, interval="95% CI")
    assert strip.alt == (
        "Values of score by group. a: 4 values from 1.00 to 4.00, median 2.50, mean 2.50, 95% CI [0.50, 4.50]; "
        "b: no values."
    )
    pairs = paired_lines("old", "new", [(1, 2), (2, 4), (3, 2), (5, 5)], measure="grade")
    for part in ("4 pairs: new is higher in 2, lower in 1, equal in 1", "mean 0.50", "pair 2: 2 to 4"):
        assert part in pairs.alt
    ranks = PICTURES["a critical-difference diagram"]().alt
    for part in ("4 methods over 14 data sets", "forest 1.40", "difference 1.2", "apart: forest, boosting; linear"):
        assert part in ranks
    power = power_curve({"d = 0.5": [(10, 0.2), (30, 0.8)]}, target=0.8, planned=20).alt
    assert "d = 0.5: from 0.20 at 10 to 0.80 at 30, 0.50 at the planned 20, target 0.8 reached by 30" in power
    heat = PICTURES["a heat map with a missing cell"]().alt
    assert heat == (
        "Heat map of accuracy by train.C and train.model. svm: 0.1 0.9210, 1.0 0.9750 (framed); "
        "logistic: 0.1 0.9590, 1.0 no value."
    )
    line = curve({"a": [CurvePoint(1, 2.5, 2, 3), CurvePoint(3, 4.0)]}, across="C", measure="score", interval="CI").alt
    assert line == "score by C. a: 2.50 at 1, CI [2.00, 3.00]; 4.00 at 3."
    runs = run_chart({"loss": [("a", 3.0), ("b", None), ("c", 2.0)]}, bounds={"loss": 2.5}).alt
    assert "3 runs. loss: 2 values from 2.00 to 3.00, latest 2.00, 1 missing, bound 2.5." in runs


def marks(root: ElementTree.Element, classes: str) -> list[tuple[float, float]]:
    """The centres of the shapes of these classes."""
    found = []
    for path in root.iter(f"{SVG}path"):
        if path.get("class") == classes:
            corners = set(points_of(path))
            found.append(tuple(float(np.mean(axis)) for axis in zip(*corners, strict=True)))
    return found


def ticks(root: ElementTree.Element) -> tuple[list[float], list[float]]:
    """Numbers and places of the tick labels of a horizontal axis."""
    texts = [
        t
        for t in root.iter(f"{SVG}text")
        if t.get("class") == "soft small figures" and t.get("text-anchor") == "middle"
    ]
    return [float((t.text or "").replace("−", "-")) for t in texts], [float(t.get("x", "")) for t in texts]


def test_estimates_and_ends_of_a_forest_plot_stand_where_their_numbers_are_on_the_axis() -> None:
    rows = [ForestRow("a", -3.5, -7, -1), ForestRow("b", 2, -1.5, 6), ForestRow("c", 9, 8, 10)]
    root = checked(forest_plot(rows, axis="x"))
    numbers, places = ticks(root)
    assert len(numbers) >= 3
    slope, offset = np.polyfit(numbers, places, 1)
    assert [x for x, _ in marks(root, "fill c0")] == pytest.approx([slope * x + offset for x in (-3.5, 9)], abs=0.2)
    assert [x for x, _ in marks(root, "open c0")] == pytest.approx([slope * 2 + offset], abs=0.2)
    whiskers = [points_of(path) for path in root.iter(f"{SVG}path") if path.get("class") == "line c0"]
    for row, points in zip(rows, whiskers, strict=True):
        assert points[0][0] == pytest.approx(slope * row.low + offset, abs=0.2)
        assert points[1][0] == pytest.approx(slope * row.high + offset, abs=0.2)


def test_a_ratio_stands_by_its_logarithm() -> None:
    root = checked(forest_plot([ForestRow("a", 2, 1.5, 4), ForestRow("b", 0.5, 0.25, 0.7)], axis="ratio", log=True))
    numbers, places = ticks(root)
    slope, offset = np.polyfit(np.log(numbers), places, 1)
    found = [x for x, _ in marks(root, "fill c0")]
    assert found == pytest.approx([slope * math.log(x) + offset for x in (2, 0.5)], abs=0.3)


def test_a_filled_square_means_that_the_interval_excludes_the_reference() -> None:
    def filled(low: float | None, high: float | None, reference: float = 0.0) -> bool:
        root = checked(forest_plot([ForestRow("a", 1, low, high)], axis="x", reference=reference))
        return bool(marks(root, "fill c0"))

    assert filled(0.5, 2)
    assert filled(0.5, None)
    assert not filled(-0.5, 2)
    assert not filled(None, 2)
    assert not filled(None, None)
    assert not filled(0, 2)
    assert filled(0.5, 2, reference=3)


def test_an_open_end_is_an_arrow_at_the_edge_of_the_plot() -> None:
    open_, closed = (
        checked(forest_plot([ForestRow("a", 1, 0.5, high), ForestRow("b", 1, 0, 5)], axis="x")) for high in (None, 5)
    )
    ends = [
        max(x for x, _ in points_of(next(p for p in root.iter(f"{SVG}path") if p.get("class") == "line c0")))
        for root in (open_, closed)
    ]
    assert ends[0] > ends[1]
    infinite = forest_plot([ForestRow("a", 1, 0.5, math.inf), ForestRow("b", 1, 0, 5)], axis="x")
    assert checked(infinite).get("height") == open_.get("height")
    assert "[0.50, ∞]" in infinite.alt


def test_every_value_of_a_small_group_is_a_dot_and_a_large_group_is_a_curve() -> None:
    def dots(n: int) -> int:
        root = checked(strip_plot({"a": [float(x) for x in range(n)]}, measure="x"))
        return sum(len(points_of(path)) // 2 for path in root.iter(f"{SVG}path") if path.get("class") == "dots c0")

    assert dots(7) == 7
    assert dots(150) == 150
    assert dots(151) == 0
    assert "curves: density" not in (strip_plot({"a": [1, 2]}, measure="x").caption or "")
    assert "urves: density" in (strip_plot({"a": list(range(500))}, measure="x").caption or "")


def test_pairs_are_coloured_and_dashed_by_their_direction() -> None:
    root = checked(paired_lines("old", "new", [(1, 2), (2, 1), (3, 3), (1, 3)], measure="x"))
    titled = {
        path[0].text: (path.get("class"), path.get("stroke-dasharray")) for path in root.iter(f"{SVG}path") if len(path)
    }
    assert titled == {
        "pair 1: 1 to 2": ("line c0", None),
        "pair 2: 2 to 1": ("line c1", "6 3"),
        "pair 3: 3 to 3": ("line soft", "2 3"),
        "pair 4: 1 to 3": ("line c0", None),
    }


def test_the_ruler_of_a_critical_difference_is_as_long_as_that_on_the_axis_of_ranks() -> None:
    root = checked(PICTURES["a critical-difference diagram"]())
    numbers, places = ticks(root)
    slope, _ = np.polyfit(numbers, places, 1)
    ruler = next(
        points_of(p) for p in root.iter(f"{SVG}path") if p.get("class") == "line ink" and p.get("stroke-width") == "1.8"
    )
    assert ruler[1][0] - ruler[0][0] == pytest.approx(1.2 * slope, abs=0.2)


def test_the_shade_of_a_cell_rises_with_its_number_and_an_empty_one_is_dashed() -> None:
    names = [str(n) for n in range(11)]
    cells: dict[tuple[str, str], float | None] = {("r", name): float(name) for name in names[:10]}
    root = checked(heat_map(cells, rows=["r"], columns=names, down="", across="", measure="x", marked=[("r", "9")]))
    fills = [path for path in root.iter(f"{SVG}path") if path.get("class") == "fill c0"]
    by_place = sorted((points_of(path)[0][0], float(path.get("opacity", "1"))) for path in fills)
    assert [round(opacity, 2) for _, opacity in by_place] == [round(0.05 * n, 2) for n in range(1, 11)]
    dashed = [path for path in root.iter(f"{SVG}path") if path.get("stroke-dasharray")]
    assert [min(x for x, _ in points_of(path)) > by_place[-1][0] for path in dashed] == [True]
    (frame,) = [path for path in root.iter(f"{SVG}path") if path.get("class") == "line ink"]
    assert min(x for x, _ in points_of(frame)) == by_place[-1][0]
    assert [text.text for text in root.iter(f"{SVG}text") if "bold" in text.get("class", "")] == ["9"]


def test_the_means_of_a_curve_stand_where_their_numbers_are_on_the_axes() -> None:
    one = curve({"a": [CurvePoint(x, x) for x in (0.1, 1, 10, 100)]}, across="x", measure="y", log=None)
    root = checked(one)
    numbers, places = ticks(root)
    centres = marks(root, "fill c0")
    assert numbers == [0.1, 1, 10, 100]
    assert [x for x, _ in centres] == pytest.approx(places, abs=0.2)
    assert [y for _, y in centres] == sorted((y for _, y in centres), reverse=True)


@pytest.mark.parametrize(
    ("values", "geometric"),
    [
        ([0.1, 1, 10], True),
        ([1, 2, 4, 8, 16], True),
        ([50, 100, 200], True),
        ([1, 2, 3, 4, 5], False),
        ([0, 1, 10, 100], False),
        ([-1, 1, 10], False),
        ([50, 200], False),
        ([3, 3, 3], False),
    ],
)
def test_an_axis_is_logarithmic_where_the_values_are_more_evenly_spaced_by_it(
    values: list[float], geometric: bool
) -> None:
    assert is_geometric(values) == geometric


def test_every_clique_is_a_bar_over_its_members() -> None:
    root = checked(PICTURES["a critical-difference diagram"]())
    numbers, places = ticks(root)
    slope, offset = np.polyfit(numbers, places, 1)
    bars = sorted(tuple(x for x, _ in points_of(p)) for p in root.iter(f"{SVG}path") if p.get("class") == "line c0")
    for bar, (low, high) in zip(bars, [(1.4, 1.8), (3.1, 3.7)], strict=True):
        assert bar == pytest.approx((slope * low + offset - 4, slope * high + offset + 4), abs=0.3)


def test_bars_of_cliques_that_overlap_do_not_touch() -> None:
    root = checked(PICTURES["thirty methods"]())
    bars = [points_of(path) for path in root.iter(f"{SVG}path") if path.get("class") == "line c0"]
    assert len(bars) == 13
    for ((l1, y1), (r1, _)), ((l2, y2), (r2, _)) in itertools.combinations(bars, 2):
        assert y1 != y2 or r1 < l2 or r2 < l1


def test_metrics_of_one_size_share_an_axis_and_others_get_panels() -> None:
    def height(second: list[float]) -> float:
        series = {
            "a": [(str(n), x) for n, x in enumerate([0.9, 0.95, 0.97])],
            "b": [(str(n), x) for n, x in enumerate(second)],
        }
        return float(checked(run_chart(series)).get("height", ""))

    together, apart = height([0.91, 0.93, 0.99]), height([30, 40, 35])
    assert together != apart
    assert height([0.95, 0.95, 0.95]) == apart  # on a common axis it could not be told from a line


def test_a_missing_value_is_a_gap_and_runs_stand_by_their_labels() -> None:
    series = {"a": [("1", 1.0), ("2", None), ("3", 3.0), ("4", 2.0)], "b": [("2", 2.0), ("4", 1.0)]}
    root = checked(run_chart(series, together=True))
    lines = [
        points_of(p)
        for p in root.iter(f"{SVG}path")
        if p.get("class") in {"line c0", "line c1"} and p.get("stroke-width") == "1.8"
    ]
    assert [len(line) for line in lines] == [2]  # b has no two neighbouring runs, a has one pair of them
    labels = {
        t.text: float(t.get("x", ""))
        for t in root.iter(f"{SVG}text")
        if t.text in {"1", "2", "3", "4"} and t.get("text-anchor") == "middle"
    }
    assert [x for x, _ in lines[0]] == pytest.approx([labels["3"], labels["4"]], abs=0.2)


def test_what_is_too_much_to_draw_is_said_in_the_picture() -> None:
    cases = [
        (forest_plot([ForestRow(str(n), n, None, None) for n in range(70)], axis="x"), "60 of 70 rows"),
        (strip_plot({str(n): [n] for n in range(50)}, measure="x"), "40 of 50 groups"),
        (PICTURES["a thousand pairs"](), "120 of 1,000 drawn"),
        (PICTURES["six series over many runs"](), "the last 200 of 300 runs"),
        (run_chart({str(n): [("a", n)] for n in range(15)}), "the first 12 of 15 series"),
        (PICTURES["a heat map of many levels with long names"](), "The first 16 of 20 rows."),
        (PICTURES["a heat map of many levels with long names"](), "The first 7 of 14 columns."),
        (PICTURES["five narrow curves"](), "The first 12 of 70 values."),
    ]
    for one, said in cases:
        assert said in one.svg


REFUSED: list[tuple[Callable[[], Picture], str]] = [
    (lambda: forest_plot([], axis="x"), "at least one row"),
    (lambda: forest_plot([ForestRow("a", math.nan, 0, 1)], axis="x"), "'a': the estimate is NaN"),
    (lambda: forest_plot([ForestRow("a", math.inf, 0, 1)], axis="x"), "'a': the estimate is infinite"),
    (lambda: forest_plot([ForestRow("a", 1, math.nan, 1)], axis="x"), "the low end is NaN"),
    (lambda: forest_plot([ForestRow("a", 1, 2, 1)], axis="x"), "the low end 2 is above the high end 1"),
    (lambda: forest_plot([ForestRow("a", -1, None, 1)], axis="x", log=True), "logarithmic"),
    (lambda: forest_plot([ForestRow("a", 1, None, 1)], axis="x", margin=(-1, 2), log=True), "logarithmic"),
    (lambda: forest_plot([ForestRow("a", 1, None, 1)], axis="x", margin=1, reference=None), "needs the reference"),
    (lambda: forest_plot([ForestRow("a", "b", 0, 1)], axis="x"), "is not a number that can be drawn"),  # type: ignore[arg-type]
    (lambda: strip_plot({}, measure="x"), "at least one group"),
    (lambda: strip_plot({"a": [1, math.nan]}, measure="x"), "group 'a': a value is NaN"),
    (lambda: strip_plot({"a": [1]}, measure="x", means={"b": (1, 0, 2)}), "is not one of the groups"),
    (lambda: paired_lines("a", "b", [], measure="x"), "at least one pair"),
    (lambda: paired_lines("a", "b", [(1, math.inf)], measure="x"), "pair 1: the second value is infinite"),
    (lambda: paired_lines("a", "b", [(1, 2)], measure="x", names=[]), "0 names for 1 pairs"),
    (lambda: paired_lines("a", "b", [(-1.7e308, 1.7e308)], measure="x"), "difference is infinite"),
    (lambda: critical_difference({"a": 1}, critical_difference=None, cliques=[], blocks=2), "not 1"),
    (lambda: critical_difference({"a": 1, "b": 3}, critical_difference=None, cliques=[], blocks=2), "from 1 to 2"),
    (lambda: critical_difference({"a": 1, "b": 2}, critical_difference=0, cliques=[], blocks=2), "above 0"),
    (lambda: critical_difference({"a": 1, "b": 2}, critical_difference=1, cliques=[["c"]], blocks=2), "'c'"),
    (lambda: power_curve({}), "not 0"),
    (lambda: power_curve({"a": []}), "no points"),
    (lambda: power_curve({"a": [(1, 1.5)]}), "from 0 to 1"),
    (lambda: power_curve({"a": [(1, 0.5)]}, target=2), "from 0 to 1"),
    (lambda: heat_map({}, rows=[], columns=["a"], down="", across="", measure=""), "at least one row"),
    (lambda: heat_map({}, rows=["a"], columns=["b", "b"], down="", across="", measure=""), "no two columns"),
    (
        lambda: heat_map({("a", "b"): math.nan}, rows=["a"], columns=["b"], down="", across="", measure=""),
        "the cell 'a and b' is NaN",
    ),
    (lambda: curve({}, across="x", measure="y"), "not 0"),
    (lambda: curve({"a": []}, across="x", measure="y"), "with points"),
    (lambda: curve({"a": [CurvePoint(1, 2), CurvePoint(1, 3)]}, across="x", measure="y"), "two points at 1"),
    (lambda: curve({"a": [CurvePoint(1, math.inf)]}, across="x", measure="y"), "series 'a': a mean is infinite"),
    (lambda: curve({"a": [CurvePoint(1, 2, 3, 1)]}, across="x", measure="y"), "the low end 3 is above the high end 1"),
    (lambda: curve({"a": [CurvePoint(0, 2)]}, across="x", measure="y", log=True), "no place for 0"),
    (lambda: run_chart({}), "at least one series"),
    (lambda: run_chart({"a": []}, bounds={"b": 1}), "is not one of the series"),
    (lambda: run_chart({"a": [("1", 1)]}, bands={"a": []}), "0 intervals for 1 values"),
    (lambda: run_chart({"a": [("1", 1)]}, bounds={"a": math.nan}), "bound of 'a' is NaN"),
    (lambda: run_chart({"a": [("1", 1)]}, bands={"a": [(2, 1)]}), "'a': the band: the low end 2 is above"),
    (lambda: strip_plot({"a": [1]}, measure="x", means={"a": (1, 2, 0)}), "the low end 2 is above the high end 0"),
]


@pytest.mark.parametrize(("make", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_what_cannot_be_drawn_is_refused_with_the_reason(make: Callable[[], Picture], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        make()


# --- numbers of any kind ----------------------------------------------------------------------------------------------

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
quick = settings(max_examples=60, deadline=None)


@quick
@given(st.lists(FLOATS, min_size=1, max_size=6), st.booleans())
@example([5e-324], True)
@example([1e9, 1e9 + 1e-6], True)
@example([1.7976931348623151e308, 1.7976931348623157e308], True)
@example([-1.7e308, 1.7e308], False)
@example([0.0, -0.0], False)
def test_an_axis_holds_every_number_and_its_labels_are_true(values: list[float], upright: bool) -> None:
    axis = linear_axis(values, *((300, 20) if upright else (20, 300)))
    places = [axis.at(value) for value in values]
    assert all(19.9 <= place <= 300.1 for place in places)
    order = sorted(range(len(values)), key=lambda index: values[index])
    moved = [places[index] for index in order]
    assert moved == sorted(moved, reverse=upright)
    assert len(set(axis.labels)) == len(axis.labels)
    for tick, label in zip(axis.ticks, axis.labels, strict=True):
        assert axis.base + float(label.replace("−", "-").replace(",", "")) * axis.unit == pytest.approx(tick, rel=1e-6)


@quick
@given(st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=6))
@example([0.5, 2.0])
@example([0.99, 1.01])
def test_a_logarithmic_axis_holds_every_number(values: list[float]) -> None:
    axis = log_axis(values, 20, 300)
    assert all(20 <= axis.at(value) <= 300 for value in values)
    assert all(20 <= axis.at(tick) <= 300 for tick in axis.ticks)
    placed = [(axis.at(tick), text_width(label, 11)) for tick, label in zip(axis.ticks, axis.labels, strict=True)]
    assert all(x + w / 2 < y - v / 2 for (x, w), (y, v) in itertools.pairwise(placed))


@quick
@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=8))
@example([(0.0, 5e-324)])
@example([(1.7976931348623157e308, 0.0)] * 3)
@example([(1.7976931348623151e308, 1.7976931348623153e308)])
@example([(1e9, 1e9 + 1e-6), (1e9, 1e9)])
def test_any_finite_numbers_make_a_picture(pairs: list[tuple[float, float]]) -> None:
    rows = [ForestRow(str(n), a, min(a, b), max(a, b)) for n, (a, b) in enumerate(pairs)]
    drawn = [
        forest_plot(rows, axis="x"),
        strip_plot({"a": [a for a, _ in pairs], "b": [b for _, b in pairs]}, measure="x"),
        run_chart(
            {"a": [(str(n), a) for n, (a, _) in enumerate(pairs)], "b": [(str(n), b) for n, (_, b) in enumerate(pairs)]}
        ),
    ]
    cells = {(str(n), name): value for n, pair in enumerate(pairs) for name, value in zip("ab", pair, strict=True)}
    drawn += [
        heat_map(cells, rows=[str(n) for n in range(len(pairs))], columns=["a", "b"], down="", across="", measure=""),
        curve({"": [CurvePoint(a, b) for a, b in dict(pairs).items()]}, across="x", measure="y"),
    ]
    if all(math.isfinite(b - a) for a, b in pairs):
        drawn.append(paired_lines("a", "b", pairs, measure="x"))
    for one in drawn:
        root = checked(one)
        assert not re.search(r"nan|inf", " ".join(path.get("d", "") for path in root.iter(f"{SVG}path")))
        assert len(one.svg) < 20_000


def test_numbers_that_are_compared_have_the_same_decimals() -> None:
    write = numerals([0.0213, -0.0042, 0.01])
    assert [write(x) for x in (0.0213, -0.0042, 0.01)] == ["0.0213", "−0.0042", "0.0100"]
    assert [numerals([1, 2, 300])(x) for x in (1, 300, 2.5)] == ["1", "300", "2.50"]
    assert numerals([1e-9, 3e-9])(2e-9) == "2.00e−9"
    assert numerals([1e9, 1e9 + 100.5])(1e9 + 50) == "1,000,000,050"
    assert numerals([-1.0, 1.5])(-0.0001) == "0.00"
    # An interval that is short beside the rest keeps two digits of its length.
    assert numerals([0.5, 17.0], lengths=[0.08])(0.764) == "0.764"


@quick
@given(st.lists(st.floats(0, 500), min_size=1, max_size=24))
def test_dots_of_a_swarm_do_not_hide_each_other(places: list[float]) -> None:
    places = sorted(places)
    offsets = swarm(places, 5, 1e9)
    for (x1, y1), (x2, y2) in itertools.combinations(zip(places, offsets, strict=True), 2):
        assert math.hypot(x1 - x2, y1 - y2) >= 5 - 0.01
    assert max(map(abs, swarm(places, 5, 12))) <= 12 + 1e-9


@quick
@given(st.lists(st.floats(-50, 350), min_size=1, max_size=12))
def test_labels_are_spread_in_order_within_bounds(places: list[float]) -> None:
    found = spread(places, 16, 0, 300)
    assert all(-1e-6 <= place <= 300 + 1e-6 for place in found)
    assert all(b - a >= min(16, 300 / max(1, len(found) - 1)) - 1e-6 for a, b in itertools.pairwise(sorted(found)))
    order = sorted(range(len(places)), key=lambda index: places[index])
    assert [found[index] for index in order] == sorted(found)


@quick
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40))
def test_the_box_is_that_of_numpy(values: list[float]) -> None:
    box = box_of(sorted(values))
    assert [box.first, box.median, box.third] == pytest.approx(
        np.quantile(values, [0.25, 0.5, 0.75]), rel=1e-9, abs=1e-9
    )
    reach = 1.5 * (box.third - box.first)
    inside = [x for x in values if box.first - reach - 1e-9 <= x <= box.third + reach + 1e-9]
    # Where no value is between the box and the whisker's end, the whisker ends at the box.
    expected = min(*inside, box.first), max(*inside, box.third)
    assert (box.low, box.high) == pytest.approx(expected, abs=1e-6)


def test_the_density_is_that_of_a_gaussian_kernel_of_silvermans_width() -> None:
    values = np.sort(np.random.default_rng(1).normal(size=2000))
    sd, quarter = values.std(), np.subtract(*np.quantile(values, [0.75, 0.25]))
    width = 0.9 * min(sd, quarter / 1.34) * len(values) ** -0.2
    curve = density(values.tolist())
    expected = np.array([np.exp(-0.5 * ((values - x) / width) ** 2).sum() for x, _ in curve])
    assert np.array([height for _, height in curve]) == pytest.approx(expected / expected.max(), abs=0.02)


@quick
@given(st.text(max_size=60), st.floats(20, 200))
def test_a_cut_text_fits_its_room(text: str, room: float) -> None:
    text = clean(text)
    shown = cut(text, room)
    assert shown == text or (shown.endswith("…") and text.startswith(shown[:-1]))
    assert text_width(shown) <= room + 1e-9


# --- in documents -----------------------------------------------------------------------------------------------------


def document(*pictures: Picture) -> Document:
    return Document("Report", pictures[:1], (Section("More", pictures[1:]),))


def test_html_has_the_drawing_in_a_figure_with_its_caption() -> None:
    one = PICTURES["power"]()
    text = html_of(document(one, one))
    assert text.count("<figure>") == 2
    assert text.count(f"<figcaption>{one.caption}</figcaption>") == 2
    assert "xmlns" not in text
    assert not re.search(r"\sid=", text)


def test_markdown_has_the_drawing_as_a_data_image_with_its_alternative_text() -> None:
    one = forest_plot([ForestRow("a](x) *b* <i> www.evil.example me@evil.example", 1, 0, 2)], axis="d")
    ((alt, encoded),) = re.findall(
        r"!\[((?:[^\]\\]|\\.)*)\]\(data:image/svg\+xml;base64,([^)]*)\)", markdown_of(document(one))
    )
    assert base64.b64decode(encoded).decode() == one.svg
    assert re.sub(r"\\(.)", r"\1", alt) == one.alt
    parser = MarkdownIt("commonmark")
    parser.validateLink = lambda url: True  # type: ignore[method-assign]  # else this one takes no SVG
    inline = next(token for token in parser.parse(markdown_of(document(one))) if "data:" in token.content)
    assert [(child.type, child.content) for child in inline.children or ()] == [("image", alt)]


def test_markdown_of_limited_size_tells_the_other_pictures_in_words() -> None:
    pictures = [PICTURES[name]() for name in ("a forest plot", "thirty methods", "one run")]
    text = markdown_of(document(*pictures), picture_bytes=14_000)
    assert len(text.encode()) < 14_000 + 4_000
    assert text.count("data:image") == 2
    assert "Picture: Critical-difference diagram of 30 methods" in text


def test_latex_tells_the_picture_in_words_where_it_cannot_draw() -> None:
    text = latex_of(document(PICTURES["a forest plot"]()))
    assert "0.0213, 95\\% CI [0.0101, 0.0325]" in text[text.index("\\else\n") :]


def test_tikz_draws_what_the_svg_draws(picture: Picture) -> None:
    root = checked(picture)
    drawn = tikz_of(picture, lambda text: text)
    texts = list(root.iter(f"{SVG}text"))
    nodes = re.findall(r"\\node\[.*\] at \(([\d.]+),([\d.]+)\) \{(.*)\};", drawn)
    assert [(text.get("x"), text.get("y")) for text in texts] == [(x, y) for x, y, _ in nodes]
    assert [text.text for text in texts if not len(text)] == [
        shown for text, (*_, shown) in zip(texts, nodes, strict=True) if not len(text)
    ]
    paths = list(root.iter(f"{SVG}path"))
    commands = re.findall(r"^\\(?:draw|fill)\[(crucible-\w+)", drawn, re.MULTILINE)
    assert len(commands) == len(paths)
    for path, colour in zip(paths, commands, strict=True):
        assert colour.removeprefix("crucible-") in path.get("class", "").split()
    corners = re.findall(r"\((-?[\d.]+),(-?[\d.]+)\)", "\n".join(re.findall(r"^\\draw.*", drawn, re.MULTILINE)))
    lines = [p for p in paths if set(p.get("class", "").split()) & {"line", "open"}]
    assert [(float(x), float(y)) for x, y in corners] == [point for path in lines for point in points_of(path)]


def test_the_pictures_of_the_documentation_are_those_that_its_script_draws() -> None:
    docs = Path(__file__).parent.parent.parent / "docs"
    drawn = runpy.run_path(str(docs / "draw_pictures.py"))["pictures"]()
    said = (docs / "reports.md").read_text()
    for name, one in drawn.items():
        assert (docs / "images" / f"{name}.svg").read_text(encoding="utf-8") == f"{one.svg}\n"
        assert f"(images/{name}.svg)" in said
