"""Dagster's UI as its user sees it: a real webserver, daemon and browser."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
from dagster import AssetKey, DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.scheduler.instigation import InstigatorStatus
from playwright.sync_api import FloatRect, Locator, Page, ViewportSize, expect, sync_playwright

from crucible_core import StageFailedError, load_experiment
from crucible_dagster import execute_experiment
from crucible_dagster.execution import LOCAL
from crucible_dagster.history.history import History
from crucible_dagster.store.io_manager import open_store

BIN = Path(sys.executable).parent
CHROMIUM = shutil.which("chromium")

SIZE: ViewportSize = {"width": 1500, "height": 1000}

expect.set_options(timeout=240_000)  # a run takes a minute on a machine that does much else

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium, which .ci/run installs"),
    pytest.mark.xdist_group("ui"),
]

STAGES = '''
import logging
import time
from pathlib import Path

from crucible_core import Context, Stage, progress
from pydantic import Field

GO = Path(__file__).with_name("go")


class Measure(Stage):
    """Measures two things."""

    shift: float = Field(default=1.0, ge=0)
    """How far apart the two things are."""
    seed: int = 0
    """Of the measuring."""
    watched: bool = False
    """Whether somebody watches, who says when it may end."""

    def run(self, ctx: Context) -> Context:
        logging.getLogger(__name__).info("the scale is calibrated")
        new = []
        for value in progress((1.1, 2.3, 2.9, 4.2, 6.4), description="measuring"):
            new.append(self.shift + value)
        ctx = ctx.decide("measured five times", "that is how often one can", alternatives=["six times"])
        end = time.monotonic() + 120
        while self.watched and not GO.exists():
            assert time.monotonic() < end, "nobody watches"
            ctx = ctx.put_metric("best", max(new))
            time.sleep(0.1)
        data = {"old": [1.0, 2.0, 3.0, 4.0, 6.0], "new": new}
        return ctx.assign(bench_data=data).put_metric("best", max(new)).put_metric("seed", self.seed)
'''

EXPERIMENT = """
id: small-one
description: A small experiment.
owner: team:lab
tags: [nightly]
deps: [crucible/prices]
seed: 3
pipeline:
  - name: measure
    module: ui_stages:Measure
    options: {shift: 2.5}
  - name: bench
    options: {paired: true}
  - name: report
variants:
  broken:
    measure: {shift: 0.5}
gates:
  - {name: high, metric: best, at_least: 7, blocking: true}
  - {name: below_ten, metric: best, below: 10}
  - name: no_worse
    no_regression: {group: new, margin: 0.5, paired: true}
  - name: unlike_broken
    no_regression: {group: new, margin: 0.5, paired: true, baseline: {variant: broken}}
outputs:
  - {name: small, formats: [html]}
schedule: {cron: "0 2 29 2 *"}
trigger: {on_update: any}
"""

BROKEN = """
id: broken
pipeline:
  - name: report
schedule: {cron: "@daily", timezone: Mars/Olympus}
"""

UPSTREAM = """
id: prices
pipeline:
  - name: report
"""


class Deployment:
    """A webserver and a daemon on a fresh instance, and what they show."""

    def __init__(self, url: str, home: Path, experiments: Path) -> None:
        self.url = url
        self.home = home
        self._experiments = experiments

    def let_go(self) -> None:
        """Let a stage that is watched come to its end."""
        (self._experiments / "go").touch()


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("ui")
    experiments = folder / "experiments"
    experiments.mkdir()
    (experiments / "ui_stages.py").write_text(STAGES)
    (experiments / "small.yaml").write_text(EXPERIMENT)
    (experiments / "prices.yaml").write_text(UPSTREAM)
    (experiments / "zone.yaml").write_text(BROKEN)
    home = folder / "home"
    home.mkdir()
    settings = (LOCAL / "dagster.yaml").read_text()
    assert "  class: QueuedRunCoordinator\n" in settings
    at_once = "  class: QueuedRunCoordinator\n  config: {dequeue_interval_seconds: 1}\n"
    (home / "dagster.yaml").write_text(settings.replace("  class: QueuedRunCoordinator\n", at_once))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "CRUCIBLE_EXPERIMENTS": str(experiments),
        "CRUCIBLE_OUTPUT_ROOT": str(folder / "reports"),
    }
    subprocess.run(
        [BIN / "dagster", "instance", "migrate"], env=environment, check=True, capture_output=True, timeout=120
    )
    with (folder / "dev.log").open("w") as log:
        server = subprocess.Popen(
            [BIN / "dagster", "dev", "-w", LOCAL / "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        with DagsterInstance.from_config(str(home)) as instance, pytest.MonkeyPatch.context() as patch:
            patch.setenv("CRUCIBLE_OUTPUT_ROOT", environment["CRUCIBLE_OUTPUT_ROOT"])
            execute_experiment(load_experiment(experiments / "small.yaml"), instance=instance)  # last night's run
        wait_for(url, server, folder / "dev.log")
        yield Deployment(url, home, experiments)
    finally:
        os.killpg(server.pid, signal.SIGINT)
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(timeout=30)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/server_info", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


# --- hostile texts --------------------------------------------------------------------------------------------------

HOSTILE_STAGES = '''
import json
import logging
from pathlib import Path

from crucible_core import Context, Stage

TEXTS = json.loads(Path(__file__).with_name("texts.json").read_text())


class Speak(Stage):
    """Puts hostile texts wherever a stage can put one."""

    fail: bool = False
    title: str = ""

    def run(self, ctx: Context) -> Context:
        for number, text in enumerate(TEXTS):
            logging.getLogger(__name__).warning("said %s %s", number, text)
            ctx = ctx.decide(text, text, alternatives=[text])
            ctx = ctx.put_metric(f"said {number} {text}", text).put_artifact(f"found {number} {text}", text)
            ctx = ctx.add_output({text: text}).put_metric(f"deep {number}", {text: [text]})
        if self.fail:
            raise RuntimeError("\\n".join(["the end", *TEXTS]))
        return ctx
'''


def hostile_texts(listener: str) -> list[str]:
    return [
        f"<script src={listener}/script></script>",
        f"<img src={listener}/img onerror=alert(1)>",
        f'"><svg onload="fetch(\'{listener}/svg\')"></svg>',
        f"<iframe src={listener}/frame></iframe>",
        f"<style>@import url({listener}/style)</style>",
        f"![picture]({listener}/markdown.png)",
        f"[link](javascript:fetch('{listener}/link'))",
        f"javascript:fetch('{listener}/javascript')",
        f"data:text/html,<script>fetch('{listener}/data')</script>",
        f"</title></style></textarea><script>fetch('{listener}/close')</script>",
        f"<a href=\"javascript:fetch('{listener}/anchor')\">press</a>",
        f"<base href={listener}/><link rel=stylesheet href={listener}/sheet>",
    ]


class Listener(http.server.BaseHTTPRequestHandler):
    """Remembers who asks it for anything."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Hostile(NamedTuple):
    """Runs whose texts are hostile."""

    texts: Sequence[str]
    report: Path
    failed: str
    """The id of the one that failed; the other succeeded, and wrote the report."""


@pytest.fixture(scope="module")
def hostile(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    texts = hostile_texts(f"http://127.0.0.1:{server.server_port}")
    everything = "\n".join(texts)
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "hostile_stages.py").write_text(HOSTILE_STAGES)
    (folder / "texts.json").write_text(json.dumps(texts))
    described = {
        "id": "hostile",
        "description": everything,
        "metadata": {"k": everything},
        "pipeline": [
            {"name": "speak", "module": "hostile_stages:Speak", "options": {"title": everything}},
            {"name": "report"},
        ],
        "outputs": [{"name": "said", "formats": ["html"], "options": {"title": texts[0]}}],
    }
    (folder / "hostile.json").write_text(json.dumps(described))
    told = load_experiment(folder / "hostile.json")
    with DagsterInstance.from_config(str(deployment.home)) as instance, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRUCIBLE_OUTPUT_ROOT", str(folder / "reports"))
        execute_experiment(told, instance=instance)
        with pytest.raises(StageFailedError) as failed:
            execute_experiment(told.with_options("speak", {"fail": True}), instance=instance)
    (report,) = folder.glob("reports/hostile/*/said.html")
    yield Hostile(texts, report, failed.value.context.run_id)
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def page(deployment: Deployment, hostile: Hostile) -> Iterator[Page]:  # both before playwright, whose loop runs on
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        opened = browser.new_page(viewport=SIZE)
        opened.set_default_timeout(240_000)
        yield opened
        browser.close()


def open_launchpad(page: Page, deployment: Deployment) -> None:
    page.goto(f"{deployment.url}/locations/crucible/jobs/small_one/playground")
    expect(page.get_by_text("All defaults expanded")).to_be_visible()


def write_config(page: Page, text: str, *, line: int = 0) -> None:
    """As typed into the Launchpad's editor, with the cursor on that line."""
    page.evaluate(
        """([text, line]) => {
            const editor = document.querySelector(".CodeMirror").CodeMirror;
            editor.setValue(text);
            editor.focus();
            editor.setCursor({line, ch: 12});
        }""",
        [text, line],
    )


def press_launch(page: Page) -> None:
    page.get_by_role("button", name="Launch run").first.click()


def launch(page: Page) -> str:
    expect(page.get_by_text("No errors")).to_be_visible()
    press_launch(page)
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}"))
    return page.url.rpartition("/")[2].partition("?")[0]


def wait_for_run(deployment: Deployment, run_id: str) -> DagsterRunStatus:
    with DagsterInstance.from_config(str(deployment.home)) as instance:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            run = instance.get_run_by_id(run_id)
            if run is not None and run.is_finished:
                return run.status
            time.sleep(0.5)
        told = [entry.message for entry in instance.all_logs(run_id)]
    raise AssertionError(f"run {run_id} did not finish: {told}")


def metrics_of(deployment: Deployment, run_id: str) -> Mapping[str, Any]:
    with DagsterInstance.from_config(str(deployment.home)) as instance:
        return open_store(instance).load(run_id, "report").metrics


def runs_of_the_experiment(deployment: Deployment) -> int:
    with DagsterInstance.from_config(str(deployment.home)) as instance:
        return instance.get_runs_count(RunsFilter(job_name="small_one"))


@pytest.fixture(scope="module")
def running(page: Page, deployment: Deployment) -> str:
    """A run that is launched from the Launchpad with a changed option, and goes on until somebody says otherwise."""
    open_launchpad(page, deployment)
    write_config(page, "ops: {measure: {config: {shift: 10.0, watched: true}}}")
    return launch(page)


@pytest.fixture(scope="module")
def finished(running: str, deployment: Deployment) -> str:
    deployment.let_go()
    assert wait_for_run(deployment, running) is DagsterRunStatus.SUCCESS
    return running


def test_the_launchpad_shows_options_and_settings_and_refuses_wrong_ones_on_screen(
    page: Page, deployment: Deployment
) -> None:
    open_launchpad(page, deployment)
    editor = page.locator(".CodeMirror").first
    for shown in ("measure:", "shift: 2.5", "paired: true", "log_level: INFO", "seed: 3", "tracing: true"):
        expect(editor).to_contain_text(shown)
    expect(page.get_by_text("No errors")).to_be_visible()

    write_config(page, "resources:\n  experiment:\n    config:\n      seed: 7\n", line=3)
    expect(page.get_by_text("The variant of the experiment file to run")).to_be_visible()
    expect(page.get_by_text("Of every stage that has an option `seed`")).to_be_visible()
    write_config(page, "ops:\n  measure:\n    config:\n      shift: 1.0\n", line=3)
    expect(page.get_by_text("How far apart the two things are. (at least 0)")).to_be_visible()

    write_config(
        page,
        "ops: {measure: {config: {shift: far, shfit: 1}}}\n"
        "resources: {experiment: {config: {variant: brokn, seed: x}}}",
    )
    expect(page.get_by_text('Received unexpected config entry "shfit"')).to_be_visible()
    expect(page.get_by_text('"far" of type "<class \'str\'>" is not valid for expected type "Float"')).to_be_visible()
    expect(page.get_by_text("experiment:config:variant not in enum type")).to_be_visible()
    expect(page.get_by_text('Value "x" of type')).to_be_visible()
    expect(page.get_by_role("button", name="Launch run").first).to_be_disabled()

    before = runs_of_the_experiment(deployment)
    write_config(page, "ops: {measure: {config: {shift: -1.0}}}")
    expect(page.get_by_text("No errors")).to_be_visible()
    press_launch(page)
    said = "stage 'measure', option shift: should be greater than or equal to 0 (given: -1.0)"
    expect(page.get_by_text(said)).to_be_visible()
    assert runs_of_the_experiment(deployment) == before


def test_a_running_stage_shows_its_log_lines_progress_decisions_and_metrics(
    page: Page, deployment: Deployment, running: str
) -> None:
    expect(page.get_by_text("ui_stages: the scale is calibrated")).to_be_visible()
    expect(page.get_by_text(re.compile(r"measuring: 5 of 5 \(100 %\)"))).to_be_visible()
    expect(page.get_by_text("measured five times", exact=True)).to_be_visible()
    expect(page.get_by_text("that is how often one can")).to_be_visible()
    expect(page.get_by_text("metrics so far: best = 16.4")).to_be_visible()
    expect(page.get_by_role("button", name="Terminate")).to_be_visible()  # which only a run that goes on has
    deployment.let_go()
    expect(page.get_by_text('Finished execution of run for "small_one".')).to_be_visible()
    assert wait_for_run(deployment, running) is DagsterRunStatus.SUCCESS
    assert metrics_of(deployment, running)["best"] == 16.4


def test_a_run_of_the_command_line_is_on_the_page_of_its_job(page: Page, deployment: Deployment) -> None:
    with DagsterInstance.from_config(str(deployment.home)) as instance:
        last_night = instance.get_runs(RunsFilter(job_name="small_one"))[-1].run_id
    page.goto(f"{deployment.url}/locations/crucible/jobs/small_one/runs")
    expect(page.get_by_role("link", name=last_night[:8])).to_be_visible()
    page.goto(f"{deployment.url}/overview/timeline")
    expect(page.get_by_role("link", name="small_one")).to_be_visible()


def test_a_broken_file_stands_beside_the_good_ones_and_says_what_is_wrong(page: Page, deployment: Deployment) -> None:
    page.goto(f"{deployment.url}/jobs")
    for shown in ("small_one", "prices", "broken_zone"):
        expect(page.locator(f"a[href='/locations/crucible/jobs/{shown}']")).to_be_visible()
    page.goto(f"{deployment.url}/locations/crucible/jobs/broken_zone")
    expect(page.get_by_text("This file cannot be loaded")).to_be_visible()
    expect(page.get_by_text("'Mars/Olympus' is not an IANA time zone").first).to_be_visible()


def test_the_asset_shows_the_result_its_report_with_pictures_plots_and_decisions(
    page: Page, deployment: Deployment, finished: str
) -> None:
    page.goto(f"{deployment.url}/assets/crucible/small_one")
    expect(page.get_by_text(re.compile("old is lower than new by")).first).to_be_visible()
    for shown in ("lab", "nightly"):
        expect(page.get_by_text(shown, exact=True)).to_be_visible()
    for shown in ("experiment small-one", "stage measure", "prices"):  # the last one upstream
        expect(page.get_by_role("link", name=shown).first).to_be_visible()
    expect(page.get_by_text(re.compile(f"reports/small-one/{finished}/small.html"))).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="measure").filter(has_text="succeeded").last).to_be_visible()
    page.set_viewport_size({"width": 1440, "height": 1000})
    cut_off = """[...document.querySelectorAll('td')].filter(one => one.scrollWidth > one.clientWidth + 1
        || one.getBoundingClientRect().right > one.closest('table').parentElement.getBoundingClientRect().right + 1)
        .map(one => one.innerText.slice(0, 60))"""
    assert page.evaluate(cut_off) == []
    assert "Invalid Date" not in page.inner_text("body")
    page.set_viewport_size(SIZE)

    page.get_by_text("Show Markdown").first.click()
    report = page.get_by_role("dialog")
    for heading in ("Gates", "The last runs", "Comparison", "Decisions"):
        expect(report.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    expect(report.get_by_text("measured five times")).to_be_visible()
    pictures = report.locator("img")
    expect(pictures.first).to_be_visible()
    described = pictures.evaluate_all(
        "all => Promise.all(all.map(one => one.decode().then(() => [one.alt, one.naturalWidth, one.width])))"
    )
    assert [alt.split(" ")[0] for alt, _, _ in described] == ["best,", "Forest", "Values", "value"]
    assert all(natural >= shown >= 600 for _, natural, shown in described), described
    report.get_by_text("Close").click()

    page.get_by_text("Plots", exact=True).click()
    for plotted in ("best", "seed", "bench.paired_ttest.estimate"):
        expect(page.get_by_text(plotted, exact=True)).to_be_visible()
    expect(page.locator("canvas").nth(6)).to_be_visible()

    page.goto(f"{deployment.url}/assets/crucible/small_one/decisions?view=events")
    decided = page.get_by_text("measure decided: measured five times")
    expect(page.get_by_text("Observed in run").first).to_be_visible()
    for event in page.locator("[data-index]").all():
        event.click()
        if decided.count():
            break
    expect(decided).to_be_visible()
    expect(page.get_by_text("that is how often one can")).to_be_visible()


def test_the_report_of_a_run_fits_a_phone(page: Page, deployment: Deployment, finished: str) -> None:
    (report,) = deployment.home.parent.glob(f"reports/small-one/{finished}/small.html")
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for shown in ("Gates", "Comparison", "best is 16.4, at least 7"):
        expect(page.get_by_text(shown, exact=True).first).to_be_visible()
    drawn = page.locator("svg:visible")
    assert drawn.count() >= 2
    assert all(box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes_of(drawn))
    page.set_viewport_size(SIZE)


def boxes_of(found: Locator) -> list[FloatRect | None]:
    return [one.bounding_box() for one in found.all()]


def test_checks_show_their_numbers_and_judge_again_without_running_the_experiment(
    page: Page, deployment: Deployment, finished: str
) -> None:
    before = runs_of_the_experiment(deployment)
    page.goto(f"{deployment.url}/assets/crucible/small_one?view=checks&checkDetail=high")
    expect(page.get_by_text("best is 16.4, at least 7").first).to_be_visible()
    expect(page.get_by_text("blocking", exact=True)).to_be_visible()
    page.locator("button", has_text=re.compile("^Execute$")).click()

    shown = page.locator("table")
    page.get_by_text("below_ten", exact=True).first.click()
    expect(page.get_by_text("best is 16.4, not below 10").first).to_be_visible()
    expect(shown.get_by_role("row").filter(has_text="value").filter(has_text="16.4").first).to_be_visible()
    page.get_by_text("no_worse", exact=True).first.click()
    expect(shown.get_by_role("row").filter(has_text="estimate").filter(has_text="7.5").first).to_be_visible()
    expect(shown.get_by_role("row").filter(has_text="margin").filter(has_text="0.5").first).to_be_visible()
    page.get_by_text("unlike_broken", exact=True).first.click()
    expect(page.get_by_text("no run of variant 'broken' has succeeded").first).to_be_visible()
    expect(shown.get_by_role("row").filter(has_text="status").filter(has_text="undecided")).to_be_visible()

    page.get_by_text("high", exact=True).first.click()
    expect(page.get_by_text(f"run {finished}: best is 16.4, at least 7").first).to_be_visible()
    expect(page.locator("canvas").first).to_be_visible()
    assert runs_of_the_experiment(deployment) == before


def test_a_variant_is_run_with_its_options_and_a_blocking_gate_fails_the_run(
    page: Page, deployment: Deployment, finished: str
) -> None:
    open_launchpad(page, deployment)
    write_config(page, "resources: {experiment: {config: {variant: broken, seed: 11}}}")
    run_id = launch(page)
    expect(page.get_by_text("gate high failed: best is 6.9, not at least 7")).to_be_visible()
    expect(page.get_by_text(re.compile('Execution of run for "small_one" failed'))).to_be_visible()
    assert wait_for_run(deployment, run_id) is DagsterRunStatus.FAILURE
    metrics = metrics_of(deployment, run_id)
    assert (metrics["best"], metrics["seed"]) == (6.9, 11)


def test_schedule_and_trigger_are_switched_on_in_the_ui(page: Page, deployment: Deployment) -> None:
    expected, running = {"small_one_schedule", "small_one_trigger"}, set[str]()
    for _ in range(3):  # SQLite refuses a writer that has waited for long: then whoever clicked tries again
        page.goto(f"{deployment.url}/automation")
        switches = page.locator("label[class*=formatSwitch]")
        expect(switches).to_have_count(2)
        for switch in switches.all():
            expect(switch.get_by_role("checkbox")).to_be_enabled()
            if not switch.get_by_role("checkbox").is_checked():
                switch.click()
            expect(switch.get_by_role("checkbox")).to_be_checked()
        deadline = time.monotonic() + 30  # the switch turns before the server has answered
        while running != expected and time.monotonic() < deadline:
            time.sleep(0.5)  # who reads without a pause keeps SQLite's lock from the server, which has to write
            with DagsterInstance.from_config(str(deployment.home)) as instance:
                states = instance.all_instigator_state(instigator_statuses={InstigatorStatus.RUNNING})
                running = {state.name for state in states}
        if running == expected:
            break
    assert running == expected


def test_the_asset_is_materialized_from_its_own_page(page: Page, deployment: Deployment, finished: str) -> None:
    page.goto(f"{deployment.url}/assets/crucible/small_one")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Confirm").click()  # what it depends on was never materialized
    page.get_by_text("View", exact=True).click()  # of the message that it was launched
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}"))
    run_id = page.url.rpartition("/")[2].partition("?")[0]
    assert wait_for_run(deployment, run_id) is DagsterRunStatus.SUCCESS
    with DagsterInstance.from_config(str(deployment.home)) as instance:
        history = History(instance)
        assert history.context(run_id).metrics["best"] == 8.9
        assert next(iter(history.runs("small-one"))).run_id == run_id
        made = instance.fetch_materializations(AssetKey(["crucible", "small_one"]), limit=5).records
    assert [one.run_id for one in made].count(run_id) == 1


@pytest.mark.fault("S7", "a live link in metadata")
def test_hostile_texts_are_shown_and_do_nothing_in_the_ui_and_in_reports(
    page: Page, deployment: Deployment, hostile: Hostile
) -> None:
    asked: list[str] = []
    dialogs: list[str] = []
    listening: dict[str, Callable[[Any], None]] = {
        "request": lambda one: asked.append(one.url),
        "dialog": lambda one: (dialogs.append(one.message), one.dismiss()),
    }
    said = hostile.texts[1]
    for event, hears in listening.items():
        page.on(event, hears)  # type: ignore[call-overload]
    try:
        page.goto(hostile.report.as_uri())
        expect(page.get_by_text(said).first).to_be_visible()
        inert(page)
        page.goto(f"{deployment.url}/assets/crucible/hostile?view=events")
        page.locator("[data-index]").first.click()
        expect(page.get_by_text(said).first).to_be_visible()
        inert(page)
        page.get_by_text("Show Markdown").first.click()
        expect(page.get_by_role("dialog").get_by_role("heading", name="Decisions", exact=True)).to_be_visible()
        inert(page)
        page.goto(f"{deployment.url}/assets/crucible/hostile/decisions?view=events")
        page.locator("[data-index]").first.click()
        expect(page.get_by_text("Observed in run").first).to_be_visible()
        inert(page)
        page.goto(f"{deployment.url}/runs/{hostile.failed}")
        expect(page.get_by_text("the end").first).to_be_visible()
        inert(page)
    finally:
        for event, hears in listening.items():
            page.remove_listener(event, hears)
    assert Listener.asked == []
    assert dialogs == []
    # Not even asked for and refused: everything that a page asked for is its own.
    own = (deployment.url, "file://", "data:image/", "blob:")
    assert [one for one in asked if not one.startswith(own)] == []
    assert any(one.startswith(deployment.url) for one in asked)


def inert(page: Page) -> None:
    """No link of the page, and nothing else in it, is a script that a text has brought."""
    found = page.evaluate(
        """() => [...document.querySelectorAll('*')].flatMap(one => [...one.attributes]
            .filter(each => /^on/i.test(each.name) || /^\\s*(javascript|data:text)/i.test(each.value)
                && /^(href|src|action|formaction|xlink:href|data)$/i.test(each.name))
            .map(each => `${one.tagName} ${each.name}=${each.value}`.slice(0, 200)))"""
    )
    assert found == []
    assert page.locator("script", has_text="fetch('http://127").count() == 0
