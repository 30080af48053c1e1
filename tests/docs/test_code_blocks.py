"""Every code block of every page is run, or checked as far as it can be: what the pages show is what happens."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from page_blocks import BLOCKS, PAGES, ROOT, Block, blocks_of, commands_of, lines_of, words_of, written
from ruamel.yaml import YAML

from crucible_core import Experiment, Registry, Stage, builtin_registry, load_experiment, plan_experiment

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.xdist_group("code_blocks")  # one folder, one scaffolded project and one story for them all

# --- what the pages take for granted -------------------------------------------------------------------------------

GIVEN = {
    "docs/add-to-a-project.md": """
        from crucible_core import Context, stage

        sys.path.insert(0, str(Path("src").resolve()))
    """,
    "docs/experiment-file.md": """
        from crucible_core import Context, stage
        from pydantic import BaseModel

        class Optimizer(BaseModel):
            kind: str
            rate: float

        @stage
        def train(ctx: Context, *, epochs: int, optimizer: Optimizer) -> Context:
            return ctx
    """,
    "docs/observability.md": """
        from crucible_core import Experiment, run_experiment

        earlier = run_experiment(Experiment.model_validate({"id": "earlier", "pipeline": [{"name": "validate"}]}))
    """,
    "docs/trials.md": """
        from crucible_core import Context, stage

        @stage
        def toss(
            ctx: Context, *, coins: list[str], tosses: int = 200, bias: float = 0.5, seed: int = 0
        ) -> Context:
            return ctx
    """,
    "docs/stages.md": """
        batches, size, chunk = ["a batch"], 1, b"1"
    """,
}
"""What a page's reader has before its first block: Python that is executed in the page's folder."""

MINIMAL = {"id": "of-a-page", "pipeline": [{"name": "validate"}, {"name": "bench"}]}
"""What a page's fragment of an experiment is a fragment of."""

PRINTED = {"README.md": r"(?:(?:svm|logistic) (?:logistic|ridge) 0\.\d+ \[-?0\.\d+, 0\.\d+\]\n){3}"}
"""What the Python of a page prints."""

# --- what is not run -----------------------------------------------------------------------------------------------

NOT_RUN = {
    "make": "the targets are what runs these tests, or servers",
    "pip": "installs from an index",
    "python": "the benchmarks take minutes",
    "docker": "there is no docker where the tests run; dagster/test_deploy.py starts what compose would",
    "dagster": "starts servers, or makes the tables that every test with a Dagster home has",
    "dagster-celery": "dagster/test_engines.py starts workers with these options",
    "dg": "takes seconds each time; dagster/test_dg.py runs these once, and holds what they say against the page",
    "export": "the tests have a Dagster home of their own",
    "mkdir": "the same",
    "touch": "the same",
    "cp": "the file is there, which is what can go wrong",
}
"""Programs whose commands are held against what exists, and not run: why."""

NOT_RUN_HERE = {
    ("docs/observability.md", "$ OTEL_EXPORTER_OTLP_ENDPOINT="): "traces the whole process; see dagster/test_otel.py",
    ("docs/other-tools.md", "$ CRUCIBLE_OBSERVERS="): "logs to MLflow; see adapters/test_mlflow.py",
    ("docs/operations.md", "$ crucible restore"): "loses the runs of the story; see dagster/test_backup.py",
    (
        "docs/schedules.md",
        "$ crucible ticks experiments/nightly.yaml",
    ): "wants days of ticks; see dagster/test_schedules.py",
}
"""Blocks with commands of `crucible` that are not run, by page and beginning: why."""

# --- where the blocks are run ----------------------------------------------------------------------------------------


def each(blocks: Iterable[Block]) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in blocks]


FILES = {
    "experiments/mine.yaml": "id: mine\npipeline: [{name: validate}]\n",
    "nightly/of_a_component.yaml": "id: nightly\npipeline: [{name: validate}]\n",
    "pyproject.toml": '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "my_project"\n',
    "src/my_project/__init__.py": "",
    "src/my_project/assets.py": "from dagster import asset\n\n\n@asset\ndef prices() -> None: ...\n",
    "src/my_project/defs/__init__.py": "",
}
STAGES = {"coin_stages", "digits_stages", "retrieval_stages", "stages_fair_coin"}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a reader stands: a project with the examples. One for all, as stages are imported by name, once."""
    before = {name: sys.modules.pop(name) for name in STAGES & sys.modules.keys()}
    made = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "examples", made / "examples")
    for name, text in FILES.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    yield made
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(made)):
            del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture(autouse=True)
def there(folder: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def given(page: str) -> dict[str, Any]:
    """Writes the files that the page defines; the names that it takes for granted."""
    for block in BLOCKS:
        if block.page == page and block.file:
            Path(block.file).write_text(block.text)
    namespace: dict[str, Any] = {"__name__": "page", "__file__": str(Path("page.py").resolve())}
    execute(f"import sys\nfrom pathlib import Path\n{textwrap.dedent(GIVEN.get(page, ''))}", "given.py", namespace)
    return namespace


def execute(text: str, file: str, namespace: dict[str, Any]) -> None:
    """As a file, so that the source can be looked up: descriptions of options are strings in it."""
    Path(file).write_text(text)
    exec(compile(text, Path(file).resolve(), "exec"), namespace)


# --- all blocks ----------------------------------------------------------------------------------------------------


def test_every_block_is_of_a_language_that_is_checked() -> None:
    checked = {"python", "yaml", "json", "toml", "dockerfile", "console", "bash", "text"}
    assert [f"{block} [{block.language}]" for block in BLOCKS if block.language not in checked] == []


def test_no_block_is_missed() -> None:
    fences = {page: re.findall(r"^\s*(?:```|~~~)", page.read_text(), re.MULTILINE) for page in PAGES}
    assert {page: len(found) for page, found in fences.items() if found} == {
        page: 2 * len(blocks_of(page)) for page, found in fences.items() if found
    }


def test_every_block_of_commands_has_some() -> None:
    assert [str(block) for block in written("console", "bash") if not list(commands_of(block))] == []


def test_every_reason_for_not_running_something_is_about_what_is_there() -> None:
    for page, beginning in NOT_RUN_HERE:
        assert [block for block in BLOCKS if block.page == page and block.text.startswith(beginning)], beginning
    assert NOT_RUN.keys() <= {words[0] for block in BLOCKS for _, words in commands_of(block)}
    assert GIVEN.keys() | PRINTED.keys() <= {block.page for block in BLOCKS}


# --- Python --------------------------------------------------------------------------------------------------------

PROGRAMS = {
    block.page: [other for other in written("python") if other.page == block.page] for block in written("python")
}
SLOW = re.compile(r"crucible_dagster|examples/|opentelemetry|mlflow")


def programs() -> Iterator[Any]:
    for page, found in PROGRAMS.items():
        slow = any(SLOW.search(block.text) for block in found)
        yield pytest.param(page, id=page, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("page", programs())
def test_the_python_of_a_page_runs(
    page: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    if any("History" in block.text for block in PROGRAMS[page]):
        request.getfixturevalue("story")
    namespace = given(page)
    for block in PROGRAMS[page]:
        execute(block.text, f"line_{block.line}.py", namespace)
    assert re.search(PRINTED.get(page, ""), capsys.readouterr().out)
    if "defs" in namespace:
        importlib.import_module("dagster").Definitions.validate_loadable(namespace["defs"])


# --- YAML and other data ---------------------------------------------------------------------------------------------


def kind_of(block: Block) -> str:
    match YAML(typ="safe").load(block.text):
        case {"type": _, "attributes": _}:
            return "component"
        case {"pipeline": _}:
            return "experiment"
        case {"ops": _} | {"resources": _} | {"execution": {"config": _}}:
            return "run config"
        case [{"name": _}, *_]:
            return "stages"
        case {"no_regression": _}:
            return "gate"
        case {**fields} if fields.keys() <= Experiment.model_fields.keys():
            return "experiment"
        case _:
            return "nothing that this test knows"


def yaml_blocks(*kinds: str) -> list[Any]:
    return each(block for block in written("yaml") if kind_of(block) in kinds)


def test_every_yaml_block_is_of_a_kind_that_is_checked() -> None:
    assert [str(block) for block in written("yaml") if kind_of(block) == "nothing that this test knows"] == []


@pytest.mark.parametrize("block", yaml_blocks("experiment", "stages", "gate"))
def test_an_experiment_of_a_page_can_be_planned(block: Block) -> None:
    namespace = given(block.page)
    text = {
        "experiment": block.text,
        "stages": f"pipeline:\n{textwrap.indent(block.text, '  ')}",
        "gate": f"gates:\n  - name: of-a-page\n{textwrap.indent(block.text, '    ')}",
    }[kind_of(block)]
    said = YAML(typ="safe").load(text)
    # Beside the stages that most pages speak of, unless the page has some of its own.
    file = Path("of_a_page.yaml" if block.file else "examples/digits/of_a_page.yaml")
    file.write_text("".join(f"{key}: {json.dumps(MINIMAL[key])}\n" for key in MINIMAL.keys() - said.keys()) + text)
    stages = {name: it for name, it in namespace.items() if isinstance(it, type) and issubclass(it, Stage)}
    assert plan_experiment(load_experiment(file), builtin_registry() | Registry(stages))


@pytest.mark.slow
@pytest.mark.parametrize("block", yaml_blocks("run config"))
def test_a_run_config_of_a_page_is_valid(block: Block) -> None:
    from dagster import validate_run_config

    from crucible_dagster import build_definitions

    file = Path("examples/digits/small.yaml")
    config = YAML(typ="safe").load(block.text)
    (executor, *_) = (config.get("execution") or {}).get("config") or ["in_process"]
    # The variant that the pages speak of, with the executor that the config is of.
    described = Path("examples/digits/digits.yaml").read_text().replace("quick:", "small:")
    file.write_text(f"{described}\nexecution: {{executor: {executor}}}\n")
    of_asset = "crucible_run" in (config.get("resources") or {})
    made = build_definitions(file, strict=True)
    job = made.resolve_implicit_global_asset_job_def() if of_asset else made.resolve_job_def("digits")
    assert validate_run_config(job, config)


@pytest.fixture(scope="module")
def scaffolded(folder: Path) -> Mapping[Path, str]:
    """The files that `dg` wrote for the command of docs/add-to-a-project.md, with their texts."""
    commands = [words for block in BLOCKS for _, words in commands_of(block)]
    (command,) = [words for words in commands if words[:3] == ["dg", "scaffold", "defs"]]
    environment = {"HOME": str(folder), "PATH": "", "PYTHONPATH": f"{folder / 'src'}:{ROOT}", "NO_COLOR": "1"}
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {file: file.read_text() for file in (folder / "src/my_project/defs" / command[-1]).iterdir()}


@pytest.mark.slow
def test_what_a_page_says_that_dg_writes_is_what_it_writes(scaffolded: Mapping[Path, str]) -> None:
    texts = {file.suffix: text for file, text in scaffolded.items()}
    guide = [block for block in BLOCKS if block.page == "docs/add-to-a-project.md"]
    reader = YAML(typ="safe")
    assert reader.load(texts[".yaml"]) in [reader.load(block.text) for block in guide if block.language == "yaml"]
    excerpts = [block.text for block in guide if block.text.startswith("@stage")]
    assert excerpts
    assert [text for text in excerpts if text not in texts[".py"]] == []


@pytest.mark.slow
def test_a_folder_that_was_copied_is_refused_as_a_page_shows(scaffolded: Mapping[Path, str]) -> None:
    from dagster import load_from_defs_folder

    (block,) = [block for block in written("console") if "is taken by experiment" in block.text]
    ((_, shown),) = lines_of(block)
    for file, text in scaffolded.items():
        copy = file.parents[1] / "again" / file.name.replace("fair_coin", "again")
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(text.replace("id: fair_coin", "id: fair-coin").replace("stages_fair_coin", "stages_again"))
        file.write_text(text)
    sys.path.insert(0, str(Path("src").resolve()))
    with pytest.raises(Exception, match="Error while building definitions for again") as caught:
        load_from_defs_folder(path_within_project=file.parent)
    shutil.rmtree(copy.parent)
    assert not_said(shown, "".join(traceback.format_exception(caught.value))) is None


@pytest.mark.slow
@pytest.mark.parametrize("block", yaml_blocks("component"))
def test_a_component_of_a_page_is_loaded_into_a_project(block: Block, scaffolded: Mapping[Path, str]) -> None:
    from dagster import load_from_defs_folder

    (file,) = [file for file in scaffolded if file.suffix == ".yaml"]
    file.write_text(block.text)
    for name in ("experiments", "nightly"):
        shutil.copytree(name, file.parent / name, dirs_exist_ok=True)
    sys.path.insert(0, str(Path("src").resolve()))
    jobs = load_from_defs_folder(path_within_project=file.parent).resolve_all_job_defs()
    assert [job.name for job in jobs if not job.name.startswith("__")]


def test_data_of_the_pages_can_be_read() -> None:
    for language, read in {"json": json.loads, "toml": tomllib.loads}.items():
        for block in written(language):
            assert read(block.text), block


def test_the_images_of_the_pages_are_made_as_the_one_that_they_are_made_from() -> None:
    ours = (ROOT / "deploy" / "Dockerfile").read_text()
    for block in written("dockerfile"):
        instructions = re.findall(r"^[A-Z]+", block.text, re.MULTILINE)
        assert instructions[0] == "FROM", block
        assert [one for one in instructions if not re.search(rf"^{one} ", ours, re.MULTILINE)] == [], block
        # The programs of the image that ours starts from are not named in it.
        paths = [path for path in re.findall(r"(?<!\S)/\S+", block.text) if not path.startswith("/usr/local/bin/")]
        assert [path for path in paths if path not in ours] == [], block


# --- commands --------------------------------------------------------------------------------------------------------


def click_program(name: str) -> click.Command:
    if name == "crucible":
        (script,) = entry_points(group="console_scripts", name=name)
        return script.load()
    modules = {
        "dagster": "dagster._cli:cli",
        "dagster-celery": "dagster_celery.cli:main",
        "dg": "dagster_dg_cli.cli:cli",
    }
    module, _, found = modules[name].partition(":")
    return getattr(importlib.import_module(module), found)


def understood(words: list[str]) -> None:
    """Raises a click.UsageError unless the command, its options and its arguments are there."""
    command, rest, parent = click_program(words[0]), words[1:], None
    while True:
        if not isinstance(command, click.Group):
            parent = command.make_context(command.name, list(rest), parent)
            if not isinstance(parent.command, click.Group):
                return
            command = parent.command  # it was loaded only now
        parent = parent or click.Context(command, info_name=words[0])
        assert rest, f"{words}: a group of commands"
        found = command.get_command(parent, rest[0])
        assert found, f"{' '.join(words)}: there is no {rest[0]}"
        command, rest = found, rest[1:]


def exists(words: list[str], page: Path) -> None:
    """Fails unless all that the command names is there."""
    match words:
        case ["dg", "scaffold", "defs", *_]:
            pass  # it is run for the fixture `scaffolded`
        case ["crucible" | "dagster" | "dagster-celery" | "dg", *_]:
            understood(words)
        case ["make", *targets]:
            makefile = (ROOT / "Makefile").read_text()
            assert [one for one in targets if not re.search(rf"^{one}:.*## ", makefile, re.MULTILINE)] == []
        case ["pip", "install", *packages]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            named = re.findall(r"\[(.*?)\]", " ".join(packages))
            assert named, f"{words}: of which package?"
            assert {extra for names in named for extra in names.split(",")} <= extras.keys()
        case ["python", script, *_]:
            assert (ROOT / script).exists()
        case ["cp", source, _]:
            assert (page.parent / source).exists()
        case ["docker", "compose", _, *rest]:
            services = YAML(typ="safe").load(ROOT / "deploy" / "compose.yaml")["services"]
            named = [word for word in rest if not word.startswith("-")]
            assert set(named[:1] if "exec" in words else named) <= services.keys()
        case _:
            assert words[0] in NOT_RUN, f"{words}: no test knows this program"


@pytest.mark.slow
@pytest.mark.parametrize("block", each(block for block in BLOCKS if list(commands_of(block))))
def test_the_commands_of_a_block_exist(block: Block) -> None:
    for _, words in commands_of(block):
        exists(words, ROOT / block.page)


# --- what `crucible` says --------------------------------------------------------------------------------------------

RUNS = {
    "78ff11ac": "crucible run examples/digits/digits.yaml --dagster",
    "ece5c651": "CRUCIBLE_OUTPUT_ROOT=/proc/reports crucible run examples/digits/digits.yaml --dagster",
    "aabdb9bb": "crucible resume ece5c651",
    "1df3d745": "crucible run examples/digits/digits.yaml --dagster --set train_svm.C=10",
}
"""The one story that the pages tell: its runs, by the ids that they have there, and what made them."""

HEX = re.compile(r"[0-9a-f]{4,}")


@dataclass
class Story:
    ids: dict[str, str] = field(default_factory=dict)
    said: dict[str, tuple[int, str]] = field(default_factory=dict)

    def id_of(self, shown: str) -> str:
        """The real run that is meant; of ids that have no story, the newest."""
        return next((real for told, real in self.ids.items() if told.startswith(shown)), list(self.ids.values())[-1])

    def run(self, line: str, *, again: bool = False) -> tuple[int, str]:
        """The exit code of a line's command and what it said: the first time, unless it is to be run again."""
        ((settings, words),) = words_of(line)
        line = f"{settings} {words}"
        if again or line not in self.said:
            words = [self.id_of(word) if HEX.fullmatch(word) else word for word in words]
            done = CliRunner().invoke(click_program("crucible"), words[1:], env=settings)
            assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
            self.said[line] = done.exit_code, done.output
        return self.said[line]


@pytest.fixture(scope="module")
def story(folder: Path) -> Story:
    """The runs of the pages, on an embedded Dagster instance."""
    from crucible_dagster import History, open_instance

    told = Story()
    with contextlib.chdir(folder):
        for shown, line in RUNS.items():
            told.run(line)
            with open_instance() as instance:
                told.ids[shown] = History(instance).runs("digits", limit=1)[0].run_id
    assert len({*told.ids.values()}) == len(RUNS)
    return told


def loosely(text: str) -> str:
    """Without what differs from run to run and from machine to machine: ids, numbers, times, users, widths."""
    text = re.sub(r"\b[0-9a-f]{8}(?:(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{4})?\b", "ID", text)
    text = re.sub(r"\d+(?:[.,]\d+)*(?:e[-+]?\d+)?", "0", text)
    text = re.sub(r"(?:< )?0 m?s\b", "0 s", text)
    return " ".join(re.sub(r"\bby \w+$|\bby \w+(?=  )", "by someone", text, flags=re.MULTILINE).split())


def not_said(shown: str, said: str) -> str | None:
    """The first piece of what is shown that was not said after those before it: lines end a piece, and so does `…`."""
    said, position = loosely(said), 0
    for piece in map(loosely, re.split(r"[…\n]", shown)):
        found = said.find(piece, position)
        if found < 0:
            return piece
        position = found + len(piece)
    return None


def is_told(block: Block) -> bool:
    ours = any(words[0] == "crucible" for _, words in commands_of(block))
    return ours and not any(block.page == page and block.text.startswith(start) for page, start in NOT_RUN_HERE)


@pytest.mark.slow
@pytest.mark.parametrize("block", each(filter(is_told, BLOCKS)))
def test_what_is_shown_of_a_command_is_what_it_says(block: Block, story: Story) -> None:
    ours = [
        (line, shown) for line, shown in lines_of(block) if any(words[0] == "crucible" for _, words in words_of(line))
    ]
    for place, (line, shown) in enumerate(ours):
        code, said = story.run(line, again=line in [earlier for earlier, _ in ours[:place]])
        assert (code != 0) == ("error: " in shown), said
        assert not_said(shown, said) is None, said
