"""The stage `load_inspect`: logs of Inspect, `.eval` and `.json`, read without Inspect."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from crucible_adapters.logs.limited_files import Archive, parse, read_all
from crucible_adapters.logs.records import Answer, LoadLogs, Log, LogError, cluster_in, digest_of, the_one

__all__ = ["LoadInspect"]

WORDS = {"c": 1.0, "p": 0.5, "i": 0.0, "n": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
"""Word -> number, as in Inspect's own metrics; c, p, i, n: correct, partly correct, incorrect, no answer."""
HEADERS = ("header.json", "_journal/start.json")
"""The archive entries that describe the evaluation: in a complete log, and in one that is not complete yet."""


class LoadInspect(LoadLogs):
    """Loads logs of Inspect (`.eval` or `.json`) as outputs, one for each answer to a sample.

    An output has `group`, `task`, `model`, `item` (the sample's id), `epoch`, `cluster`, `score`, `answer` and
    `target`. A sample that failed or was invalidated has the score None. `metrics["logs"]` has what each group holds.
    """

    scorer: str | None = None
    """The scorer whose scores are read (default: the only one)."""
    part: str | None = None
    """The name of the value to read, if the scorer gives several."""
    incomplete: bool = False
    """Also read the part that exists of an evaluation that was cancelled, failed or is still running."""

    def read(self, path: Path) -> Iterator[Log]:
        files = sorted(one for one in path.iterdir() if one.suffix in (".eval", ".json")) if path.is_dir() else [path]
        if not files:
            raise LogError(f"the folder {path} has no .eval and no .json file")
        for file in files:
            if file.suffix == ".eval":
                yield self._packed(file)
            else:
                held = parse(read_all(file, self.max_megabytes), str(file))
                yield self._log(file, held, _listed(held, file))

    def _packed(self, path: Path) -> Log:
        try:
            with path.open("rb") as file:
                archive = Archive(path, file, self.max_megabytes)
                names = archive.names
                header = next((name for name in HEADERS if name in names), None)
                if header is None:
                    raise LogError(f"{path} is not a log of Inspect: it has no {HEADERS[0]}")
                samples = (archive.read(name) for name in names if name.startswith("samples/"))
                return self._log(path, {"status": "started", **archive.read(header)}, samples)
        except OSError as error:
            raise LogError(f"{path} cannot be read: {error.strerror or error}") from error

    def _log(self, path: Path, held: Mapping[str, Any], samples: Iterable[Any]) -> Log:
        about = held.get("eval")
        if not isinstance(about, Mapping) or not isinstance(about.get("task"), str):
            raise LogError(f"{path} is not a log of Inspect: it has no `eval` with a `task`")
        if held.get("status") != "success" and not self.incomplete:
            raise LogError(
                f"{path} is of an evaluation whose status is {held.get('status')!r}; set `incomplete: true` to "
                "read the part that exists"
            )
        answers: dict[tuple[str, int], Answer] = {}
        for index, sample in enumerate(samples):
            one = self._answer(sample, f"{path}: sample {index}")
            if answers.setdefault((one.item, one.epoch), one) is not one:
                raise LogError(f"{path} has two samples {one.item!r} of epoch {one.epoch}")
        model = about.get("model")
        return Log(path, about["task"], model if isinstance(model, str) else None, tuple(answers.values()))

    def _answer(self, sample: Any, where: str) -> Answer:
        if not isinstance(sample, Mapping):
            raise LogError(f"{where} is not a JSON object; it is {sample!r:.80}")
        name, epoch = sample.get("id"), sample.get("epoch", 1)
        if not isinstance(name, str | int) or not isinstance(epoch, int):
            raise LogError(f"{where} has no `id`, or no number as its `epoch`")
        where = f"{where} ({name!r:.80})"
        scored = None
        if not sample.get("error") and not sample.get("invalidation"):
            scored = self._scored(sample.get("scores"), where)
        said = scored.get("answer") if scored else None
        target = sample.get("target")
        return Answer(
            item=str(name),
            epoch=epoch,
            score=None if scored is None else self._number(scored.get("value"), where),
            answer=said if isinstance(said, str) else None,
            target=target if isinstance(target, str) else None,
            cluster=cluster_in(sample.get("metadata") or {}, self.cluster, where),
            content=digest_of(_content(sample.get("input")), sample.get("choices"), target),
        )

    def _scored(self, scores: Any, where: str) -> Mapping[str, Any] | None:
        if not scores:
            return None  # it was stopped before it was scored
        if not isinstance(scores, Mapping):
            raise LogError(f"{where}: `scores` is not a JSON object; it is {scores!r:.80}")
        scored = scores[the_one("scorer", self.scorer, list(scores), where)]
        if not isinstance(scored, Mapping) or "value" not in scored:
            raise LogError(f"{where} has a score without a value: {scored!r:.80}")
        return scored

    def _number(self, value: Any, where: str) -> float | None:
        if isinstance(value, Mapping):
            value = value[the_one("part", self.part, list(value), where)]
        elif self.part is not None:
            raise LogError(f"{where} has one value, so there is no part {self.part!r}")
        if isinstance(value, str):
            word = value.strip().lower()
            if word in WORDS:
                return WORDS[word]
            try:
                value = float(word)
            except ValueError:
                raise LogError(f"{where} has a score that is not a number: {value!r:.80}") from None
        if value is None:
            return None
        if not isinstance(value, int | float):
            raise LogError(f"{where} has a score that is not a number: {value!r:.80}")
        try:
            number = float(value)
        except OverflowError:
            raise LogError(f"{where} has a score that is too large: {value!r:.80}") from None
        return None if math.isnan(number) else number


def _listed(held: Mapping[str, Any], path: Path) -> list[Any]:
    samples = held.get("samples") or []
    if not isinstance(samples, list):
        raise LogError(f"{path}: `samples` is not a list; it is {samples!r:.80}")
    return samples


def _content(asked: Any) -> Any:
    """The question without the ids of its messages, which are different in each evaluation."""
    if not isinstance(asked, list):
        return asked
    return [{key: one[key] for key in one if key != "id"} if isinstance(one, Mapping) else one for one in asked]
