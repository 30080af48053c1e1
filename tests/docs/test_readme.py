"""What the README promises beyond its code blocks, which docs/test_code_blocks.py runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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
    assert "penny and dime could not be told apart: difference of proportions (penny - dime)" in ran.stdout
    assert list(tmp_path.glob("reports/coins/*/report.html"))
    described = crucible("stages", "coin_stages:toss", folder=tmp_path)
    assert "How often each coin is tossed." in described.stdout, described.stderr


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
