"""The context store: each byte written once, each value read when it is looked at, on any file system."""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
from pathlib import Path
from typing import Any, NamedTuple, cast
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
from agreement_stages import Model
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from stages_for_tests import experiment_of
from upath import UPath

from crucible_core import Context, CrucibleError, Decision, RunInterrupted, StageFailedError
from crucible_core.values.equality import same
from crucible_dagster.store import ContextStore, RefusedWriteError, StoreError, detached
from crucible_dagster.store.files import MOST_GROWING, LocalFiles, RemoteFiles, maps
from crucible_dagster.store.memory import Digests, checksum, digests_of, remember
from crucible_dagster.store.objects import MIN_MAPPED

RUN = "00000000-0000-4000-8000-00000000000a"


@pytest.fixture(params=["file", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ContextStore:
    """An empty store on each of the file systems."""
    match request.param:
        case "file":
            return ContextStore(UPath(tmp_path / "store"))
        case "memory":
            return ContextStore(UPath(f"memory://{uuid4()}/store"))
    return ContextStore(UPath(f"{request.getfixturevalue('s3')}/{uuid4()}"))


@pytest.fixture
def local(tmp_path: Path) -> ContextStore:
    return ContextStore(UPath(tmp_path / "store"))


def begin() -> Context:
    return Context.begin(experiment_of("nothing"), run_id=RUN)


def save(store: ContextStore, context: Context, step: str) -> Context:
    return store.save(context, RUN, step, attempt=f"{uuid4()}")


def load(store: ContextStore, step: str) -> Context:
    """As another process would: with nothing in memory."""
    return ContextStore(store.base, allow_pickle=store.objects.allow_pickle).load(RUN, step)


def size_of(store: ContextStore, folder: str = "") -> int:
    return sum(info.size for info in store.files.list(folder))


def test_many_files_grow_at_once(store: ContextStore) -> None:
    names = [f"{number}" for number in range(MOST_GROWING + 2)]
    for line in (b"1\n", b"2\n"):
        for name in (*names, "0"):
            store.files.append(f"growing/{name}", line)
    assert {name: store.files.read(f"growing/{name}") for name in names} == {
        name: b"1\n1\n2\n2\n" if name == "0" else b"1\n2\n" for name in names
    }


class CountingFiles(LocalFiles):
    """Real files, and a list of which were opened for reading."""

    opened: list[str]

    def read(self, name: str) -> bytes:
        self.opened.append(name)
        return super().read(name)

    def map(self, name: str) -> memoryview:
        self.opened.append(name)
        return super().map(name)


def counting(store: ContextStore) -> tuple[ContextStore, list[str]]:
    other = ContextStore(store.base)
    files = CountingFiles(Path(str(store.base)))
    files.opened = []
    other.files = other.objects.files = files
    return other, files.opened


# --- values -----------------------------------------------------------------------------------------------------------


def test_files_show_what_another_process_has_written_since(store: ContextStore) -> None:
    store.files.append("trials/x/1", b"a\n")
    assert store.files.children("trials/x") == ["1"]
    # With an object of its own for the file system, as in another process.
    options = dict(store.base.storage_options, asynchronous=False) if store.base.protocol == "s3" else {}
    other = ContextStore(UPath(str(store.base), **options)).files
    other.append("trials/x/2", b"b\n")
    assert store.files.children("trials/x") == ["1", "2"]
    assert store.files.exists("trials/x/2")


def test_a_copy_of_the_files_goes_on_where_the_process_has_written(store: ContextStore) -> None:
    store.files.append("trials/x/1", b"a\n")
    # Each batch of trials that is sent to a process brings one.
    for line in (b"b\n", b"c\n"):
        pickle.loads(pickle.dumps(store.files)).append("trials/x/1", line)
    assert store.files.read("trials/x/1") == b"a\nb\nc\n"


def test_a_context_comes_back_as_it_was(store: ContextStore) -> None:
    context = begin().assign(
        {
            "list": [1, 2],
            "tuple": (1, "two"),
            "array": np.arange(100_000.0),
            "small": np.arange(3),
            "frame": pd.DataFrame({"x": np.arange(50_000.0), "y": "text"}),
            "model": Model(np.ones(40_000)),
        }
    )
    context = context.merge_metrics({"accuracy": 0.5, "nan": float("nan"), "deep": {"a": [1]}})
    context = context.add_outputs([{"id": 1}, {"id": (2,)}]).put_artifact("file", "a/b.txt")
    context = context.decide("this", "because", alternatives=["that"])
    save(store, context, "one")
    found = load(store, "one")
    assert found.differences(context) == ()
    assert found.trace == context.trace
    assert found == context
    assert detached(found) == context
    assert pickle.loads(pickle.dumps(found)) == context


def test_what_a_step_carries_on_is_not_written_again(store: ContextStore) -> None:
    array = np.random.default_rng(0).random(100_000)
    save(store, begin().assign(array=array, text="t" * 5_000), "1")
    first = size_of(store, "objects")
    for number in range(2, 8):
        save(store, load(store, f"{number - 1}").put_metric(f"m{number}", 1.0), f"{number}")
    assert size_of(store, "objects") == first
    assert size_of(store) < first * 1.05
    assert same(load(store, "7").assigns["array"], array)


def test_equal_values_are_one_object(local: ContextStore) -> None:
    array = np.arange(100_000.0)
    save(local, begin().assign(a=array, b=array.copy(), model=Model(array.copy())), "one")
    assert size_of(local, "objects") < array.nbytes * 1.05


DAMAGE: dict[str, Any] = {
    "a bit is flipped": lambda data: data[:700] + bytes([data[700] ^ 1]) + data[701:],
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"x",
}


def damage_objects(store: ContextStore, how: str) -> list[str]:
    names = [info.name for info in store.files.list("objects")]
    for name in names:
        path = Path(str(store.base), name)
        path.write_bytes(DAMAGE[how](path.read_bytes()))
    return names


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_object_is_written_again_by_the_next_run_that_has_the_value(local: ContextStore, how: str) -> None:
    context = begin().assign(
        small="text" * 1_000, array=np.arange(50_000.0), mapped=np.arange(300_000.0), model=Model(np.ones(40_000))
    )
    save(local, context, "one")
    names = damage_objects(local, how)
    assert len(names) == 4, "the text, and each array; the pickle beside the last is in the manifest"
    again = ContextStore(local.base)
    save(again, context, "two")
    assert sorted(again.objects.repaired()) == sorted(
        f"{name} in the context store was damaged and has been written again" for name in names
    )
    assert again.objects.repaired() == []
    for step in ("one", "two"):
        assert load(local, step).differences(context) == ()


def test_an_object_that_is_whole_is_not_written_again(local: ContextStore) -> None:
    context = begin().assign(small="text" * 1_000, array=np.arange(50_000.0))
    save(local, context, "one")
    before = {info.name: Path(str(local.base), info.name).stat().st_ino for info in local.files.list("objects")}
    again = ContextStore(local.base)
    save(again, context, "two")
    assert {name: Path(str(local.base), name).stat().st_ino for name in before} == before
    assert again.objects.repaired() == []


def test_only_what_is_looked_at_is_read(local: ContextStore) -> None:
    large = {f"array{number}": np.full(50_000, float(number)) for number in range(3)}
    context = (
        begin().assign(large).put_metric("accuracy", 0.5).add_outputs({"id": n, "text": "x" * 50} for n in range(100))
    )
    save(local, context, "one")
    other, opened = counting(local)
    found = other.load(RUN, "one")
    assert len(opened) == 1, "the manifest"
    assert found.metrics["accuracy"] == 0.5
    assert "array1" in found.assigns
    assert list(found.assigns) == list(large)
    assert len(found.outputs) == 100
    longer = found.add_output({"id": 100}).put_metric("more", 1).assign(other=2)
    assert len(longer.outputs) == 101
    assert longer.outputs[-1] == {"id": 100}
    other.save(longer, RUN, "two", attempt="1")
    assert len(opened) == 1, "adding to a Context reads nothing"
    assert same(longer.assigns["array1"], large["array1"])
    assert len(opened) == 2
    assert longer.outputs[0]["id"] == 0
    assert len(opened) == 3


def test_large_arrays_are_mapped_and_changes_to_them_stay_in_the_process(local: ContextStore) -> None:
    array = np.arange(float(MIN_MAPPED))
    save(local, begin().assign(array=array, frame=pd.DataFrame({"x": array})), "one")
    found = load(local, "one")
    base: Any = found.assigns["array"]
    while getattr(base, "base", None) is not None:
        base = base.base
    assert type(base).__name__ in {"mmap", "memoryview"}
    assert str(local.base) in Path("/proc/self/maps").read_text()
    found.assigns["array"][0] = -1.0
    assert load(local, "one").assigns["array"][0] == 0.0
    found.assigns["frame"].loc[0, "x"] = -2.0
    assert load(local, "one").assigns["frame"].loc[0, "x"] == 0.0


def change_list(value: Any) -> None:
    value.append(4)


def change_deep(value: Any) -> None:
    value["a"]["b"].append(1)


def change_array(value: Any) -> None:
    value[7] = -1.0


def change_frame(value: Any) -> None:
    value.loc[3, "x"] = -1.0


def change_frame_columns(value: Any) -> None:
    value["new"] = 1


def change_model(value: Any) -> None:
    value.weights *= 2


IN_PLACE = [
    pytest.param([1, 2, 3], change_list, id="list"),
    pytest.param({"a": {"b": []}}, change_deep, id="dict in a dict"),
    pytest.param(np.arange(10.0), change_array, id="small array"),
    pytest.param(np.arange(float(MIN_MAPPED)), change_array, id="mapped array"),
    pytest.param(pd.DataFrame({"x": np.arange(10.0)}), change_frame, id="data frame"),
    pytest.param(pd.DataFrame({"x": np.arange(float(MIN_MAPPED))}), change_frame, id="mapped data frame"),
    pytest.param(pd.DataFrame({"x": np.arange(float(MIN_MAPPED))}), change_frame_columns, id="a new column"),
    pytest.param(Model(np.ones(MIN_MAPPED)), change_model, id="an array in an object"),
]


@pytest.mark.parametrize(("value", "change"), IN_PLACE)
@pytest.mark.parametrize("where", ["in memory", "read back"])
def test_what_is_changed_in_place_is_kept(local: ContextStore, value: Any, change: Any, where: str) -> None:
    value = pickle.loads(pickle.dumps(value))
    expected = pickle.loads(pickle.dumps(value))
    change(expected)
    context = save(local, begin().assign(value=value, other=1), "one")
    if where == "read back":
        context = load(local, "one")
    change(context.assigns["value"])
    save(local, context, "two")
    assert same(load(local, "two").assigns["value"], expected)
    assert not same(load(local, "one").assigns["value"], expected), "what the step before returned stays"


def test_outputs_changed_in_place_are_kept(local: ContextStore) -> None:
    save(local, begin().add_outputs([{"id": 1}, {"id": 2}]), "one")
    context = load(local, "one").add_output({"id": 3})
    context.outputs[0]["id"] = 10
    save(local, context, "two")
    assert list(load(local, "two").outputs) == [{"id": 10}, {"id": 2}, {"id": 3}]
    assert list(load(local, "one").outputs) == [{"id": 1}, {"id": 2}]


def test_looking_at_a_value_does_not_write_it_again(local: ContextStore) -> None:
    values = {
        "array": np.arange(float(MIN_MAPPED)),
        "frame": pd.DataFrame({"x": np.arange(float(MIN_MAPPED)), "y": "t"}),
        "model": Model(np.ones(MIN_MAPPED), [0.1]),
        "set": {"a", "b"},
        "dict": {"a": [1] * 2_000},
    }
    save(local, begin().assign(values), "one")
    before = size_of(local, "objects")
    context = load(local, "one")
    for name in values:
        assert same(context.assigns[name], values[name])
    float(context.assigns["array"].sum())
    context = save(local, context, "two")
    for name in values:
        assert same(context.assigns[name], values[name])
    save(local, context, "three")
    assert size_of(local, "objects") == before


def test_one_object_under_two_names_stays_one_object(local: ContextStore) -> None:
    model = Model(np.ones(3))
    context = begin().assign(model=model, best=model, copy=Model(np.ones(3)))
    save(local, context, "one")
    context = load(local, "one")
    context.assigns["model"].history.append(0.5)
    context = context.assign(third=context.assigns["best"])
    save(local, context, "two")
    found = load(local, "two").assigns
    assert found["model"] is found["best"] is found["third"]
    assert found["copy"] is not found["model"]
    assert (found["best"].history, found["copy"].history) == ([0.5], [])
    save(local, load(local, "two").assign(model=1), "three")
    found = load(local, "three").assigns
    assert found["model"] == 1
    assert found["best"] is found["third"]
    assert found["best"].history == [0.5]


def test_names_keep_their_order_and_can_be_taken_away(local: ContextStore) -> None:
    save(local, begin().assign(b=1, a=2, c=3), "one")
    save(local, load(local, "one").assign(a=20).assign(d=4), "two")
    assert dict(load(local, "two").assigns) == {"b": 1, "a": 20, "c": 3, "d": 4}
    assert list(load(local, "two").assigns) == ["b", "a", "c", "d"]
    context = load(local, "two")
    from dataclasses import replace

    left = {name: value for name, value in context.assigns.items() if name != "a"}
    save(local, replace(context, assigns=left, outputs=[1]), "three")
    assert list(load(local, "three").assigns) == ["b", "c", "d"]
    assert list(load(local, "three").outputs) == [1]


def test_many_metrics_and_many_steps_do_not_write_a_square(local: ContextStore) -> None:
    context = begin().merge_metrics({f"metric {number}": number / 7 for number in range(5_000)})
    save(local, context, "0")
    first = size_of(local)
    for number in range(1, 20):
        context = load(local, str(number - 1)).put_metric(f"step {number}", number)
        save(local, context.add_output({"n": number}), str(number))
    assert size_of(local) < 1.5 * first
    found = load(local, "19")
    assert len(found.metrics) == 5_019
    assert found.metrics["metric 4999"] == 4999 / 7
    assert [output["n"] for output in found.outputs] == list(range(1, 20))


def test_a_value_that_cannot_be_stored_is_named(local: ContextStore) -> None:
    with pytest.raises(StoreError, match=r"assigns\['f'\] \(step 'one', run .*\) is a function"):
        save(local, begin().assign(a=1, f=lambda: 0), "one")
    with pytest.raises(StoreError, match=r"outputs\[1\] \(step 'one'.* is a generator"):
        save(local, begin().add_outputs([{"a": 1}, (n for n in ())]), "one")
    assert not local.has_result(RUN, "one")


def test_a_stage_may_put_anything_into_the_experiment_that_it_carries(local: ContextStore) -> None:
    context = Context.begin(experiment_of("nothing", metadata={"a": [1]}), run_id=RUN)
    context.experiment.metadata["a"].append((2, 3))
    save(local, context, "one")
    assert load(local, "one").experiment.metadata == {"a": [1, (2, 3)]}


# --- attempts, failures, events --------------------------------------------------------------------------------------


def test_one_result_counts_and_a_late_one_is_refused(store: ContextStore) -> None:
    store.save(begin().put_metric("m", 1), RUN, "one", attempt="a")
    with pytest.raises(
        RefusedWriteError, match=r"step 'one' of run .* comes too late .* another attempt's result counts"
    ):
        store.save(begin().put_metric("m", 2), RUN, "one", attempt="b")
    assert load(store, "one").metrics == {"m": 1}


def test_a_step_that_was_given_up_gets_no_result(store: ContextStore) -> None:
    store.close(RUN, "one", by="another run")
    with pytest.raises(RefusedWriteError, match="another run has replaced this one"):
        store.save(begin(), RUN, "one", attempt="a")
    assert not store.has_result(RUN, "one")
    with pytest.raises(StoreError, match="has no result of step 'one'"):
        load(store, "one")
    save(store, begin(), "two")
    store.close(RUN, "two", by="another run")
    assert store.has_result(RUN, "two"), "what finished stays"


def test_a_failure_is_kept_with_its_cause_and_the_last_attempt_counts(store: ContextStore) -> None:
    for number in (1, 2):
        error = StageFailedError("train", begin().put_metric("m", number), f"ValueError: {number}")
        error.__cause__ = ValueError(number)
        store.save_failure(error, RUN, "train", attempt=f"000{number}")
    failure = store.load_failure(RUN, "train")
    assert failure is not None
    raised = failure.to_error()
    assert isinstance(raised, StageFailedError)
    assert (raised.stage, raised.reason, raised.context.metrics["m"]) == ("train", "ValueError: 2", 2)
    assert isinstance(raised.__cause__, ValueError)
    store.save_failure(RunInterrupted("train", begin()), RUN, "other", attempt="1")
    interrupted = store.load_failure(RUN, "other")
    assert interrupted is not None
    assert isinstance(interrupted.to_error(), RunInterrupted)
    assert store.load_failure(RUN, "none") is None


def test_events_are_there_before_the_stage_ends(store: ContextStore) -> None:
    decisions = [Decision(stage="one", decision=f"d{number}", reasoning="r") for number in range(3)]
    for decision in decisions:
        store.put_event(RUN, "one", "a", decision)
    assert list(ContextStore(store.base).events(RUN, "one")) == decisions
    assert list(store.events(RUN, "none")) == []


def test_an_event_that_was_cut_off_is_left_out(local: ContextStore) -> None:
    local.put_event(RUN, "one", "a", Decision(stage="one", decision="d", reasoning="r"))
    path = Path(str(local.base)) / "runs" / RUN / "one" / "a.events"
    path.write_bytes(path.read_bytes() + b'{"stage": "o')
    assert len(local.events(RUN, "one")) == 1


def test_the_first_run_record_counts(store: ContextStore) -> None:
    assert store.run_record(RUN) is None
    store.put_run_record(RUN, "first")
    store.put_run_record(RUN, "second")
    assert store.run_record(RUN) == "first"
    assert list(store.runs()) == [RUN]
    assert list(store.steps(RUN)) == []


# --- memory -----------------------------------------------------------------------------------------------------------


def test_mapped_memory_that_was_written_to_has_another_digest(tmp_path: Path) -> None:
    gc.collect()
    before = len(maps)
    content = os.urandom(1_000_000)
    (tmp_path / "object").write_bytes(content)
    block = LocalFiles(tmp_path).map("object")
    known = Digests("known without reading", checksum(content))
    remember(len(content), known)
    assert digests_of(block) == known
    assert bytes(block[:10]) == content[:10]
    assert digests_of(block) == known, "reading changes nothing"
    assert digests_of(block[:5_000]) != known
    block[999_999] ^= 1
    assert digests_of(block).sha256 == hashlib.sha256(block).hexdigest()
    assert (tmp_path / "object").read_bytes() == content
    assert len(maps) == before + 1
    del block
    gc.collect()
    assert len(maps) == before


# --- where it is ------------------------------------------------------------------------------------------------------


def test_a_store_whose_package_is_missing_says_which() -> None:
    with pytest.raises(CrucibleError, match=r"abfs://container/x needs a package that is not installed: .*adlfs"):
        ContextStore(UPath("abfs://container/x"))


# --- exclusive creation -----------------------------------------------------------------------------------------------


class LooksFirst(LocalFileSystem):
    """As those of fsspec's file systems that have no conditional write: sftp, hdfs, dropbox and others."""

    protocol = "looksfirst"
    pipe_file = AbstractFileSystem.pipe_file


class IgnoresConditions(LocalFileSystem):
    """As an object store that does not know the header of a conditional write."""

    protocol = "ignoresconditions"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        super().pipe_file(path, value)


class Place(NamedTuple):
    """What the files of a store need of a UPath."""

    fs: AbstractFileSystem
    path: str
    storage_options: dict[str, Any]


@pytest.mark.parametrize(
    ("kind", "why"),
    [(LooksFirst, "LooksFirst checks whether a file exists"), (IgnoresConditions, "one file twice")],
)
def test_a_file_system_without_exclusive_creation_is_refused_when_something_is_to_be_created(
    tmp_path: Path, kind: type[LocalFileSystem], why: str
) -> None:
    files = RemoteFiles(cast("UPath", Place(kind(), str(tmp_path), {"auto_mkdir": True})))
    files.write("objects/a", [b"as good as any other"])
    for _ in range(2):
        with pytest.raises(CrucibleError, match=why) as refused:
            files.create("claims/a", b"mine")
        assert "Use a folder, or an object store with conditional writes" in str(refused.value)
    assert files.children("claims") == []
    assert files.read("objects/a") == b"as good as any other"


def test_of_two_writers_one_is_told_that_its_file_counts(store: ContextStore) -> None:
    writers = [store.files, ContextStore(store.base).files]
    assert [one.create("claims/a", b"%d" % number) for number, one in enumerate(writers)] == [True, False]
    assert store.files.read("claims/a") == b"0"
