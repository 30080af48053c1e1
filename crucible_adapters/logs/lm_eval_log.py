"""The stage `load_lm_eval`: sample logs of the lm-evaluation-harness, read without it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crucible_adapters.logs.limited_files import parse, read_all, read_lines
from crucible_adapters.logs.records import Answer, LoadLogs, Log, LogError, cluster_in, digest_of, the_one
from crucible_core.values.messages import listing

__all__ = ["LoadLmEval"]

NAME = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d.:-]+)\.jsonl")
"""How `--log_samples` names a file; the file with the results of the same date is beside it."""


class LoadLmEval(LoadLogs):
    """Loads sample logs of the lm-evaluation-harness (`samples_TASK_DATE.jsonl`) as outputs, one for each document.

    An output has `group`, `task`, `model`, `item` (the document's number), `epoch`, `cluster`, `score`, `answer` and
    `target`. The model is read from `results_DATE.json` in the same folder, if there is one. `metrics["logs"]` has what
    each group holds.
    """

    metric: str | None = None
    """The metric whose values are read, such as `acc` (default: the only one)."""
    filter: str | None = None
    """The filter of the answers that were scored, such as `strict-match` (default: the only one)."""

    def read(self, path: Path) -> Iterator[Log]:
        for file in _files_in(path) if path.is_dir() else [path]:
            named = NAME.fullmatch(file.name)
            if named is None:
                raise LogError(f"{file} is not named samples_TASK_DATE.jsonl, as logs of a task are")
            # A folder may have tasks that are not wanted, with other metrics.
            wanted = self.tasks is None or named["task"] in self.tasks
            answers = tuple(self._answers(file)) if wanted else ()
            yield Log(file, named["task"], self._model(file.with_name(f"results_{named['date']}.json")), answers)

    def _model(self, results: Path) -> str | None:
        if not results.is_file():
            return None
        named = parse(read_all(results, self.max_megabytes), str(results)).get("model_name")
        return named if isinstance(named, str) else None

    def _answers(self, path: Path) -> Iterator[Answer]:
        samples: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for number, line in read_lines(path, self.max_megabytes):
            where = f"{path}:{number}"
            # Only what is used is kept: the prompts of a large task would fill the memory.
            sample = {name: value for name, value in parse(line, where).items() if name not in ("arguments", "resps")}
            samples.setdefault(str(sample.get("filter", "none")), []).append((where, sample))
        if not samples:
            return
        chosen = samples[the_one("filter", self.filter, list(samples), str(path))]
        times: Counter[str] = Counter()
        for where, sample in chosen:
            one = self._answer(sample, where)
            times[one.item] += 1
            if times[one.item] > 1:
                raise LogError(f"{where} is a second answer to document {one.item}")
            yield one

    def _answer(self, sample: Mapping[str, Any], where: str) -> Answer:
        name, document = sample.get("doc_id"), sample.get("doc")
        if not isinstance(name, str | int):
            raise LogError(f"{where} is not a sample of the lm-evaluation-harness: it has no `doc_id`")
        metrics = sample.get("metrics")
        if not isinstance(metrics, list) or not all(isinstance(one, str) for one in metrics):
            raise LogError(f"{where} does not name its `metrics`: it is of a version before 0.4.3, or of another tool")
        metric = the_one("metric", self.metric, metrics, where)
        value = sample.get(metric)
        if value is not None and not isinstance(value, int | float):
            raise LogError(f"{where}: {metric} is not a number for each document; it is {value!r:.80}")
        said, target = sample.get("filtered_resps"), sample.get("target")
        answer = said[0] if isinstance(said, list) and len(said) == 1 else None
        return Answer(
            item=str(name),
            epoch=1,
            score=None if value is None or math.isnan(value) else float(value),
            answer=answer if isinstance(answer, str) else None,
            target=target if isinstance(target, str) else None,
            cluster=cluster_in(document, self.cluster, where),
            content=str(sample.get("doc_hash") or digest_of(document)),
        )


def _files_in(folder: Path) -> list[Path]:
    """The sample logs in the folder, or in the model's folder below it.

    Raises LogError if there is none, or if one task has several.
    """
    found = sorted(folder.glob("samples_*.jsonl")) or sorted(folder.glob("*/samples_*.jsonl"))
    if not found:
        raise LogError(f"the folder {folder} has no samples_TASK_DATE.jsonl: were samples logged (`--log_samples`)?")
    named = [one for one in map(NAME.fullmatch, (file.name for file in found)) if one]
    task, times = Counter(one["task"] for one in named).most_common(1)[0] if named else ("", 0)
    if times > 1:
        files = listing([file.name for file in found if f"samples_{task}_" in file.name])
        raise LogError(f"the folder {folder} has {times} logs of task {task!r}: name the one to read: {files}")
    return found
