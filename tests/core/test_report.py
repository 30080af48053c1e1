"""Reports: what they say, and that no text gets out of its place in any format."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from stages_for_tests import experiment_of, registry

from crucible_bench.numbers import format_interval, format_number, format_p
from crucible_bench.plots import ForestRow, forest_plot
from crucible_core import Context, CrucibleError, StageFailedError, run_experiment
from crucible_core.metrics import comparisons
from crucible_core.report import flatten, headline, render_report, summarize_run
from crucible_core.report.document import Document, Items, Paragraph, Table
from crucible_core.report.latex import latex_of
from crucible_core.report.output_files import path_problem, write_atomically
from crucible_core.values.formatting import format_duration, format_value
from crucible_core.values.jsonable import visible_text
from crucible_core.values.series import Series

FORMATS = ["csv", "html", "json", "latex", "markdown"]
CONTROL = [0.71, 0.74, 0.69, 0.73, 0.72, 0.75, 0.70, 0.74]
TREATMENT = [0.75, 0.79, 0.74, 0.77, 0.78, 0.80, 0.73, 0.79]


def compared(stats: dict[str, Any] | None = None, **groups: list[float]) -> Context:
    experiment = experiment_of("bench", id="digits", reliability={"stats": stats})
    groups = groups or {"forest": TREATMENT, "linear": CONTROL}
    return run_experiment(experiment, assigns={"bench_data": groups}, run_id="run-1")


def reported(**metrics: Any) -> Context:
    return Context.begin(experiment_of("report"), run_id="run-1").merge_metrics(metrics)


# --- what they say --------------------------------------------------------------------------------------------------


def test_the_answer_is_one_short_line_and_the_next_says_how_it_was_found() -> None:
    ctx = compared()
    assert headline(ctx) == "forest is higher than linear by 0.05, 95% CI 0.02 to 0.07."
    assert comparisons(ctx)["bench"].method == (
        "Welch's t-test, two-sided: t(13.5) = 3.91, p = 0.002, Hedges' g_av = 1.84 [0.71, 3.15], n = 8 per group."
    )
    swapped = headline(compared(forest=CONTROL, linear=TREATMENT))
    assert swapped == "forest is lower than linear by 0.05, 95% CI 0.02 to 0.07."


def test_groups_that_cannot_be_told_apart_are_not_called_equal() -> None:
    sentence = headline(compared(a=[1, 2, 3, 4], b=[1.1, 2.2, 2.9, 3.9, 2.5]))
    assert sentence.startswith("a and b could not be told apart: difference of means (a - b) 0.0, 95% CI −2.0 to 1.9.")


def test_more_than_two_groups_differ_or_could_not_be_told_apart() -> None:
    assert headline(compared(a=CONTROL, b=TREATMENT, c=CONTROL)).startswith("The 3 groups differ: ω² = ")


def test_the_first_test_asked_for_makes_the_headline_and_not_the_best_p() -> None:
    ctx = compared({"tests": ["mann_whitney", "ttest"]})
    assert "Hodges" not in headline(compared({"tests": ["ttest", "mann_whitney"]}))
    assert "Mann-Whitney" in comparisons(ctx)["bench"].method
    assert "(holm-adjusted)" in comparisons(ctx)["bench"].method


@pytest.mark.parametrize(
    ("alpha", "level"), [(0.05, "95%"), (0.001, "99.9%"), (0.005, "99.5%"), (0.1, "90%"), (0.32, "68%")]
)
def test_a_confidence_level_is_never_rounded_to_another(alpha: float, level: str) -> None:
    ctx = compared({"alpha": alpha})
    assert f" {level} CI " in headline(ctx)
    assert f"\\[{level} CI\\]" in render_report(ctx, "markdown")


def test_without_a_comparison_the_first_numbers_are_the_headline() -> None:
    assert headline(reported(accuracy=0.91234, n=1200)) == "accuracy = 0.9123, n = 1,200."
    assert headline(reported(a=1, b={"c": 2}, d=3, e=4, f="x")) == "a = 1, b.c = 2, d = 3 and 1 more metrics."
    curve = Series([(0, 1.5), (1, 0.5)])
    assert headline(reported(loss=curve, accuracy=0.9)) == "accuracy = 0.9, loss.last = 0.5."
    assert headline(reported(name="x")) == "0 of 1 stages succeeded; no metrics."


def test_a_failure_is_the_headline() -> None:
    with pytest.raises(StageFailedError) as caught:
        run_experiment(experiment_of("measure", "fail"), registry=registry())
    assert headline(caught.value.context) == "Failed at stage fail: stages_for_tests.Broken: the loss is NaN"
    assert summarize_run(caught.value.context)["status"] == "failed"
    assert summarize_run(caught.value.context)["failure"]["stage"] == "fail"


@pytest.mark.parametrize("report_format", FORMATS)
def test_every_format_shows_the_metrics(report_format: Any) -> None:
    text = render_report(reported(accuracy=0.5, nested={"recall": 0.25}), report_format)
    for part in ("accuracy", "0.5", "recall", "0.25"):
        assert part in text


@pytest.mark.parametrize("report_format", ["html", "json", "latex", "markdown"])
def test_every_document_tells_what_ran_and_what_was_decided_and_why(report_format: Any) -> None:
    off = {"name": "off", "module": "fail", "enabled": False}
    retried = {"name": "fail_until", "options": {"counter": "n", "succeed_at": 2}, "retry": {"max_retries": 1}}
    ctx = run_experiment(experiment_of("choose", off, retried, description="Why not?"), registry=registry())
    text = render_report(ctx, report_format).replace("\\_", "_").replace("\\", "")
    for part in (
        "choose",
        "use the small model",
        "reason 0",
        "use the large model",
        "off",
        "skipped",
        "attempt 1",
        "Why not?",
    ):
        assert part in text


def test_the_json_report_holds_everything() -> None:
    ctx = compared().add_outputs({"n": n} for n in range(500))
    data = json.loads(render_report(ctx, "json"))
    assert data["experiment"]["id"] == "digits"
    assert data["run_id"] == "run-1"
    assert data["status"] == "succeeded"
    assert data["failure"] is None
    assert data["headline"] == headline(ctx)
    assert len(data["outputs"]) == 500
    assert data["metrics"]["bench"]["tests"]["ttest"]["n"] == [8, 8]
    assert data["stages"] == {"bench": "succeeded"}
    assert data["decisions"]
    assert data["trace"][0]["kind"] == "stage_started"


def test_the_report_of_a_run_whose_last_stage_is_the_report_does_not_say_that_it_runs_for_ever() -> None:
    outputs = [{"name": "r", "formats": ["json"], "options": {"path": "r"}}]
    run_experiment(experiment_of("measure", "report", outputs=outputs), registry=registry())
    assert json.loads(Path("reports/r.json").read_text())["status"] != "running"


def test_many_outputs_are_counted_and_not_all_shown() -> None:
    ctx = reported().add_outputs({"n": n} for n in range(5000))
    for report_format in ("markdown", "html"):
        text = render_report(ctx, report_format)
        assert re.search(r"and 4,9\d\d more", text)
        assert len(text) < 20_000


def test_a_wide_output_says_that_columns_were_left_out() -> None:
    ctx = reported().add_output({f"column{number}": number for number in range(30)})
    text = render_report(ctx, "markdown")
    assert "column29" in text or "more" in text


def test_outputs_with_keys_that_are_no_texts_are_shown() -> None:
    text = render_report(reported().add_output({1: "first value", None: "second value"}), "markdown")
    assert "first value" in text
    assert "second value" in text


def test_outputs_of_any_kind_are_shown() -> None:
    text = render_report(reported().add_outputs(["text", 5, {"a": 1}, None, np.arange(3)]), "markdown")
    assert "text" in text


def test_a_metric_with_nothing_in_it_is_still_named() -> None:
    assert "losses" in render_report(reported(losses={}), "markdown")


def test_many_metrics_are_cut_and_it_says_so() -> None:
    text = render_report(reported(**{f"m{n}": n for n in range(300)}), "markdown")
    assert "The first 200 of 300; the JSON report has them all." in text


# --- metrics that make trouble ----------------------------------------------------------------------------------------


def looping() -> dict[str, Any]:
    loop: dict[str, Any] = {"x": 1}
    loop["me"] = loop
    return loop


def deep() -> dict[str, Any]:
    made: dict[str, Any] = {"end": 1}
    for _ in range(3_000):
        made = {"deeper": made}
    return made


class Rude:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


TROUBLE: dict[str, Any] = {
    "looks like a bench": {"alpha": 0.1, "groups": 3, "tests": 5},
    "nearly a bench": {"alpha": 0.1, "groups": {"a": {"n": 1}}, "tests": {"ttest": {"p_value": 0.1}}},
    "an empty bench": {"alpha": 0.1, "groups": {}, "tests": {}},
    "contains itself": looping(),
    "deep": deep(),
    "huge numbers": [1e308] * 4,
    "huge integer": 10**400,
    "many digits": 10**5000,
    "huge integers": [10**400, 1],
    "strange keys": {1: "a", None: "b", ("x",): "c"},
    "nan": math.nan,
    "infinities": [math.inf, -math.inf],
    "surrogate": "\ud800",
    "nul": "\x00",
    "escape": "\x1b[2J\x1b]0;title\x07",
    "rude": Rude(),
    "rude list": [Rude()],
    "bool list": [True, False],
    "array": np.zeros((3, 3)),
    "object": object(),
    "tiny": 5e-324,
    "float32": np.float32(0.1),
    "type": {"type": "x", "length": 3},
    "long": "x" * 100_000,
    "empty": "",
    "newlines": "a\n\n\n# b\n\n- c",
}  # fmt: skip


@pytest.mark.parametrize("report_format", FORMATS)
@pytest.mark.parametrize("name", sorted(TROUBLE))
def test_no_metric_or_output_breaks_a_report(name: str, report_format: Any) -> None:
    ctx = reported(before=1, **{name: TROUBLE[name]}).add_output(TROUBLE[name]).add_output({"o": TROUBLE[name]})
    ctx = ctx.put_artifact("a", TROUBLE[name])
    text = render_report(ctx, report_format)
    text.encode()
    assert "before" in text
    assert "\x00" not in text


@pytest.mark.parametrize("name", sorted(TROUBLE))
def test_no_metric_breaks_the_headline_or_the_summary(name: str) -> None:
    ctx = reported(**{name: TROUBLE[name]})
    headline(ctx).encode()
    json.dumps(summarize_run(ctx), allow_nan=False)


def test_nested_mappings_are_opened() -> None:
    assert list(flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": 3})) == [("a.b", 1), ("a.c.d", [2]), ("e", 3)]


# --- hostile texts --------------------------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</td></table><h1>", '"><svg onload=alert(1)>',
    "' onclick='x",
    "</title><script>", "</style><script>", "<!-- ", "-->", "]]>", "&lt;script&gt;", "&#60;b&#62;",
    "javascript:alert(1)",
    "[click](javascript:alert(1))", "![x](https://evil.example/x.png)", "[a]: https://evil.example", "<https://evil.example>",
    "https://evil.example", "_https://evil.example", "9https://evil.example", "(www.evil.example)", "HTTP://EVIL.EXAMPLE",
    "evil@evil.example", "mailto:evil@evil.example", "ftp://evil.example",
    "`code`", "```\ncode", "~~~", "    indented", "**bold**", "_em_", "~~no~~", "# heading", "---", "===", "***",
    "> quote",
    "- item", "+ item", "* item", "1. item", "1) item", "| a | b |", "a | b", "\\", "a\\", "\\|", "\\<b>", "$x$",
    "<b", "a\nb", "a\r\n\r\nb",
    "&copy;", "&", "\u2028<b>", "\x0b<b>", "=1+1", "@SUM(A1)", "+1+cmd|' /C calc'!A0", "-1+cmd|' /C calc'!A0", "\t=1",
    "\r=1",
    "%", "a%b", "\\input{/etc/passwd}", "\\end{tabular}", "^^41", "a & b \\\\", "{}", "}{", "#1", "~", "\\write18{x}",
    "[2em] x", "*x", "[x]",
    "*", "-", "`", "<", "\x00", "\ud800", "\x1b[31m", "\u202egnp.exe", "ﬁ", "ε² − ∞", "😀", "",
]  # fmt: skip


def hostile(text: str) -> Context:
    """A Context that has the text in every place that takes one."""
    safe = text.replace("\x00", "").encode("utf-8", "ignore").decode()  # the experiment file refuses these itself
    entry = {"name": "choose", "options": {"decision": safe or "x"}}
    experiment = experiment_of(
        entry,
        {"name": "fail", "options": {"message": safe}, "retry": {"max_retries": 1}},
        description=safe,
        owner=safe,
        tags=[safe],
        metadata={"k": safe},
        outputs=[{"name": "r", "options": {"title": safe}}],
    )
    with pytest.raises(StageFailedError) as caught:
        run_experiment(experiment, registry=registry())
    ctx = caught.value.context.decide(safe or "x", safe, alternatives=[safe])
    ctx = ctx.merge_metrics({text: text, "nested": {text: [text]}, "k": {text: 1.0}})
    return ctx.add_outputs([{text: text, "x": [text]}]).put_artifact(text, text)


class Elements(HTMLParser):
    """Every element with its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.others: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # A cell has the name of its column, whatever that is, for the list that a wide table becomes on a phone.
        self.elements.append((tag, tuple(one for one in attrs if (tag, one[0]) != ("td", "data-name"))))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    def handle_pi(self, data: str) -> None:
        self.others.append(data)

    unknown_decl = handle_pi


TEMPLATE_ELEMENTS = {
    ("html", (("lang", "en"),)), ("head", ()), ("meta", (("charset", "utf-8"),)),
    ("meta", (("name", "viewport"), ("content", "width=device-width, initial-scale=1"))),
    ("title", ()), ("style", ()), ("body", ()), ("h1", ()), ("h2", ()), ("section", ()), ("p", ()), ("ul", ()), ("li",
    ()),
    ("p", (("class", "strong"),)), ("div", (("class", "scroll"),)), ("table", ()), ("table", (("class", "plain"),)),
    ("table", (("class", "rows"),)),
    ("thead", ()), ("tbody", ()), ("tr", ()), ("th", ()), ("td", ()), ("th", (("class", "right"),)), ("td", (("class",
    "right"),)),
}  # fmt: skip

any_text = (
    st.sampled_from(HOSTILE) | st.text(max_size=12) | st.lists(st.sampled_from(HOSTILE), max_size=3).map(" ".join)
)
some = settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])


@some
@given(any_text, any_text)
@example("<script>", "</title>")
@pytest.mark.fault("S7")
def test_html_holds_no_element_or_attribute_that_the_template_did_not_make(text: str, title: str) -> None:
    parsed = Elements(render_report(hostile(text), "html", title=title or None))
    policies = [attrs for tag, attrs in parsed.elements if dict(attrs).get("http-equiv")]
    assert len(policies) == 1
    assert "default-src 'none'" in dict(policies[0])["content"]
    assert {element for element in parsed.elements if element[1] not in policies} <= TEMPLATE_ELEMENTS
    assert parsed.others == []


@pytest.mark.parametrize("report_format", FORMATS)
def test_no_format_holds_a_control_character(report_format: Any) -> None:
    evil = "".join(map(chr, [*range(1, 32), *range(127, 160), 0x202E, 0x2066]))
    text = render_report(hostile(evil).put_metric(evil, evil), report_format)
    assert "u001b" in text
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


@pytest.mark.parametrize("text", HOSTILE)
def test_html_shows_a_text_as_it_is(text: str) -> None:
    parsed = Elements(render_report(hostile(text), "html"))
    shown = "".join(parsed.text)
    expected = visible_text(text)  # what a browser would obey is shown as an escape
    assert expected in shown or " ".join(expected.split()) in " ".join(shown.split())


@pytest.mark.fault("S7")
def test_html_needs_nothing_from_outside() -> None:
    text = render_report(compared(), "html")
    assert not re.search(r"(?i)(src|href)\s*=|https?:|@import|url\(|<script|<link|<iframe", text)
    assert "width=device-width" in text


PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
ALLOWED_TOKENS = {
    "heading_open", "heading_close", "inline", "paragraph_open", "paragraph_close", "table_open", "table_close",
    "thead_open", "thead_close", "tbody_open", "tbody_close", "tr_open", "tr_close", "th_open", "th_close", "td_open",
    "td_close", "bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close", "text", "strong_open",
    "strong_close", "softbreak", "text_special",
}  # fmt: skip


def tokens(text: str) -> Iterator[Any]:
    for token in PARSER.parse(text):
        yield token
        yield from token.children or ()


@some
@given(any_text, any_text)
@example("https://evil.example", "x")
@example("| a |", "x")
def test_markdown_holds_no_link_image_code_or_live_html(text: str, title: str) -> None:
    rendered = render_report(hostile(text), "markdown", title=title or None)
    for token in tokens(rendered):
        if token.type == "html_inline":
            assert token.content == "<!-- -->"  # breaks what GitHub would make a link of
        else:
            assert token.type in ALLOWED_TOKENS, (token.type, token.content)
    # What GitHub's dialect makes links of, without any brackets.
    assert not re.search(r"(?i)(?<![a-z])(https?|ftp)://", rendered)
    assert not re.search(r"(?i)(?<![a-z])www\.\w", rendered)


@pytest.mark.parametrize("text", ["evil@evil.example", "a.b+c@mail.example.org", "x mailto:evil@evil.example"])
def test_markdown_makes_no_mail_link(text: str) -> None:
    # GitHub's dialect makes a link of every address.
    assert not re.search(r"[\w.+-]@[\w-]+\.\w", render_report(hostile(text), "markdown"))


def shape(rendered: str) -> list[tuple[str, list[int]]]:
    """The headings, and for every table how many bars that are not escaped stand in each of its lines."""
    found: list[tuple[str, list[int]]] = []
    for line in rendered.splitlines():
        if line.startswith("## "):
            found.append((line, []))
        elif line.startswith("|") and found:
            found[-1][1].append(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)))
    return found


@pytest.mark.parametrize("text", [text for text in HOSTILE if text])
def test_markdown_keeps_its_headings_and_tables_whatever_the_texts(text: str) -> None:
    rendered = render_report(hostile(text), "markdown")
    sections = ["Metrics", "Outputs", "Decisions", "What ran", "Artifacts", "Options"]
    assert [heading for heading, _ in shape(rendered)] == [f"## {section}" for section in sections]
    assert all(len(set(bars)) == 1 for _, bars in shape(rendered)), rendered


LATEX_COMMANDS = {
    "section", "subsection", "textbf", "begin", "end", "toprule", "midrule", "bottomrule", "textbackslash",
    "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar", "ensuremath", "infty", "ldots",
    "textsuperscript", "varepsilon", "eta", "omega", "item", "usepackage", "providecommand", "crucibletext",
    "ifdefined", "Umathchar", "else", "fi", "texttt", "symbol", "noindent", "textit",
    "parbox", "linewidth", "raggedright", "strut", "footnotesize", "par", "cruciblefit", "resizebox", "tabcolsep",
}  # fmt: skip
LATEX_LETTERS = {
    "ss", "ae", "AE", "o", "O", "oe", "OE", "l", "L", "i", "u", "r", "H", "v", "c", "pm", "times", "cdot", "le", "ge",
    "ne", "approx", "to", "circ", "alpha", "beta", "gamma", "delta", "zeta", "theta", "iota", "kappa", "lambda", "mu",
    "nu", "xi", "pi", "rho", "sigma", "tau", "upsilon", "varphi", "chi", "psi", "Gamma", "Delta", "Theta", "Lambda",
    "Pi", "Sigma", "Phi", "Psi", "Omega",
}  # fmt: skip


@some
@given(any_text)
def test_latex_holds_no_command_that_the_template_did_not_make(text: str) -> None:
    rendered = render_report(hostile(text), "latex")
    assert set(re.findall(r"\\([a-zA-Z]+)", rendered)) <= LATEX_COMMANDS | LATEX_LETTERS
    body = rendered.split("\\fi}\n", 2)[2]
    assert not re.search(r"(?<!\\)[%$#]", body)
    assert "^^" not in body
    unescaped = re.sub(r"\\[{}]", "", body)
    assert unescaped.count("{") == unescaped.count("}")
    assert body.count("\\begin{") == body.count("\\end{")


@pytest.mark.parametrize("text", ["[2em] x", "[x]", "*x", "*", "[1, 2]"])
def test_a_row_or_item_of_latex_is_not_taken_for_the_argument_of_what_stands_before_it(text: str) -> None:
    # `\\ [2em]`, `\\ *`, `\midrule[x]` and `\item [x]` are commands with arguments, whatever blanks are between.
    rendered = render_report(hostile(text), "latex")
    assert not re.search(r"(\\\\|\\(top|mid|bottom)rule|\\item)\s*[\[*]", rendered)


needs_pdflatex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex, which .ci/run installs")


def pdflatex(folder: Path) -> str:
    """What pdflatex says of whole.tex, which it must be able to set."""
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "whole"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-2000:]
    return said


@pytest.mark.slow
@needs_pdflatex
@pytest.mark.xdist_group("pdflatex")
@pytest.mark.parametrize("packages", ["booktabs", "booktabs,tikz"])
def test_pdflatex_takes_every_text(packages: str, tmp_path: Path) -> None:
    ranges = ["".join(map(chr, range(start, start + 256))) for start in range(0x20, 0x2700, 0x100)]
    texts = [*HOSTILE, "é ő š ç ñ Å ß ğ ą ½", "日本語 😀", "α β 5 ± 2 × 10⁻⁹", "\x01", "--option", *ranges]
    picture = forest_plot([ForestRow(text, 1.0, 0.5, None) for text in HOSTILE if text], axis="日本 & 5%", margin=0.1)
    rows = tuple((text, text) for text in texts)
    blocks = (Items(tuple(texts)), Table(("a", "b"), rows), *map(Paragraph, texts), picture)
    (tmp_path / "fragment.tex").write_text(latex_of(Document(" ".join(HOSTILE), blocks, ())))
    (tmp_path / "report.tex").write_text(render_report(hostile(" ".join(HOSTILE)), "latex"))
    (tmp_path / "whole.tex").write_text(
        f"\\documentclass{{article}}\\usepackage{{{packages}}}\\begin{{document}}"
        "\\input{fragment}\\input{report}\\end{document}"
    )
    pdflatex(tmp_path)
    assert (tmp_path / "whole.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
@needs_pdflatex
@pytest.mark.xdist_group("pdflatex")
def test_the_tables_and_pictures_of_a_report_fit_the_page(tmp_path: Path) -> None:
    report = render_report(compared({"tests": ["ttest", "mann_whitney"]}), "latex")
    (tmp_path / "whole.tex").write_text(
        f"\\documentclass{{article}}\\usepackage{{booktabs,tikz}}\\begin{{document}}{report}\\end{{document}}"
    )
    over = re.findall(r"Overfull \\hbox \(([\d.]+)pt", pdflatex(tmp_path))
    assert [width for width in over if float(width) > 5] == []


def test_a_long_table_of_latex_is_several_each_with_its_head() -> None:
    rows = tuple((str(number), "x") for number in range(100))
    text = latex_of(Document("t", (Table(("number", "word"), rows, frozenset({"number"})),), ()))
    assert text.count("\\begin{tabular}{rl}") == text.count("number & word") == text.count("\\end{tabular}") == 3
    assert all(f"\n{number} & x" in text for number in range(100))


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@some
@given(any_text)
def test_csv_cells_are_no_formulas_and_rows_keep_their_shape(text: str) -> None:
    rows = list(csv.reader(io.StringIO(render_report(hostile(text), "csv"))))
    assert rows[0] == ["experiment", "run", "metric", "value"]
    assert {len(row) for row in rows} == {4}
    for row in rows:
        for cell in row:
            assert not cell.startswith(("=", "@", "\t", "\r"))
            assert not cell.startswith(("+", "-")) or is_number(cell)


def test_numbers_stay_numbers_in_csv() -> None:
    rows = csv.DictReader(io.StringIO(render_report(reported(loss=-0.1234567890123, n=3, name="-x", e=-1e-30), "csv")))
    values = {row["metric"]: row["value"] for row in rows}
    assert (float(values["loss"]), values["n"], float(values["e"])) == (-0.1234567890123, "3", -1e-30)
    assert values["name"] == "'-x"


@some
@given(any_text)
def test_json_says_every_text_exactly(text: str) -> None:
    data = json.loads(render_report(hostile(text), "json"))
    expected = text.replace("\x00", "\\u0000").replace("\ud800", "\\ud800")
    if not any("\ud800" <= character <= "\udfff" for character in expected):
        assert data["metrics"][expected] == expected


# --- places -----------------------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


parts = st.sampled_from(
    ["..", ".", "a", "b.md", "", "~", "...", "%2e%2e", "‥", "／", "CON", "NUL.txt", " ", "a\x00b", "link", "x" * 300,
    "\\", "..\\", "-", "\n", "\ud800"]
) | st.text(max_size=5)  # fmt: skip
paths = (
    st.lists(parts, max_size=5).map("/".join) | st.lists(parts, max_size=4).map(lambda p: "/" + "/".join(p)) | st.text()
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths)
@example("link/new/x")
@example("link")
@example("\ud800")
@example("a/" * 2000 + "x")
@example("x" * 199 + ".md")
@pytest.mark.fault("S3")
def test_no_path_writes_outside_the_root(tmp_path: Path, path: str) -> None:
    outside = tmp_path / "outside"
    root = tmp_path / "reports"
    outside.mkdir(exist_ok=True)
    root.mkdir(exist_ok=True)
    if not (root / "link").is_symlink():
        (root / "link").unlink(missing_ok=True)  # an earlier example wrote over it
        (root / "link").symlink_to(outside)
    before = {one for one in snapshot(tmp_path) if not one.startswith("reports")}
    try:
        written = write_atomically(path, "text")
    except CrucibleError as error:
        str(error)
    else:
        assert written.read_text() == "text"
        assert written.resolve().is_relative_to(root.resolve())
        assert path_problem(path) is None
    assert {one for one in snapshot(tmp_path) if not one.startswith("reports")} == before
    assert not [one for one in snapshot(root) if Path(one).name.startswith(".") and "text" in one]


# --- numbers for people -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.0, "0"), (-0.0, "0"), (1, "1"), (-5, "-5"), (1234567, "1,234,567"), (10**15, "1.000e+15"),
        (10**400, "huge"),
        (0.5, "0.5"), (0.05, "0.05"), (0.123456, "0.1235"), (12.3456, "12.35"), (1234.5678, "1,235"), (99999.0,
        "99,999"),
        (1e-4, "0.0001"), (1.23456e-5, "1.235e−05"), (1e300, "1.000e+300"), (5e-324, "4.941e−324"), (-0.5, "−0.5"),
        (math.nan, "NaN"), (math.inf, "∞"), (-math.inf, "−∞"), (True, "True"), (np.float64(0.25), "0.25"), ("x", "x"),
    ],
)  # fmt: skip
def test_numbers_have_four_digits(value: Any, text: str) -> None:
    assert format_number(value) == text


@given(st.floats() | st.integers())
def test_any_number_is_formatted_in_a_few_characters_and_near_its_value(value: float) -> None:
    text = format_number(value)
    assert 0 < len(text) < 25
    if isinstance(value, float) and abs(value) < 1e308:
        assert float(text.replace(",", "").replace("−", "-")) == pytest.approx(value, rel=1e-3, abs=5e-324)


@pytest.mark.parametrize(
    ("p", "text"), [(0.0, "< 0.001"), (0.0009999, "< 0.001"), (0.001, "= 0.001"), (0.0314, "= 0.031"), (1.0, "= 1.000")]
)
def test_p_values_have_three_digits(p: float, text: str) -> None:
    assert format_p(p) == text


def test_intervals_may_have_no_end() -> None:
    assert format_interval([0.1, 0.25]) == "[0.1, 0.25]"
    assert format_interval([None, 1]) == "[−∞, 1]"
    assert format_interval([0, None]) == "[0, ∞]"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "< 1 ms"),
        (0.0004, "< 1 ms"),
        (0.0123, "12 ms"),
        (1.25, "1.2 s"),
        (59.94, "59.9 s"),
        (61, "1 min 1 s"),
        (3600, "1 h 0 min"),
        (7325, "2 h 2 min"),
    ],
)
def test_durations_are_written_as_people_do(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(0, 1e6))
def test_no_duration_has_sixty_seconds_or_a_thousand_milliseconds(seconds: float) -> None:
    text = format_duration(seconds)
    assert "60.0 s" not in text
    assert "1000 ms" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, 2.5], "[1, 2.5]"),
        (list(range(100)), "100 values from 0 to 99, mean 49.5"),
        ({"a": 1}, '{"a": 1}'),
        (None, "null"),
        ("x" * 300, "x" * 199 + "…"),
        (Path("a/b"), "a/b"),
        ([], "[]"),
        ([True, False, True, True], "[true, false, true, true]"),
    ],
)
def test_any_value_fits_in_one_line(value: Any, text: str) -> None:
    assert format_value(value) == text
