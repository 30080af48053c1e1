"""The Context: the one value that is threaded through the stages of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crucible_core.ir.experiment import Experiment
from crucible_core.run_state.attempt import Attempt, current_attempt
from crucible_core.trace import Decision, Event, StageSucceeded, Trace
from crucible_core.values.arguments import (
    check_experiment,
    check_instance,
    check_mapping,
    check_run_id,
    checked_name,
    checked_names,
    new_run_id,
    not_a_name,
)
from crucible_core.values.equality import differences_between
from crucible_core.values.immutable import PersistentDict, PersistentList
from crucible_core.values.jsonable import safe_text
from crucible_core.values.notebook import html_of_run
from crucible_core.values.series import with_point

__all__ = ["Context"]

# Looked up once: a Context is copied three times for every stage that runs.
_new = object.__new__
_NUMBERS = frozenset({int, float, bool})


@dataclass(frozen=True, eq=False, repr=False)
class Context:
    """What a stage reads and returns: a value. Every method returns a new Context and leaves this one unchanged.

    `metrics` are the numbers (and small JSON-able structures) that the run is judged by; `outputs` are its records;
    `artifacts` are name -> path or URL. `assigns` has everything else: data, models, anything that stages hand to each
    other.

    Raises CrucibleError for a run id that cannot be part of a file name.
    """

    experiment_id: str
    run_id: str
    experiment: Experiment
    outputs: PersistentList[Any] = field(default_factory=PersistentList)
    metrics: PersistentDict[Any] = field(default_factory=PersistentDict)
    artifacts: PersistentDict[Any] = field(default_factory=PersistentDict)
    trace: Trace = field(default_factory=Trace)
    assigns: PersistentDict[Any] = field(default_factory=PersistentDict)

    def __post_init__(self) -> None:
        check_run_id(self.run_id)
        if not isinstance(self.outputs, PersistentList):
            self.__dict__["outputs"] = PersistentList(self.outputs)
        for name in ("metrics", "artifacts", "assigns"):
            if not isinstance(self.__dict__[name], PersistentDict):
                self.__dict__[name] = PersistentDict(self.__dict__[name])

    @classmethod
    def begin(
        cls, experiment: Experiment, *, run_id: str | None = None, assigns: Mapping[str, Any] | None = None
    ) -> Context:
        """The Context before the first stage; a missing `run_id` becomes a new random one.

        Data that the experiment carries for its stages is copied: a stage that changes it affects its own run only.
        """
        check_experiment(experiment, Experiment)
        if assigns is not None:
            check_mapping("assigns", assigns)
        if run_id is None:
            run_id = new_run_id()
        check_instance("run_id", run_id, str, "a text")
        return cls(experiment.id, run_id, experiment.with_own_data(), assigns=PersistentDict(assigns))

    def _replace(self, **changes: object) -> Context:
        """The Context with these fields replaced, as they are: not checked, not converted."""
        changed = self
        for name, value in changes.items():
            changed = changed._with(name, value)
        return changed

    def _with(self, name: str, value: object, attempt: Attempt | None = None) -> Context:
        # dataclasses.replace would check and convert all eight fields again, at ten times the cost. `attempt` is the
        # current one, if the caller has looked it up.
        changed = _new(type(self))
        fields = self.__dict__.copy()
        fields[name] = value
        _set_fields(changed, fields)
        if attempt is None:
            attempt = current_attempt.get()
        if attempt is not None and attempt.run_id == fields["run_id"]:
            attempt.derived = changed
        return changed

    def _record(self, event: Event) -> Context:
        """The Context with one more event in its trace."""
        # Like _with, but this is not the stage's own work: called twice for every stage.
        changed = _new(type(self))
        fields = self.__dict__.copy()
        fields["trace"] = fields["trace"].append(event)
        _set_fields(changed, fields)
        return changed

    def assign(self, /, *given: Any, **named: Any) -> Context:
        """`ctx.assign(model=m)`, `ctx.assign({"model": m})` or `ctx.assign("model", m)`.

        Raises TypeError for anything else, and for a name that is not a string.
        """
        match given:
            case ():
                values = named
            case (Mapping() as mapping,):
                values = {**mapping, **named}
            case (name, value) if not named and not isinstance(name, Mapping):
                values = {name: value}
            case _:
                raise TypeError("assign takes name=value, or a mapping, or one name and its value")
        return self._with("assigns", self.assigns.merge(checked_names(values)))

    def put_metric(self, name: str, value: Any) -> Context:
        """Set one metric. Raises TypeError if the name is not a string."""
        if not isinstance(name, str):
            raise not_a_name(name)
        attempt = current_attempt.get()
        if attempt is not None and attempt.updates is not None:
            # Not `self.run_id`: where the reads of a stage are recorded, that would count as one of them.
            attempt.updates.metrics(self.__dict__["run_id"], {name: value})
        shown = value if type(value) in _NUMBERS else self._masked(value)
        return self._with("metrics", self.metrics.put(name, shown), attempt)

    def get_metric(self, name: str, default: Any = None) -> Any:
        """The metric, or `default` if there is none of that name."""
        return self.metrics.get(name, default)

    def has_metric(self, name: str) -> bool:
        return name in self.metrics

    def update_metric(self, name: str, update: Callable[[Any], Any], default: Any = None) -> Context:
        """Replace the metric by `update(current value)`; `default` stands for a missing one."""
        return self.put_metric(name, update(self.metrics.get(name, default)))

    def merge_metrics(self, metrics: Mapping[str, Any]) -> Context:
        """Set several metrics. Raises TypeError if a name is not a string."""
        attempt, values = current_attempt.get(), checked_names(metrics)
        if attempt is not None and attempt.updates is not None:
            attempt.updates.metrics(self.__dict__["run_id"], values)
        shown = {name: self._masked(value) for name, value in values.items()}
        return self._with("metrics", self.metrics.merge(shown), attempt)

    def log_metric(self, name: str, value: float, *, step: int | None = None) -> Context:
        """Add a point to a metric that is a series, such as a loss over epochs; the first point starts the series.

        A missing `step` is the one after the last, from 0. The metric is a Series: its points, and `last`, `min`, `max`
        and `mean`, which gates and tables name `loss.last`. Observers get every point, even if the stage fails later.
        Raises TypeError for a value that is not a number, and CrucibleError if `put_metric` has set the metric.
        """
        attempt = current_attempt.get()
        hear = None if attempt is None or attempt.updates is None else attempt.hears(self.__dict__["run_id"])
        return self._with("metrics", with_point(self.metrics, name, value, step, hear))

    def log_metrics(self, values: Mapping[str, float], *, step: int | None = None) -> Context:
        """`log_metric` for several series. Raises as it does."""
        changed = self
        for name, value in values.items():
            changed = changed.log_metric(name, value, step=step)
        return changed

    def spend(self, name: str, amount: float) -> Context:
        """Count what was spent, for example `ctx.spend("usd", 0.02)`: in the metric `spent.usd`, and by stage.

        Raises BudgetExceededError if the run has now spent more than the experiment's `budget` allows; the amount still
        counts. Raises TypeError for an amount that is not a number, ValueError for one that is negative or not finite.
        """
        from crucible_core.run_state.spending import check, counted  # noqa: PLC0415  # few stages need it

        changed = self._with("metrics", counted(self.metrics, self.stage, {name: amount}))
        check(changed)
        return changed

    def add_output(self, output: Any) -> Context:
        """Append one record."""
        return self._with("outputs", self.outputs.append(output))

    def add_outputs(self, outputs: Iterable[Any]) -> Context:
        """Append several records. Raises TypeError for a text or a mapping, which is a single record."""
        if isinstance(outputs, str | bytes | Mapping):
            raise TypeError(f"add_outputs takes several records; use add_output for a single one, {outputs!r:.80}")
        return self._with("outputs", self.outputs.extend(outputs))

    def put_artifact(self, name: str, artifact: Any) -> Context:
        """Name a path or URL that the run produced, which is kept without secrets, such as those of a signed URL.

        Raises TypeError if the name is not a string.
        """
        return self._with("artifacts", self.artifacts.put(checked_name(name), self._masked(artifact)))

    def get_artifact(self, name: str, default: Any = None) -> Any:
        """The path or URL, or `default` if there is none of that name."""
        return self.artifacts.get(name, default)

    def has_artifact(self, name: str) -> bool:
        return name in self.artifacts

    @property
    def folder(self) -> Path:
        """The folder of this run and of those that resume or retry it, made when it is first asked for."""
        from crucible_core.run_state.checkpoints import folder_of  # noqa: PLC0415  # few stages need it

        return folder_of(self.run_id)  # type: ignore[no-any-return]  # on an object store it behaves like a Path

    @property
    def resources(self) -> Mapping[str, Any]:
        """What the experiment declares under `resources:`, by name; each is made when it is first asked for.

        Raises UnknownResourceError, a KeyError, for another name, and what the factory raises.
        """
        from crucible_core.run_state.resources import resources_of  # noqa: PLC0415  # few stages need it

        return resources_of(self.run_id)

    def checkpoint(self, name: str, value: Any) -> Context:
        """Keep a value of the running stage, by pickle, for `restore`; it is an artifact, `checkpoint.STAGE.NAME`.

        It is kept at once and as a whole, even if the process is killed before the stage returns.
        """
        from crucible_core.run_state.checkpoints import save  # noqa: PLC0415

        return self.put_artifact(*save(self, checked_name(name), value))

    def restore(self, name: str, default: Any = None) -> Any:
        """The running stage's last checkpoint of that name, in this run or one that it resumes or retries.

        It counts only if the seed and the options up to this stage were the same. `default` if there is none.
        """
        from crucible_core.run_state.checkpoints import restore  # noqa: PLC0415

        return restore(self, checked_name(name), default)

    def decide(
        self,
        decision: str,
        reasoning: str,
        *,
        alternatives: Iterable[str] = (),
        confidence: float | None = None,
        depends_on: str | Decision | Iterable[str | Decision] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> Context:
        """Record a choice in the trace, under the stage that is running.

        `confidence` is from 0 to 1. `depends_on` are earlier decisions, such as `ctx.trace.decisions[-1]`, or their
        ids. `metadata` is whatever else there is to say about it, and becomes JSON types. Raises ValueError for another
        confidence, CrucibleError for a decision that is not in the trace, TypeError for metadata that is not a mapping.
        """
        from crucible_core.values.decisions import fields_of  # noqa: PLC0415  # few stages decide

        attempt = current_attempt.get()
        if attempt is not None and attempt.run_id != self.run_id:
            attempt = None
        said = (decision, reasoning, alternatives, confidence, depends_on, metadata)
        fields = fields_of(lambda text: safe_text(self._masked(text)), self.trace, *said)
        event = Decision(stage=self.stage, **fields)
        if attempt is not None:
            attempt.hear(event)
        return self._record(event)

    def merge(self, *others: Context) -> Context:
        """The Context plus what each of the others, which threads or tasks have made from it, has added, in order.

        Raises CrucibleError if two of them have set a name to different values; points of one series are joined.
        """
        from crucible_core.run_state.merging import merged  # noqa: PLC0415  # few stages need it

        return merged(self, others, current_attempt.get())  # type: ignore[no-any-return]

    def _masked(self, value: Any) -> Any:
        """The value; with masks if it is, or holds, a text with a secret."""
        from crucible_core.values.redaction import masked  # noqa: PLC0415  # most stages have numbers

        return masked(value, current_attempt.get(), self.__dict__["run_id"])

    @property
    def stage(self) -> str:
        """The name of the stage that is running; empty before the first one and after the gates."""
        return self.trace.events[-1].stage if len(self.trace) else ""

    @property
    def completed_stages(self) -> tuple[str, ...]:
        """The stages that succeeded, in order."""
        return tuple(event.stage for event in self.trace.events if isinstance(event, StageSucceeded))

    def stage_completed(self, name: str) -> bool:
        """Whether the stage of that name succeeded."""
        return name in self.completed_stages

    def differences(self, other: Context) -> tuple[str, ...]:
        """Where the results of two runs differ, for example ("metrics['accuracy']",); times and ids are ignored.

        Metrics, outputs, artifacts, assigns, decisions and how each stage ended are compared. NaN equals NaN, arrays
        and data frames are compared element by element, and types must be the same.
        """
        return differences_between(self, other)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Context):
            return NotImplemented
        return (
            (self.experiment_id, self.run_id, self.experiment, self.trace)
            == (other.experiment_id, other.run_id, other.experiment, other.trace)
        ) and not self.differences(other)

    __hash__ = None  # type: ignore[assignment]  # it holds any values that stages put in

    def __repr__(self) -> str:
        parts = [f"{name}={list(getattr(self, name))}" for name in ("metrics", "artifacts", "assigns")]
        return (
            f"Context({self.experiment_id!r}, run {self.run_id!r}, {', '.join(parts)}, "
            f"{len(self.outputs)} outputs, {len(self.trace)} events)"
        )

    _repr_html_ = html_of_run


# As `changed.__dict__ = fields`, which a frozen class refuses; object.__setattr__ looks the name up each time.
_set_fields = vars(Context)["__dict__"].__set__
