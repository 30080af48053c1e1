"""A command that is forked in the tests is a process like that of the command itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import commands
import pytest

TELLS = """\
import atexit, os, sys
main = sys.modules["__main__"]
print(sys.argv, sys.path, os.getcwd(), __name__, getattr(main, "__file__", None), vars(main)["TELLS"] is TELLS)
print(sorted(os.environ.items()), [one.isatty() for one in (sys.stdin, sys.stdout, sys.stderr)], sys.stdin.read())
print("ä, to stderr", file=sys.stderr)
print("commands" in sys.modules, "stages_for_tests" in sys.modules)
atexit.register(print, "the end")
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("way", ["program", "script"])
@pytest.mark.parametrize("code", [0, 3])
def test_it_finds_what_the_real_one_finds(tmp_path: Path, way: str, code: int) -> None:
    program = f"TELLS = 1\n{TELLS}"
    (tmp_path / "tells.py").write_text(program)
    arguments = [*(["-c", program] if way == "program" else [str(tmp_path / "tells.py")]), str(code)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "first"), str(tmp_path)])}
    real = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    forked = commands.python(*arguments, cwd=tmp_path, env=environment)
    assert (forked.returncode, forked.stderr) == (real.returncode, real.stderr)
    assert forked.stdout == real.stdout
    assert forked.returncode == code


def test_one_that_takes_too_long_is_killed() -> None:
    with pytest.raises(TimeoutError):
        commands.python("-c", "import time; time.sleep(60)", timeout=0.2)
    assert commands.python("-c", "print(1)").stdout == "1\n"
