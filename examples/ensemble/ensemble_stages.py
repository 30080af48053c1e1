"""The stages of ensemble.yaml: train some models, ask all of them at once, let them vote."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, Field
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from crucible_core import Context, Settings, Stage, progress, stage

Strategy = Literal["majority", "weighted", "best_confidence"]
PARTS = {"top": np.s_[:, :5], "bottom": np.s_[:, 3:], "left": np.s_[:, :, :5], "right": np.s_[:, :, 3:]}
"""The part that each model sees of the images, which have shape (n, 8, 8)."""


class Ensemble(BaseModel, extra="forbid"):
    """The settings in `reliability.ensemble`: the models with the price of a call, and how they vote."""

    prices: dict[Literal["top", "bottom", "left", "right"], float] = Field(min_length=2)
    strategies: list[Strategy] = Field(min_length=1)


class Answer(NamedTuple):
    """A model's answer: a digit, its confidence from 0 to 1, and the seconds that it took."""

    digit: int
    confidence: float
    seconds: float


@stage
def train(ctx: Context) -> Context:
    """Trains a model for each part of the images of handwritten digits, and finds the best of them."""
    images, labels = load_digits(return_X_y=True)
    few, rest, labels_of_few, labels_of_rest = train_test_split(
        images.reshape(-1, 8, 8) / 16, labels, train_size=800, stratify=labels, random_state=0
    )
    models, accuracies = {}, {}
    for name, part in PARTS.items():
        seen = few[part].reshape(len(few), -1)
        models[name] = LogisticRegression(max_iter=1000).fit(seen[:500], labels_of_few[:500])
        accuracies[name] = models[name].score(seen[500:], labels_of_few[500:])
    best = max(accuracies, key=lambda name: accuracies[name])
    ctx = ctx.decide(f"{best} is the best model", "on images that it was not trained on", alternatives=sorted(models))
    return ctx.assign(models=models, best=best, images=rest, labels=labels_of_rest.tolist())


async def call(name: str, model: Any, image: Any) -> Answer:
    """Asks a model about one image. Replace the thread by your client."""
    begun = time.perf_counter()
    (chances,) = await asyncio.to_thread(model.predict_proba, image[PARTS[name][1:]].reshape(1, -1))
    return Answer(int(chances.argmax()), float(chances.max()), time.perf_counter() - begun)


def vote(answers: Sequence[Answer], strategy: Strategy) -> int:
    """The digit with most votes, or with the highest sum of confidences; in a tie, the more confident one."""
    if strategy == "best_confidence":
        return max(answers, key=lambda answer: answer.confidence).digit
    votes, confidence = Counter(answer.digit for answer in answers), defaultdict[int, float](float)
    for answer in answers:
        confidence[answer.digit] += answer.confidence
    return max(votes, key=lambda digit: (votes[digit] if strategy == "majority" else 0, confidence[digit]))


class Ask(Stage):
    """Asks every model about every image, some at a time, and compares their votes with the best model's answers."""

    settings: ClassVar = Settings("reliability.ensemble", Ensemble)
    concurrency: int = Field(default=4, ge=1)
    """How many images are asked about at a time."""

    async def run(self, ctx: Context) -> Context:
        said, turn = self.settings.of(ctx.experiment), asyncio.Semaphore(self.concurrency)
        models: Mapping[str, Any] = {name: ctx.assigns["models"][name] for name in said.prices}

        async def ask(image: Any) -> dict[str, Answer]:
            async with turn:
                answers = await asyncio.gather(*(call(name, model, image) for name, model in models.items()))
            bar.advance()
            return dict(zip(models, answers, strict=True))

        with progress(total=len(ctx.assigns["images"]), description="images") as bar:
            asked = await asyncio.gather(*map(ask, ctx.assigns["images"]))
        for item, (answers, label) in enumerate(zip(asked, ctx.assigns["labels"], strict=True)):
            arms: dict[str, int] = {one: vote(list(answers.values()), one) for one in said.strategies}
            arms["best_model"] = answers[ctx.assigns["best"]].digit
            ctx = ctx.add_outputs({"arm": arm, "item": item, "right": digit == label} for arm, digit in arms.items())
        seconds = {name: [answers[name].seconds for answers in asked] for name in models}
        latency = {
            name: {"median_ms": 1e3 * np.median(s), "p95_ms": 1e3 * np.quantile(s, 0.95)} for name, s in seconds.items()
        }
        cost = {"best_model": said.prices[ctx.assigns["best"]], "vote": sum(said.prices.values())}
        ctx = ctx.spend("usd", cost["vote"] * len(asked))
        return ctx.merge_metrics({"cost_per_item": cost, "latency": latency})
