"""What the README shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from crucible_core import load_experiment

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
CRUCIBLE = str(Path(sys.executable).with_name("crucible"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def block(language: str, containing: str) -> str:
    (found,) = [one for one in blocks(language) if containing in one]
    return found


def crucible(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CRUCIBLE, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_the_first_stage_takes_less_than_thirty_lines_and_runs(tmp_path: Path) -> None:
    code = block("python", "def toss")
    assert len(code.splitlines()) < 30
    (tmp_path / "coin_stages.py").write_text(code)
    (tmp_path / "coins.yaml").write_text(block("yaml", "coin_stages:toss"))
    ran = crucible("run", "coins.yaml", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "penny and dime could not be told apart: difference of means (penny - dime)" in ran.stdout
    assert list(tmp_path.glob("reports/coins/*/report.html"))
    described = crucible("stages", "coin_stages:toss", folder=tmp_path)
    assert "How often each coin is tossed." in described.stdout, described.stderr


def test_the_python_program_runs_and_prints_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = block("python", "load_experiment(")
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env={"PATH": "", "CRUCIBLE_OUTPUT_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r"(svm|logistic) (logistic|ridge) 0\.\d+ \[-?0\.\d+, 0\.\d+\]", line) for line in lines)


def test_the_finding_is_what_the_run_says(tmp_path: Path) -> None:
    shown = block("console", "digits.yaml\n2 of 3 comparisons").partition("\n")[2]
    file = ROOT / "examples" / "digits" / "digits.yaml"
    ran = subprocess.run([CRUCIBLE, "run", file], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    said = " ".join(ran.stdout.split())
    # Digits behind the fourth depend on the machine; so would the fourth, on a bad day.
    words = re.sub(r"\d[\d.]*", "0", " ".join(shown.split()))
    assert words in re.sub(r"\d[\d.]*", "0", said)


def test_the_mistake_is_worded_as_shown() -> None:
    shown = block("console", "split.folds")
    command, said = shown.strip().splitlines()
    ran = crucible(*command.removeprefix("$ crucible ").split(), folder=ROOT)
    assert ran.returncode == 2
    assert ran.stderr.strip() == said


def test_the_shortened_example_is_part_of_the_real_one() -> None:
    real = load_experiment(ROOT / "examples" / "digits" / "digits.yaml")
    stages = {definition.name: definition for definition in real.pipeline}
    shown = block("yaml", "id: digits")
    names = re.findall(r"name: (\w+)", shown)
    assert [name for name in stages if name in names] == names
    for name, module in re.findall(r"name: (\w+)\n    module: (\S+)", shown):
        assert stages[name].module == module


def test_every_linked_file_is_there() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:.*## ", makefile, flags=re.MULTILINE), target
