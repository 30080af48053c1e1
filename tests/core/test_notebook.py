"""What a notebook shows of a run."""

from __future__ import annotations

from test_report import Elements, compared, reported

from crucible_core.report import report_on


def test_a_notebook_shows_metrics_stages_and_artifacts_in_one_table() -> None:
    shown = compared().put_metric("n", 1234.5).put_artifact("model", "/tmp/model.bin")._repr_html_()
    text = " ".join(Elements(shown).text)
    for part in (
        "digits, run run-1",
        "forest is higher than linear by 0.05",
        "1,234",
        "bench succeeded",
        "/tmp/model.bin",
    ):
        assert part in text
    assert shown.count("<table>") == 1


def test_no_text_of_a_run_becomes_an_element() -> None:
    evil = "<script>alert(1)</script>\x1b"
    shown = reported(**{evil: evil, "nested": {evil: evil}}).put_artifact(evil, evil)._repr_html_()
    assert {tag for tag, _ in Elements(shown).elements} == {"table", "caption", "tbody", "tr", "th", "td"}
    assert "\x1b" not in shown


def test_many_metrics_are_cut_and_it_says_so() -> None:
    assert "<td>…</td><td>70 more</td>" in reported(**{f"m{n}": n for n in range(100)})._repr_html_()


def test_a_notebook_shows_a_report_in_a_frame_of_its_own() -> None:
    evil = "<script>alert(1)</script>"
    shown = report_on(reported(**{evil: evil}))._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert shown.count("<") == 2  # the frame itself: nothing in it can end its attribute
    assert " sandbox " in shown
    assert '"' not in shown[len('<iframe srcdoc="') : shown.index('" sandbox')]
    assert "&amp;lt;script&amp;gt;" in shown
