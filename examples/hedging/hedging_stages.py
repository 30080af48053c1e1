"""The stage of hedging.yaml: requests to a slow backend, each sent again if its answer is late."""

import asyncio
from collections import deque
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, Field

from crucible_core import Context, Settings, Stage, progress


class Hedging(BaseModel, extra="forbid"):
    """The settings in `reliability.hedging`: when a request is sent again, and how many requests may be."""

    percentile: float = Field(default=0.9, gt=0, lt=1)
    max_hedges: int = Field(default=1, ge=1)
    budget_percent: float = Field(default=15, gt=0, le=100)


async def ask(request: int, attempt: int, seed: int) -> None:
    """The backend: it answers within about 20 ms, except for one request in twelve. Replace it by your client."""
    dice = np.random.default_rng([seed, request, attempt])
    await asyncio.sleep(0.25 if dice.random() < 1 / 12 else 0.005 + dice.exponential(0.005))


class Send(Stage):
    """Sends requests, some at a time, and measures how long each waits for its answer."""

    settings: ClassVar = Settings("reliability.hedging", Hedging)
    hedge: bool = True
    """Whether to send a request again if it has waited longer than a percentile of the latencies so far."""
    requests: int = Field(default=240, ge=1)
    """The number of requests."""
    concurrency: int = Field(default=20, ge=1)
    """How many requests wait for an answer at the same time."""
    seed: int = Field(default=0, ge=0)
    """The backend's seed: with the same seed, the first attempt at a request takes the same time."""

    async def run(self, ctx: Context) -> Context:
        said, clock = self.settings.of(ctx.experiment), asyncio.get_running_loop().time
        turn, latencies = asyncio.Semaphore(self.concurrency), deque[float](maxlen=100)
        spare = int(said.budget_percent / 100 * self.requests) if self.hedge else 0

        async def send(request: int) -> dict[str, Any]:
            nonlocal spare
            async with turn:
                begun, attempts = clock(), list[asyncio.Task[None]]()
                late = float(np.quantile(latencies, said.percentile)) if len(latencies) >= 10 else None
                while True:
                    attempts.append(asyncio.create_task(ask(request, len(attempts), self.seed)))
                    done, _ = await asyncio.wait(attempts, timeout=late, return_when=asyncio.FIRST_COMPLETED)
                    if done or spare == 0 or len(attempts) > said.max_hedges:
                        break
                    spare -= 1
                done, others = await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
                for task in others:
                    task.cancel()
                done.pop().result()  # raises what the backend raised
                waited = clock() - begun
                latencies.append(waited)
            bar.advance()
            return {"arm": ctx.stage, "request": request, "ms": 1000 * waited, "sent": len(attempts)}

        with progress(total=self.requests, description=ctx.stage) as bar:
            outputs = await asyncio.gather(*map(send, range(self.requests)))
        sent = sum(output["sent"] for output in outputs)
        return ctx.add_outputs(outputs).put_metric(f"{ctx.stage}_sent_per_request", sent / self.requests)
