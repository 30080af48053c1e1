"""The same five steps as an experiment, as one writes it with Crucible."""

from crucible_core import Context, Experiment, Stage, StageDef


class AddMetric(Stage):
    """Adds one metric."""

    metric: str
    """Its name."""

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric(self.metric, 1.0)


EXPERIMENT = Experiment(
    id="five_stages",
    pipeline=tuple(
        StageDef(name=f"stage_{index}", module=f"{__name__}:AddMetric", options={"metric": f"metric_{index}"})
        for index in range(5)
    ),
)
