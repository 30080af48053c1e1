"""The redactor: what counts as a secret, how it may be written, what is left alone, and that it costs little."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from crucible_core import Context, Experiment, ProgressUpdate, Registry, Stage, StageFailedError, run_experiment
from crucible_core.ir.secrets import MASK
from crucible_core.observers import Observer
from crucible_core.progress import progress
from crucible_core.values.jsonable import shown_text
from crucible_core.values.redaction import masked, scrub, secrets_of_environment

CANARY = "canary-4f1e-9b"


@pytest.mark.parametrize(
    "name",
    ["API_TOKEN", "GITHUB_TOKEN", "GHTOKEN", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "DB_PASS",
     "SENTRY_DSN", "MY_SECRET", "secret_of_mine", "APP_CREDENTIALS", "KEY"],
)  # fmt: skip
def test_variables_with_such_names_hold_secrets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, CANARY)
    assert shown_text(f"refused: {CANARY}!") == f"refused: {MASK}!"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PWD", CANARY),  # the working directory
        ("MAX_TOKENS_TYPE", CANARY),
        ("KEYBOARD", CANARY),
        ("MONKEY", CANARY),
        ("SSL_KEY_FILE", CANARY),
        ("AWS_ACCESS_KEY_ID", CANARY),
        ("API_TOKEN", "short-1"),
        ("DAGSTER_PG_PASSWORD", "crucible"),  # a word that any text may hold
        ("HOST_KEY", "/"),
    ],
)
def test_other_variables_do_not(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert shown_text(f"it is {value} here") == f"it is {value} here"


def test_a_secret_is_known_from_when_it_is_set_until_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CANARY in shown_text(CANARY)
    monkeypatch.setenv("X_TOKEN", CANARY)
    assert CANARY not in shown_text(CANARY)
    monkeypatch.setenv("X_TOKEN", f"{CANARY}-2")
    assert shown_text(CANARY) == CANARY
    monkeypatch.delenv("X_TOKEN")
    assert f"{CANARY}-2" not in secrets_of_environment()


def test_the_password_in_a_url_of_the_environment_is_found_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:{quote('p@ss/' + CANARY, safe='')}@db:5432/runs")
    assert shown_text(f"no login with p@ss/{CANARY}") == f"no login with {MASK}"
    assert "db:5432" in shown_text("cannot reach db:5432")


@pytest.mark.parametrize(
    "secret", ["a\nb\"c'd-secret", "ключ-от-дома", "p@ss/w:rd?#%&+ '1", "back\\slash-1", "half \ud800 one"]
)
def test_it_is_found_as_python_json_and_urls_write_it(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = [secret, repr(secret), json.dumps(secret), repr({"token": secret})]
    if not any("\ud800" <= char <= "\udfff" for char in secret):
        written += [quote(secret), quote(secret, safe="")]
    for text in written:
        assert MASK in scrub(f"<{text}>", [secret]), text
        assert scrub(f"<{text}>", [secret]) != f"<{text}>"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"GET https://me:{CANARY}@host/path failed", f"GET https://me:{MASK}@host/path failed"),
        (f"postgresql+psycopg2://me:{CANARY}@h:5432/db?a=1", f"postgresql+psycopg2://me:{MASK}@h:5432/db?a=1"),
        (f"redis://:{CANARY}@h/0", f"redis://:{MASK}@h/0"),
        (f"https://ghp_{CANARY}@github.com/x.git", f"https://{MASK}@github.com/x.git"),
        ("ssh://git@github.com/x.git", "ssh://git@github.com/x.git"),
        (f"https://h/p?page=2&token={CANARY}&x=1", f"https://h/p?page=2&token={MASK}&x=1"),
        (f"https://h/?X-Amz-Signature={CANARY}", f"https://h/?X-Amz-Signature={MASK}"),
        (f"https://h/?sig={CANARY})", f"https://h/?sig={MASK})"),
        ("https://h/?page=1234&monkey=abcd", "https://h/?page=1234&monkey=abcd"),
        (f"host=db user=me password={CANARY} dbname=x", f"host=db user=me password={MASK} dbname=x"),
        (f"Client(api_key='{CANARY}', n=2)", f"Client(api_key='{MASK}', n=2)"),
        (f"{{'Authorization': 'Bearer {CANARY}-abcdef'}}", f"{{'Authorization': 'Bearer {MASK}'}}"),
        ("the bearer of this message", "the bearer of this message"),
        ("a basic characterization of the arms", "a basic characterization of the arms"),
        ("http://localhost:3000/runs/1", "http://localhost:3000/runs/1"),
        ("alpha=0.05, seed=1234, key=abcdef", "alpha=0.05, seed=1234, key=abcdef"),
    ],
)  # fmt: skip
def test_what_a_text_marks_as_a_secret_is_masked_whatever_it_is(text: str, shown: str) -> None:
    assert scrub(text) == shown
    assert scrub(shown) == shown


@given(
    st.text(st.characters(codec="utf-8"), min_size=8, max_size=40),
    st.text(max_size=30),
    st.text(max_size=30),
)
@settings(max_examples=200, deadline=None)
def test_no_secret_is_left_in_any_text(secret: str, before: str, after: str) -> None:
    assert secret not in scrub(f"{before}{secret}{after}", [secret]) or secret in MASK


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_what_was_masked_once_is_as_it_is(text: str) -> None:
    once = scrub(text, ["abcd"])
    assert scrub(once, ["abcd"]) == once


@pytest.mark.parametrize(
    "text", ["a" * 300_000, "://" * 100_000, "://a:" * 60_000, "?a=" * 100_000, "=" * 300_000, "bearer " * 40_000,
             "&" + "token" * 60_000, "password=" * 30_000, "basic " + "a1" * 150_000, "://" + "a" * 300_000]
)  # fmt: skip
def test_no_text_takes_long(text: str) -> None:
    began = time.process_time()
    scrub(text)
    assert time.process_time() - began < 0.5


def test_only_texts_are_looked_at_and_a_value_without_secrets_is_itself() -> None:
    values: list[Any] = [1.5, None, object(), {"a": [1, 2, (3, "x")]}, ["a\x00b"], "a\x00b", ("plain",)]
    for value in values:
        assert masked(value) is value
    told = f"https://h/?token={CANARY}"
    kept = {"deep": [{"url": told}, (told, 1)], "n": 1}
    assert CANARY not in str(masked(kept))
    assert CANARY in str(kept)
    assert masked(kept)["deep"][1] == (f"https://h/?token={MASK}", 1)


# --- what a stage says ------------------------------------------------------------------------------------------------


class Careless(Stage):
    """Puts secrets into everything that it can say."""

    token: SecretStr
    fail: bool = False

    def run(self, ctx: Context) -> Context:
        import os

        said = f"{self.token.get_secret_value()} {os.environ['SERVICE_TOKEN']} https://me:{CANARY}-url@host/?sig={CANARY}-sig"
        ctx = ctx.put_metric("text", said).merge_metrics({"deep": {"list": [said]}, "n": 1})
        ctx = ctx.put_artifact("file", f"https://host/file?X-Amz-Signature={CANARY}-signed")
        ctx = ctx.decide(said, said, alternatives=[said], metadata={"deep": [said]})
        for _ in progress([1], description=f"asks {said}"):
            pass
        if self.fail:
            raise RuntimeError(said)
        return ctx


class Heard(Observer):
    """Keeps all that observers are told."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def on_event(self, event: object) -> None:
        self.said.append(event)

    def on_progress(self, update: ProgressUpdate) -> None:
        self.said.append(update)

    def on_context(self, context: Context) -> None:
        self.said += [*context.metrics.items(), *context.artifacts.items()]


@pytest.mark.parametrize("fail", [False, True])
def test_what_a_stage_says_has_no_secrets(fail: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", f"{CANARY}-environment")
    options = {"token": f"{CANARY}-option", "fail": fail}
    experiment = Experiment.model_validate({"id": "e", "pipeline": [{"name": "careless", "options": options}]})
    heard = Heard()
    run = lambda: run_experiment(experiment, registry=Registry({"careless": Careless}), observers=[heard])  # noqa: E731
    if fail:
        with pytest.raises(StageFailedError) as failed:
            run()
        context = failed.value.context
        assert CANARY not in str(failed.value)
    else:
        context = run()
    assert context.metrics["text"] == f"{MASK} {MASK} https://me:{MASK}@host/?sig={MASK}"
    assert context.metrics["deep"] == {"list": [context.metrics["text"]]}
    assert context.artifacts["file"] == f"https://host/file?X-Amz-Signature={MASK}"
    everything = f"{heard.said} {context.trace} {dict(context.metrics)} {dict(context.artifacts)}"
    assert "asks" in everything
    assert CANARY not in everything
