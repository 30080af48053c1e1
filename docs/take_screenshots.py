"""Take the pictures that the README and the docs show, from `make dev` running in another terminal on a new instance.

    python docs/take_screenshots.py [URL]

Launches the digits experiment five times from the Launchpad, with another `C` each time, the last one worse than the
one before it, switches its schedule on and off again, and writes docs/images.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

IMAGES = Path(__file__).parent / "images"
REPORTS = Path(__file__).parent.parent / "reports" / "digits"
WIDTH = 1480

expect.set_options(timeout=120_000)


def write_config(page: Page, text: str, line: int) -> None:
    page.evaluate(
        """([text, line]) => {
            const editor = document.querySelector(".CodeMirror").CodeMirror;
            editor.setValue(text);
            editor.focus();
            editor.setCursor({line, ch: 12});
        }""",
        [text, line],
    )


def open_launchpad(page: Page, url: str) -> None:
    page.goto(f"{url}/locations/crucible/jobs/digits/playground")
    expect(page.get_by_text("All defaults expanded")).to_be_visible()


def launch(page: Page, url: str, strength: float) -> str:
    open_launchpad(page, url)
    write_config(page, f"ops:\n  train_svm:\n    config:\n      C: {strength}\n", 3)
    expect(page.get_by_text("No errors")).to_be_visible()
    page.get_by_role("button", name="Launch run").first.click()
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}"))
    expect(page.get_by_text("Finished execution of run").first).to_be_visible()
    return page.url.partition("?")[0]


def save(page: Page, name: str, *, height: int = 900) -> None:
    page.wait_for_timeout(2_000)  # drawings move into place
    page.screenshot(path=IMAGES / f"{name}.png", clip={"x": 0, "y": 0, "width": WIDTH, "height": height})


def take_launchpad(page: Page, url: str) -> None:
    open_launchpad(page, url)
    config = (
        "ops:\n  train_svm:\n    config:\n      C: 10.0\nresources:\n  experiment:\n    config:\n"
        "      variant: quick\n      seed: 7\n      log_level: INFO\n"
    )
    write_config(page, config, 8)
    expect(page.get_by_text("The variant of the experiment file to run")).to_be_visible()
    save(page, "launchpad")


def take_run(page: Page, run: str) -> None:
    page.goto(f"{run}?logs=type%3AASSET_OBSERVATION")
    expect(page.get_by_text("separate tests for each question")).to_be_visible()
    page.mouse.move(WIDTH / 2, 700)
    page.mouse.wheel(0, -5_000)  # the log shows its end
    expect(page.get_by_text("10 folds")).to_be_visible()
    page.mouse.move(0, 0)
    save(page, "run")


def take_asset(page: Page, url: str) -> None:
    page.set_viewport_size({"width": WIDTH, "height": 1300})
    page.goto(f"{url}/assets/crucible/digits")
    page.get_by_text("Show Markdown").first.click()
    report = page.get_by_role("dialog")
    expect(report.locator("img").nth(2)).to_be_visible()
    report.get_by_role("heading", name="Gates").evaluate("shown => shown.scrollIntoView()")
    save(page, "asset-report", height=1300)
    report.get_by_text("Close").click()
    page.set_viewport_size({"width": WIDTH, "height": 1100})
    page.get_by_text("Plots", exact=True).click()
    expect(page.locator("canvas").nth(3)).to_be_visible()
    page.get_by_text("bench.svm.mean", exact=True).evaluate("shown => shown.scrollIntoView()")
    save(page, "plots", height=1100)


def take_check(page: Page, url: str) -> None:
    page.set_viewport_size({"width": WIDTH, "height": 1250})
    page.goto(f"{url}/assets/crucible/digits?view=checks&checkDetail=no_worse")
    expect(page.locator("canvas").nth(3)).to_be_visible()
    save(page, "check", height=1250)


def take_schedule(page: Page, url: str) -> None:
    page.set_viewport_size({"width": WIDTH, "height": 700})
    page.goto(f"{url}/locations/crucible/schedules/digits_schedule")
    switch = page.locator("label[class*=formatSwitch]").first
    expect(switch.get_by_role("checkbox")).to_be_enabled()
    switch.click()
    expect(switch.get_by_role("checkbox")).to_be_checked()
    save(page, "schedule", height=430)
    switch.click()
    expect(switch.get_by_role("checkbox")).not_to_be_checked()


def take_report(page: Page) -> None:
    page.set_viewport_size({"width": 1300, "height": 1220})
    page.goto(max(REPORTS.glob("*/*.html"), key=lambda path: path.stat().st_mtime).resolve().as_uri())
    page.screenshot(path=IMAGES / "report.png")


def main(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        take_launchpad(page, url)
        run = [launch(page, url, strength) for strength in (0.1, 0.3, 10.0, 1.0)][-1]
        take_run(page, run)
        take_asset(page, url)
        take_report(page)
        launch(page, url, 0.2)
        take_check(page, url)
        take_schedule(page, url)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://localhost:3000")
