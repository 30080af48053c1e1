"""The job that one would write without Crucible: five chained ops that hand on a small mapping and log one metric."""

from typing import Any

import dagster as dg

Value = dict[str, Any]

ASSET = dg.AssetKey(["by_hand", "five_ops"])


def _op_of(index: int, *, last: bool) -> dg.OpDefinition:
    @dg.op(
        name=f"stage_{index}",
        ins={"value": dg.In()} if index else {},
        config_schema={"metric": dg.Field(str, default_value=f"metric_{index}")},
    )
    def add_metric(context: dg.OpExecutionContext, **inputs: Value) -> Any:
        before = inputs.get("value") or {"run_id": context.run_id, "metrics": {}, "outputs": [], "artifacts": {}}
        metric = context.op_config["metric"]
        after = {**before, "metrics": {**before["metrics"], metric: 1.0}}
        if last:
            yield dg.AssetMaterialization(ASSET, metadata=after["metrics"])
        yield dg.Output(after, metadata={metric: 1.0})

    return add_metric


@dg.job(executor_def=dg.multi_or_in_process_executor)
def five_ops() -> None:
    value = _op_of(0, last=False)()
    for index in range(1, 5):
        value = _op_of(index, last=index == 4)(value)
