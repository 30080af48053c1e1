"""The data plane's pipelines as experiments: an array or many records threaded through eight stages."""

from typing import Literal

from data_plane_work import STAGES, Shape, make_array, make_records, mark, metric_of, reads_array

from crucible_core import Context, Experiment, Stage, StageDef


class Step(Stage):
    """Makes, reads or passes over the data, and adds one metric."""

    index: int
    """Its place in the pipeline."""
    makes: Literal["array", "records", "nothing"] = "nothing"
    reads: bool = False
    size: int = 0
    """Of what it makes."""

    def run(self, ctx: Context) -> Context:
        mark(self.index)
        if self.makes == "array":
            ctx = ctx.assign(array=make_array(self.size))
        if self.makes == "records":
            ctx = ctx.add_outputs(make_records(self.size))
        if self.reads:
            metric = metric_of(ctx.assigns["array"])
        else:
            metric = ctx.get_metric(f"metric_{self.index - 1}", 0.0) + 1.0
        return ctx.put_metric(f"metric_{self.index}", metric)


def experiment(shape: Shape, size: int) -> Experiment:
    maker = 1 if shape == "outputs" else 0
    made = "records" if shape == "outputs" else "array"
    return Experiment(
        id=f"data_plane_{shape}",
        pipeline=tuple(
            StageDef(
                name=f"stage_{index}",
                module=f"{__name__}:Step",
                options={
                    "index": index,
                    "reads": reads_array(shape, index),
                    **({"makes": made, "size": size} if index == maker else {}),
                },
            )
            for index in range(STAGES)
        ),
    )
