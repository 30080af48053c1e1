"""The data plane's pipelines as the jobs that one would write without Crucible: no import of it here."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
from data_plane_work import STAGES, Shape, make_array, make_records, mark, metric_of, reads_array

Value = dict[str, Any]

# What a hand-tuned job has its fork server import: the storage, numpy, the ops.
PRELOADED = [
    "dagster",
    "dagster._core.execution.api",
    "dagster._core.executor.child_process_executor",
    "dagster._core.storage.event_log.sqlite",
    "dagster._core.storage.runs.sqlite",
    "dagster._core.storage.schedules.sqlite",
    "dagster._core.storage.local_compute_log_manager",
    "numpy",
    "data_plane_by_hand",
]


def rebuild(*, shape: Shape, size: int, data: str) -> dg.JobDefinition:
    """`data` says who keeps it: `files` and `synced files` (saved by hand, the path is passed), or `values`."""
    ops = [_op_of(index, shape, size, data) for index in range(STAGES)]

    @dg.job(name=f"by_hand_{shape}", executor_def=dg.multi_or_in_process_executor)
    def by_hand() -> None:
        value = ops[0]()
        for op in ops[1:]:
            value = op(value)

    return by_hand


def _op_of(index: int, shape: Shape, size: int, data: str) -> dg.OpDefinition:
    asset = dg.AssetKey(["by_hand", shape])

    @dg.op(
        name=f"stage_{index}",
        ins={"value": dg.In()} if index else {},
        config_schema={"metric": dg.Field(str, default_value=f"metric_{index}")},
    )
    def step(context: dg.OpExecutionContext, **inputs: Value) -> Any:
        mark(index)
        before = inputs.get("value") or {"run_id": context.run_id, "metrics": {}}
        after = {**before, "metrics": dict(before["metrics"])}
        folder = Path(context.instance.storage_directory()) / "data" / context.run_id
        array = None
        if shape == "outputs" and index == 1:
            after["outputs"] = _keep_records(make_records(size), folder, data)
        if shape != "outputs" and index == 0:
            array = make_array(size)
            after["array"] = _keep_array(array, folder, data)
        if reads_array(shape, index):
            found = array if array is not None else _array(after["array"])
            metric = metric_of(found)
        else:
            metric = before["metrics"].get(f"metric_{index - 1}", 0.0) + 1.0
        after["metrics"][context.op_config["metric"]] = metric
        if index == STAGES - 1:
            yield dg.AssetMaterialization(asset, metadata=after["metrics"])
        yield dg.Output(after, metadata={context.op_config["metric"]: metric})

    return step


def _array(kept: Any) -> Any:
    return np.load(kept, mmap_mode="r") if isinstance(kept, str) else kept


def _keep_array(array: Any, folder: Path, data: str) -> Any:
    if data == "values":
        return array
    return _written(folder / "array.npy", data, lambda path: np.save(path, array))


def _keep_records(records: list[Any], folder: Path, data: str) -> Any:
    if data == "values":
        return records
    text = json.dumps(records, separators=(",", ":"))
    return _written(folder / "outputs.json", data, lambda path: path.write_text(text))


def _written(path: Path, data: str, write: Callable[[Path], Any]) -> str:
    path.parent.mkdir(parents=True)
    write(path)
    if data == "synced files":
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    return str(path)
