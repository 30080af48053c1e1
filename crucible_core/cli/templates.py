"""The folders that `crucible init` makes: an experiment, its stages, and a test.

In each text, `NAME` stands for the experiment's id, and `MODULE` for the module of its stages.
"""

from __future__ import annotations

from typing import Final

__all__ = ["TEMPLATES"]

_SCHEMA: Final = "# yaml-language-server: $schema=experiment.schema.json\n"

_TEST: Final = '''"""The experiment runs, and compares what it should."""

from pathlib import Path

import pytest

from crucible_core import load_experiment, run_experiment


def test_the_experiment_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRUCIBLE_OUTPUT_ROOT", str(tmp_path))  # where reports go
    ctx = run_experiment(load_experiment(Path(__file__).with_name("NAME.yaml")))
    assert set(ctx.metrics["bench"]["groups"]) == {GROUPS}
'''

_MINIMAL_FILE: Final = """id: NAME
description: Does the new coin show heads more often than the old one?

pipeline:
  - name: toss
    module: MODULE:toss
    options: {tosses: 400}
  - name: bench
    options: {groups: [new, old]}
  - name: report

seed: 1
"""

_MINIMAL_STAGES: Final = '''"""The stages of the experiment."""

import random

from crucible_core import Context, stage


@stage
def toss(ctx: Context, *, tosses: int = 200, seed: int = 0) -> Context:
    """Toss both coins, and hand the results to the next stage."""
    draw = random.Random(seed)
    chances = {"new": 0.6, "old": 0.5}
    heads = {coin: [draw.random() < chance for _ in range(tosses)] for coin, chance in chances.items()}
    return ctx.assign(bench_data=heads)
'''

_TRAINING_FILE: Final = """id: NAME
description: Which learning rate gives the most accurate model?

pipeline:
  - name: load
    module: MODULE:load
    options: {examples: 600}
  - name: train
    module: MODULE:train
    options: {epochs: 20}
  - name: bench # compares the arms; their halves share examples, which the test corrects for
    options: {design: resampled, test_share: 1.0}
  - name: report

seed: 1

trials:
  grid: {train.rate: [0.01, 0.1, 1.0]}
  replicates: 8
  measure: accuracy
  baseline: {train.rate: 0.1}
"""

_TRAINING_STAGES: Final = '''"""The stages of the experiment: made-up data, and a regression by gradient descent."""

import numpy as np

from crucible_core import Context, stage


@stage
def load(ctx: Context, *, examples: int = 600) -> Context:
    """Two clouds of points, half of each for training."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, examples)
    points = rng.normal(size=(examples, 5)) + 0.6 * labels[:, None]
    return ctx.assign(points=points, labels=labels)


@stage
def train(ctx: Context, *, rate: float = 0.1, epochs: int = 20, seed: int = 0) -> Context:
    """Train on a half that the seed chooses, and measure the accuracy on the other one."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(ctx.assigns["labels"]))
    points, labels = ctx.assigns["points"][order], ctx.assigns["labels"][order]
    half = len(labels) // 2
    weights, bias = np.zeros(points.shape[1]), 0.0
    for _ in range(epochs):
        for index in rng.permutation(half):
            error = 1 / (1 + np.exp(-(points[index] @ weights + bias))) - labels[index]
            weights -= rate * error * points[index]
            bias -= rate * error
    predicted = points[half:] @ weights + bias > 0
    return ctx.put_metric("accuracy", float(np.mean(predicted == labels[half:])))
'''

_EVAL_FILE: Final = """id: NAME
description: Does the longer prompt give more right answers?

pipeline:
  - name: answer
    module: MODULE:answer
    options:
      samples: 4
      # endpoint: http://localhost:8000/v1   # of an OpenAI-compatible server; without it, answers are made up
      # model: my-model
  - name: bench # the answers to one question are not independent
    options: {data: outputs, group_by: prompt, value: correct, design: clustered, clusters: item, groups: [long, short]}
  - name: report

seed: 1
"""

_EVAL_STAGES: Final = '''"""The stages of the experiment: questions, a model, and whether its answers are right."""

import itertools
import json
import os
import random
import urllib.request

from crucible_core import Context, progress, stage

PROMPTS = {"short": "{question}", "long": "Think step by step, and end with the number alone. {question}"}
ITEMS = [(f"What is {a} times {b}?", a * b) for a in range(12, 17) for b in range(13, 17)]


@stage
def answer(
    ctx: Context, *, samples: int = 4, endpoint: str | None = None, model: str = "fake", seed: int = 0
) -> Context:
    """Ask each question several times with each prompt, and put a row for each answer."""
    rows = []
    asked = list(itertools.product(PROMPTS, range(len(ITEMS)), range(samples)))
    for prompt, number, sample in progress(asked, description="questions"):
        question, right = ITEMS[number]
        text = PROMPTS[prompt].format(question=question)
        if endpoint is None:
            said = made_up(prompt, number, sample, right, seed)
        else:
            said = ask(endpoint, model, text, seed + sample)
        words = said.replace(".", " ").split()
        rows.append({"prompt": prompt, "item": number, "sample": sample, "correct": words[-1:] == [str(right)]})
    return ctx.add_outputs(rows)


def made_up(prompt: str, number: int, sample: int, right: int, seed: int) -> str:
    """What a made-up model says: the longer prompt helps it a little."""
    draw = random.Random(f"{seed} {prompt} {number} {sample}")
    hard = random.Random(number).random()
    return str(right if draw.random() < 0.4 + 0.4 * hard + 0.15 * (prompt == "long") else right + 1)


def ask(endpoint: str, model: str, text: str, seed: int) -> str:
    """The answer of an OpenAI-compatible server; its key is in OPENAI_API_KEY, if it wants one."""
    body = {"model": model, "seed": seed, "messages": [{"role": "user", "content": text}]}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"}
    request = urllib.request.Request(f"{endpoint}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)["choices"][0]["message"]["content"]
'''


def _files(experiment: str, stages: str, groups: str) -> dict[str, str]:
    """Name of the file -> its text."""
    return {
        "NAME.yaml": _SCHEMA + experiment,
        "MODULE.py": stages,
        "test_NAME.py": _TEST.replace("{GROUPS}", f"{{{groups}}}"),
    }


TEMPLATES: Final = {
    "minimal": _files(_MINIMAL_FILE, _MINIMAL_STAGES, '"new", "old"'),
    "training": _files(_TRAINING_FILE, _TRAINING_STAGES, '"rate=0.01", "rate=0.1", "rate=1.0"'),
    "llm-eval": _files(_EVAL_FILE, _EVAL_STAGES, '"long", "short"'),
}
"""Name of the template -> its files."""
