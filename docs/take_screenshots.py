"""Take the pictures that the README shows, from `make dev` running in another terminal.

    python docs/take_screenshots.py [URL]

Launches the digits experiment four times from the Launchpad, with another `C` each time, and writes docs/images.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
REPORTS = Path(__file__).parent.parent / "reports" / "digits"


def launch(page: Page, url: str, strength: float) -> str:
    config = f"ops:\n  train_svm:\n    config:\n      C: {strength}\n"
    page.goto(
        f"{url}/locations/crucible/jobs/digits/playground/setup?{urlencode({'mode': 'default', 'config': config})}"
    )
    page.get_by_role("button", name="Launch run").first.click()
    page.wait_for_url("**/runs/*")
    page.get_by_text("Finished execution of run").first.wait_for(timeout=120_000)
    return page.url.partition("?")[0]


def main(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"{url}/locations/crucible/jobs/digits/playground")
        page.get_by_text("All defaults expanded").wait_for()
        page.wait_for_timeout(3000)
        page.screenshot(path=IMAGES / "launchpad.png")
        run = [launch(page, url, strength) for strength in (0.02, 0.1, 10.0, 1.0)][-1]
        page.goto(f"{run}?logs=step%3Asplit")
        page.get_by_text("10 folds").wait_for()
        page.wait_for_timeout(3000)
        # Above the line that names a folder of this machine.
        page.screenshot(path=IMAGES / "run.png", clip={"x": 0, "y": 0, "width": 1400, "height": 712})
        page.goto(f"{url}/assets/crucible/digits")
        page.get_by_text("Latest materialization").first.wait_for()
        page.set_viewport_size({"width": 1400, "height": 1300})
        page.get_by_text("Plots").first.click()
        page.get_by_text("svm_accuracy").first.scroll_into_view_if_needed()
        page.wait_for_timeout(2000)
        page.screenshot(path=IMAGES / "plots.png")
        page.set_viewport_size({"width": 1100, "height": 760})
        page.goto(max(REPORTS.glob("*/*.html"), key=lambda path: path.stat().st_mtime).resolve().as_uri())
        page.screenshot(path=IMAGES / "report.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://localhost:3000")
