"""The stages of llm_eval.yaml: choose questions, and ask a model each of them several times with several prompts."""

import asyncio
import os
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import numpy as np
from llm_eval_models import NoReplyError, ask_server, make_up
from pydantic import BaseModel, Field, SecretStr
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

from crucible_core import BudgetExceededError, Context, RetryPolicy, Stage, progress, stage


@stage
def questions(
    ctx: Context,
    *,
    size: Annotated[int, Field(ge=3, le=147, description="How many flowers are described.")] = 120,
    seed: Annotated[int, Field(ge=0, description="The seed of the drawing.")] = 0,
) -> Context:
    """Draws irises of each species in equal shares from scikit-learn's data set, and describes them."""
    iris = load_iris()
    _, chosen = train_test_split(np.arange(150), test_size=size, stratify=iris.target, random_state=seed)
    flower = "An iris has sepals {} cm long and {} cm wide, and petals {} cm long and {} cm wide."
    examples = [
        {"item": row, "flower": flower.format(*iris.data[row]), "species": str(iris.target_names[iris.target[row]])}
        for row in sorted(chosen.tolist())
    ]
    return ctx.assign(examples=examples)


class Arm(BaseModel, extra="forbid", frozen=True):
    """A model with a prompt."""

    prompt: str = Field(pattern=r"\{flower\}")
    """The question; `{flower}` is replaced by the description."""
    model: str = "small"
    """The name of the model on the server."""
    price: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.0, 0.0)
    """US dollars per million tokens of the prompt, and of the answer."""


class Ask(Stage):
    """Asks each question several times in every arm, many at the same time, and puts a row for each answer."""

    arms: dict[str, Arm] = Field(min_length=1)
    """What is compared: prompts, models, or both."""
    samples: int = Field(default=3, ge=1)
    """How often each arm answers a question, each time with another seed."""
    at_once: int = Field(default=16, ge=1)
    """How many questions are asked at the same time."""
    endpoint: str | None = Field(default=None, pattern="^https?://")
    """An OpenAI-compatible server, such as `http://localhost:8000/v1`; without one, answers are made up."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable with the server's API key, if it needs one."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds to wait for the server."""
    max_tokens: int = Field(default=16, ge=1)
    """The maximum length of an answer, in tokens."""
    retry: RetryPolicy = RetryPolicy(max_retries=4, delay=1.0, backoff="exponential", jitter="full", max_delay=30.0)
    """How a question is asked again if there was no answer, or a status such as 429 or 503."""
    keep_every: float = Field(default=1.0, ge=0)
    """Seconds between saving the answers; a kill loses the answers since the last save."""
    seed: int = Field(default=0, ge=0)
    """The seed of the answers."""

    async def run(self, ctx: Context) -> Context:
        examples = {example["item"]: example for example in ctx.assigns["examples"]}
        asked = [(arm, item, sample) for item in examples for arm in self.arms for sample in range(self.samples)]
        rows = {key: row for key, row in ctx.restore("answers", {}).items() if "error" not in row}
        if rows:
            ctx = ctx.decide(f"{len(rows)} of {len(asked)} answers are not asked for", "they were kept before a stop")
            if not ctx.has_metric("spent"):  # unless an earlier attempt in the same run has counted it already
                ctx = _spend(ctx, rows.values())
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self.at_once))
        free = asyncio.Semaphore(self.at_once)

        async def answer(arm: str, item: int, sample: int) -> dict[str, Any]:
            async with free:
                return {"arm": arm, "item": item, "sample": sample, **await self._answer(arm, examples[item], sample)}

        tasks = [asyncio.create_task(answer(*key)) for key in asked if key not in rows]
        kept = time.monotonic()
        try:
            for one in progress(asyncio.as_completed(tasks), total=len(tasks), description="answers"):
                row = await one
                rows[row["arm"], row["item"], row["sample"]] = row
                ctx = _spend(ctx, [row])
                if time.monotonic() - kept >= self.keep_every:
                    ctx, kept = ctx.checkpoint("answers", rows), time.monotonic()
        except BudgetExceededError as error:
            ctx = error.context  # with what the last answer cost
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            ctx = ctx.checkpoint("answers", rows)
        failed = sum("error" in row for row in rows.values())
        return ctx.add_outputs(rows[key] for key in asked).put_metric("failed_share", failed / len(rows))

    async def _answer(self, arm: str, example: dict[str, Any], sample: int) -> dict[str, Any]:
        """The rest of the row: the answer, whether it is right, and what it cost."""
        model, prompt = self.arms[arm].model, self.arms[arm].prompt.replace("{flower}", example["flower"])
        seed = int(np.random.SeedSequence(self.seed, spawn_key=(example["item"], sample)).generate_state(1)[0])
        message = {"role": "user", "content": prompt}
        body = {"model": model, "messages": [message], "max_tokens": self.max_tokens, "seed": seed}
        for attempt in range(1, self.retry.max_retries + 2):
            try:
                if self.endpoint is None:
                    reply = await make_up(model, prompt, seed)
                else:
                    key = SecretStr(os.environ.get(self.key_variable, ""))
                    reply = await asyncio.to_thread(ask_server, self.endpoint, key, self.timeout, **body)
                break
            except NoReplyError as error:
                if attempt > self.retry.max_retries:
                    return {**dict.fromkeys(("answer", "right", "seconds")), "tokens": 0, "usd": 0, "error": str(error)}
                await asyncio.sleep(max(self.retry.delay_after(attempt), error.wait))
        said = re.findall("setosa|versicolor|virginica", reply.text.lower())
        counts = (reply.prompt_tokens, reply.answer_tokens)
        return {
            "answer": said[-1] if said else None,
            "right": said[-1:] == [example["species"]],
            "tokens": sum(counts),
            "usd": sum(price * count for price, count in zip(self.arms[arm].price, counts, strict=True)) / 1e6,
            "seconds": reply.seconds,
        }


def _spend(ctx: Context, rows: Iterable[dict[str, Any]]) -> Context:
    for row in rows:
        ctx = ctx.spend("usd", row["usd"]).spend("tokens", row["tokens"])
    return ctx
