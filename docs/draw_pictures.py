"""Draw the pictures that docs/reports.md shows, of made-up numbers.

python docs/draw_pictures.py
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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

IMAGES = Path(__file__).parent / "images"

LINEAR = [0.931, 0.944, 0.938, 0.951, 0.929, 0.942, 0.947, 0.936, 0.940, 0.945]
FOREST = [0.957, 0.962, 0.949, 0.969, 0.961, 0.966, 0.958, 0.935, 0.971, 0.963]
BOOSTING = [0.941, 0.948, 0.950, 0.944, 0.939, 0.957, 0.943, 0.946, 0.953, 0.938]
NIGHTS = [
    (0.951, 0.921, 31.0), (0.953, 0.925, 30.2), (0.950, 0.918, 33.5), (0.956, 0.930, 29.1), (0.958, 0.929, 28.4),
    (0.955, 0.926, 29.9), (0.961, 0.934, 27.0), (0.944, 0.911, 41.7), (0.959, 0.931, 28.8), (0.962, 0.936, 27.3),
    (0.963, 0.933, 26.1), (0.960, 0.935, 27.7),
]  # fmt: skip
RATES = ["0.01", "0.03", "0.1", "0.3"]
SWEEP = {
    "2": [0.921, 0.934, 0.941, 0.938],
    "4": [0.933, 0.949, 0.957, 0.944],
    "6": [0.938, 0.955, 0.951, 0.931],
    "8": [0.941, 0.950, 0.939, None],
}
POWER = {
    "d = 0.2": (0.06, 0.07, 0.09, 0.12, 0.14, 0.17, 0.20, 0.23, 0.26, 0.29),
    "d = 0.5": (0.11, 0.18, 0.34, 0.47, 0.60, 0.70, 0.78, 0.84, 0.88, 0.92),
    "d = 0.8": (0.20, 0.40, 0.69, 0.86, 0.94, 0.97, 0.99, 1.0, 1.0, 1.0),
}


def pictures() -> Mapping[str, Picture]:
    """Name of the file -> picture."""
    return {
        "forest-plot": forest_plot(
            [
                ForestRow("forest − linear", 0.0188, 0.0107, 0.0269, "p 0.001"),
                ForestRow("boosting − linear", 0.0056, -0.0008, 0.0120, "p 0.078"),
                ForestRow("boosting − forest", -0.0132, -0.0224, -0.0040, "p 0.022"),
            ],
            axis="difference in accuracy",
            margin=0.01,
            interval="95% CI",
        ),
        "strip-plot": strip_plot(
            {"linear": LINEAR, "forest": FOREST, "boosting": BOOSTING},
            measure="accuracy",
            means={
                "linear": (0.9403, 0.9353, 0.9453),
                "forest": (0.9591, 0.9519, 0.9663),
                "boosting": (0.9459, 0.9416, 0.9502),
            },
            interval="95% CI",
        ),
        "paired-lines": paired_lines(
            "linear",
            "forest",
            list(zip(LINEAR, FOREST, strict=True)),
            measure="accuracy",
            names=[f"fold {number}" for number in range(1, 11)],
            difference=(0.0188, 0.0107, 0.0269),
            interval="95% CI",
        ),
        "critical-difference": critical_difference(
            {"forest": 1.9, "boosting": 2.2, "linear": 2.9, "nearest neighbours": 3.7, "naive Bayes": 4.3},
            critical_difference=1.36,
            cliques=[["forest", "boosting", "linear"], ["linear", "nearest neighbours"],
                     ["nearest neighbours", "naive Bayes"]],
            blocks=20,
        ),
        "power-curve": power_curve(
            {
                name: [(n, power) for n, power in zip((5, 10, 20, 30, 40, 50, 60, 70, 80, 90), powers, strict=True)]
                for name, powers in POWER.items()
            },
            planned=30,
        ),
        "heat-map": heat_map(
            {(depth, rate): value for depth, row in SWEEP.items() for rate, value in zip(RATES, row, strict=True)},
            rows=list(SWEEP),
            columns=RATES,
            down="depth",
            across="learning rate",
            measure="accuracy",
            marked=[("4", "0.1"), ("6", "0.03")],
        ),
        "curve": curve(
            {
                name: [CurvePoint(float(r), m, m - 0.006, m + 0.006) for r, m in zip(RATES, row, strict=True) if m]
                for name, row in (("depth 4", SWEEP["4"]), ("depth 8", SWEEP["8"]))
            },
            across="learning rate",
            measure="accuracy",
            interval="95% CI",
        ),
        "run-chart": run_chart(
            {
                name: [(f"2026-11-{day:02}", night[index]) for day, night in enumerate(NIGHTS, 13)]
                for index, name in enumerate(("accuracy", "recall", "seconds"))
            },
            bounds={"accuracy": 0.95},
        ),
    }  # fmt: skip


def main() -> None:
    for name, picture in pictures().items():
        (IMAGES / f"{name}.svg").write_text(f"{picture.svg}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
