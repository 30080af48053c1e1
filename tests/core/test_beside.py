"""Modules beside an experiment file: their names, imports among them, other processes, what was stored before."""

from __future__ import annotations

import importlib
import inspect
import io
import pickle
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest

from crucible_core import Context, StageFailedError, load_experiment, run_experiment
from crucible_core.beside import find_module, name_of_stored, package_of
from crucible_core.values.messages import as_written

STAGES = """\
import {helper}
from crucible_core import Context, stage

@stage
def go(ctx: Context, *, n: int = 1) -> Context:
    return ctx.put_metric("rate", {helper}.RATE * n)
"""


def put(path: str, text: str = "") -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def experiment(folder: str, module: str) -> Path:
    return put(f"{folder}/e.yaml", f"id: e\npipeline: [{{name: go, module: '{module}:go'}}]\n")


def run(folder: str) -> Context:
    return run_experiment(load_experiment(f"{folder}/e.yaml"))


def rates() -> list[Any]:
    return [run(folder).metrics["rate"] for folder in ("a", "b", "a")]


# --- two folders ------------------------------------------------------------------------------------------------------


def test_each_folder_has_its_own_stages_and_helpers() -> None:
    before = sys.path[:]
    for folder, rate in (("a", 1), ("b", 2)):
        experiment(folder, "stages")
        put(f"{folder}/stages.py", STAGES.format(helper="helpers"))
        put(f"{folder}/helpers.py", f"RATE = {rate}\n")
    assert rates() == [1, 2, 1]
    assert sys.path == before
    assert not {"stages", "helpers"} & sys.modules.keys()


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize(
    "imports",
    [
        "import lib.deep.rates\nRATE = lib.deep.rates.RATE",
        "import lib.deep.rates as found\nRATE = found.RATE",
        "from lib.deep.rates import RATE",
        "from lib.deep import rates\nRATE = rates.RATE",
        "from . import lib\nfrom .lib.deep.rates import RATE",
        "def late():\n    from lib.deep.rates import RATE\n    return RATE\nRATE = late()",
        "from importlib import import_module\nRATE = import_module('.lib.deep.rates', __package__).RATE",
    ],
)
def test_each_folder_has_its_own_package_however_it_is_imported(imports: str, init: bool) -> None:
    for folder, rate in (("a", 1), ("b", 2)):
        experiment(folder, "stages")
        put(f"{folder}/stages.py", STAGES.format(helper="helpers"))
        put(f"{folder}/helpers.py", f"{imports}\n")
        put(f"{folder}/lib/deep/rates.py", f"from lib.deep.number import RATE\nfrom .number import RATE\nassert {rate}")
        put(f"{folder}/lib/deep/number.py", f"RATE = {rate}\n")
        if init:
            put(f"{folder}/lib/__init__.py")
            put(f"{folder}/lib/deep/__init__.py")
    assert rates() == [1, 2, 1]


def test_stages_in_a_package_beside_the_file() -> None:
    for folder, rate in (("a", 1), ("b", 2)):
        experiment(folder, "lib.steps")
        put(f"{folder}/lib/steps.py", STAGES.format(helper="helpers"))
        put(f"{folder}/helpers.py", f"RATE = {rate}\n")
    assert rates() == [1, 2, 1]


def test_modules_that_import_each_other() -> None:
    experiment("a", "stages")
    put("a/stages.py", STAGES.format(helper="helpers") + "\nBASE = 3\n")
    put("a/helpers.py", "import stages\ndef __getattr__(name):\n    return stages.BASE\n")
    assert run("a").metrics["rate"] == 3


# --- what is installed ------------------------------------------------------------------------------------------------


def test_a_file_beside_comes_first_for_the_folder_and_for_nobody_else() -> None:
    import statistics

    experiment("a", "stages")
    put("a/stages.py", STAGES.format(helper="statistics"))
    put("a/statistics.py", "RATE = 5\n")
    assert run("a").metrics["rate"] == 5
    assert importlib.import_module("statistics") is statistics


def test_a_folder_with_data_does_not_hide_what_is_installed() -> None:
    experiment("a", "stages")
    put("a/stages.py", "import pydantic_core\n" + STAGES.format(helper="helpers"))
    put("a/pydantic_core/notes.txt")
    put("a/helpers.py", "from pydantic_core import to_json\nRATE = len(to_json(1))\n")
    assert run("a").metrics["rate"] == 1


def test_a_module_that_the_program_imports_by_its_plain_name_is_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment("a", "stages_found_twice")
    put("a/stages_found_twice.py", STAGES.format(helper="math").replace("math.RATE", "7"))
    monkeypatch.syspath_prepend(str(Path("a").absolute()))
    run("a")
    assert find_module("stages_found_twice", Path("a")) == "stages_found_twice"
    assert package_of(Path("a")) + ".stages_found_twice" not in sys.modules


# --- its name ---------------------------------------------------------------------------------------------------------


def test_the_name_says_the_folder_and_is_the_same_by_any_path(tmp_path: Path) -> None:
    put("2024 coins-é/stages.py")
    Path("link").symlink_to("2024 coins-é")
    name = package_of(Path("link"))
    assert name == package_of(tmp_path / "2024 coins-é")
    assert name.startswith("crucible_core.beside.2024_coins_")
    assert as_written(f"{name}.stages.Thing, {name}.lib.x") == "stages.Thing, lib.x"


def test_source_and_traceback_are_those_of_the_file(tmp_path: Path) -> None:
    experiment("a", "stages")
    text = "from crucible_core import stage\n@stage\ndef go(ctx):\n    raise KeyError('here')\n"
    file = put("a/stages.py", text)
    with pytest.raises(StageFailedError) as caught:
        run("a")
    assert caught.value.__cause__ is not None
    last = traceback.extract_tb(caught.value.__cause__.__traceback__)[-1]
    assert (last.filename, last.lineno) == (str(tmp_path / file), 4)
    module = importlib.import_module(find_module("stages", Path("a")))
    assert inspect.getsource(module) == text


def test_threads_that_load_it_at_once_get_one_module() -> None:
    experiment("a", "stages")
    put("a/stages.py", "import time\ntime.sleep(0.05)\n" + STAGES.format(helper="helpers"))
    put("a/helpers.py", "RATE = object()\n")
    found: list[Any] = []

    def load() -> None:
        found.append(importlib.import_module(find_module("stages", Path("a"))).helpers.RATE)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


# --- pickles ----------------------------------------------------------------------------------------------------------


def read(data: bytes, folder: Path | None) -> Any:
    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return super().find_class(name_of_stored(module, folder), name)

    return Reader(io.BytesIO(data)).load()


def test_a_value_is_pickled_by_name_and_read_where_the_folder_is_now() -> None:
    put("a/things.py", "class Thing:\n    def __init__(self): self.n = 3\n")
    thing = importlib.import_module(find_module("things", Path("a"))).Thing()
    data = pickle.dumps(thing)
    assert pickle.loads(data).n == 3
    assert type(read(data, None)) is type(thing)
    Path("a").rename("moved")
    assert read(data, Path("moved")).n == 3


def test_a_value_that_was_stored_under_the_plain_name_is_read() -> None:
    put("a/things.py", "class Thing:\n    n = 3\n")
    data = b"\x80\x04\x8c\x06things\x8c\x05Thing\x93)\x81."  # what Python wrote when `a` was on its search path
    before = sys.path[:]
    assert read(data, Path("a")).n == 3
    assert sys.path == before
    with pytest.raises(ModuleNotFoundError):
        read(data, None)


@pytest.mark.slow
def test_another_process_reads_a_value_by_its_name_alone() -> None:
    put("a/things.py", "import rate\nclass Thing:\n    @property\n    def n(self): return rate.N\n")
    put("a/rate.py", "N = 4\n")
    data = pickle.dumps(importlib.import_module(find_module("things", Path("a"))).Thing())
    program = f"import pickle; print(pickle.loads({data!r}).n)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "4\n"


# --- links ------------------------------------------------------------------------------------------------------------


def test_a_stage_module_that_is_a_link_is_found() -> None:
    put("shared/stages.py", STAGES.format(helper="helpers"))
    for folder, rate in (("a", 1), ("b", 2)):
        experiment(folder, "stages")
        put(f"{folder}/helpers.py", f"RATE = {rate}\n")
        Path(folder, "stages.py").symlink_to("../shared/stages.py")
    assert rates() == [1, 2, 1]


def test_a_folder_that_is_a_link_and_an_experiment_file_that_is_one() -> None:
    experiment("real", "stages")
    put("real/stages.py", STAGES.format(helper="helpers"))
    put("real/helpers.py", "RATE = 6\n")
    Path("linked").symlink_to("real")
    Path("one").mkdir()
    Path("one/e.yaml").symlink_to("../real/e.yaml")
    assert run("linked").metrics["rate"] == 6
    assert run("one").metrics["rate"] == 6
    put("one/stages.py", STAGES.format(helper="math").replace("math.RATE", "8"))
    assert run("one").metrics["rate"] == 8, "what is beside the link comes first"
