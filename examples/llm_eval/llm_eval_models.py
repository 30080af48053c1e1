"""The models that llm_eval_stages.py asks: an OpenAI-compatible server, or a simulated model."""

import asyncio
import json
import random
import re
import time
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from typing import NamedTuple

from pydantic import SecretStr

TRANSIENT = {408, 429, 500, 502, 503, 504}
"""HTTP status codes after which another attempt may succeed."""


class Reply(NamedTuple):
    """A model's answer, with the tokens and the time that it took."""

    text: str
    prompt_tokens: int
    answer_tokens: int
    seconds: float


class NoReplyError(Exception):
    """A request got no answer, and may be sent again."""

    wait = 0.0
    """Seconds that the server asks to wait."""


def ask_server(endpoint: str, key: SecretStr, timeout: float, **body: object) -> Reply:
    """Ask the server. Raises NoReplyError if it may be tried again, RuntimeError if the server refuses the request."""
    address = f"{endpoint.rstrip('/')}/chat/completions"
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)  # noqa: S310  # http or https
    if key:
        # Not sent to the target of a redirect.
        request.add_unredirected_header("Authorization", f"Bearer {key.get_secret_value()}")
    begun = time.perf_counter()
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310
            said = json.load(response)
    except urllib.error.HTTPError as error:
        reason = f"{address}: {error.code} {error.reason}"
        with error, suppress(OSError, HTTPException):  # the connection may break here too
            reason += f": {error.read(500).decode(errors='replace')}"
        if error.code not in TRANSIENT:
            raise RuntimeError(reason) from None
        failure = NoReplyError(reason)
        if (wait := error.headers.get("Retry-After", "")).isdecimal():
            failure.wait = float(wait)
        raise failure from None
    except (OSError, HTTPException) as error:
        raise NoReplyError(f"{address}: {error}") from error
    text = said["choices"][0]["message"]["content"] or ""
    used = said["usage"]
    return Reply(text, used["prompt_tokens"], used["completion_tokens"], time.perf_counter() - begun)


async def make_up(model: str, prompt: str, seed: int) -> Reply:
    """A simulated answer: it depends on the petals, more precisely for the large model and with examples."""
    draw = random.Random(f"{prompt} {seed}")  # noqa: S311  # no secret
    blur = (0.4 if model == "large" else 0.8) / (2 if "Petals" in prompt else 1)
    length = float(re.findall(r"petals ([\d.]+) cm long", prompt)[-1]) + draw.gauss(0, blur)
    species = ["setosa", "versicolor", "virginica"][(length > 2.5) + (length > 4.9)]
    text = draw.choices([species, f"It is Iris {species}.", "I cannot tell."], [70, 28, 2])[0]
    seconds = 0.1 + len(prompt) / 2000 + draw.expovariate(10)
    await asyncio.sleep(seconds / 20)  # shortened, because nobody wants to wait that long
    return Reply(text, len(prompt) // 4, len(text) // 4, seconds)
