"""The pictures of the report: what they show, that they say it in words, and that no text gets out of its place."""

from __future__ import annotations

from crucible_core.pictures import ForestRow, forest_plot


def test_the_alternative_text_says_the_numbers() -> None:
    picture = forest_plot([ForestRow("new − old", 0.021, 0.01, 0.032)], axis="difference", interval="95% CI")
    assert picture.alt == "Forest plot of difference. new − old: 0.0210, 95% CI [0.0100, 0.0320], excludes 0."
