"""What starting costs: wall milliseconds of child interpreters, in turn, and what our commands import."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from measure import (
    alternate,
    arguments,
    child,
    child_json,
    number,
    print_header,
    print_table,
    print_target,
    ratio,
    seconds,
)

PYDANTIC = "pydantic with one model"
CORE = "`import crucible_core`"
COMMANDS = (
    "`crucible --help`",
    "`crucible validate`, built-in stages",
    "`crucible validate examples/digits/digits.yaml`",
)

MODEL = (
    "from pydantic import BaseModel\nclass Model(BaseModel):\n    name: str\n    value: float = 0.0\nModel(name='one')"
)
BUILTIN_ONLY = "id: built_in\npipeline:\n  - name: validate\n  - name: data_checks\n  - name: bench\n  - name: report\n"
HEAVY = ("dagster", "scipy", "matplotlib", "numpy", "pandas")
FORBIDDEN = HEAVY[:3]

# What the console script does.
COMMAND = "import sys; from crucible_core.cli import main; sys.exit(main())"

# Runs the command in this interpreter and then says what it has imported.
REPORT = """\
import contextlib, io, json, sys
from crucible_core.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(sys.argv[1:])
print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))
"""


def commands(folder: Path) -> dict[str, Sequence[str]]:
    """Our three commands and their arguments."""
    (folder / "built_in.yaml").write_text(BUILTIN_ONLY)
    digits = Path(__file__).parents[1] / "examples" / "digits" / "digits.yaml"
    arguments = (["--help"], ["validate", str(folder / "built_in.yaml")], ["validate", str(digits)])
    return dict(zip(COMMANDS, arguments, strict=True))


def contenders(ours: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """What is started, by name: the arguments of a Python interpreter."""
    imports = {name: ["-c", f"import {name}"] for name in ("dagster", "scipy.stats", "matplotlib.pyplot", "sklearn")}
    return {
        "bare interpreter": ["-c", ""],
        PYDANTIC: ["-c", MODEL],
        CORE: ["-c", "import crucible_core"],
        **{name: ["-c", COMMAND, *given] for name, given in ours.items()},
        **{
            f"`import {name}`": run for name, run in imports.items() if importlib.util.find_spec(name.partition(".")[0])
        },
    }


def main() -> None:
    given = arguments(__doc__ or "", rounds=25, quick=7)
    packages = ["crucible-dagster", "pydantic", "dagster", "scipy", "matplotlib", "scikit-learn"]
    print_header("Cold start", packages, given.rounds)
    with tempfile.TemporaryDirectory() as folder:
        ours = commands(Path(folder))
        started = {name: partial(seconds, partial(child, run)) for name, run in contenders(ours).items()}
        alternate(started, 1)  # byte code is written, files are cached
        times = alternate(started, given.rounds)
        imported = {name: set(child_json(["-c", REPORT, *run])) for name, run in ours.items()}
    print_table(
        ["started", "ms, median", "ms, best", "x pydantic"],
        [
            [name, number(median(found) * 1e3), number(min(found) * 1e3), f"{ratio(times, name, PYDANTIC):.2f}"]
            for name, found in times.items()
        ],
    )
    print_target(f"{CORE} against {PYDANTIC}", ratio(times, CORE, PYDANTIC), 1.3)
    for name, modules in imported.items():
        heavy = [module for module in HEAVY if module in modules]
        verdict = "MISSED" if modules.intersection(FORBIDDEN) else "reached"
        why = " (the module of the example's own stages imports scikit-learn)" if "sklearn" in modules else ""
        print(f"- {verdict}: {name} imports {', '.join(heavy) or 'none'} of {', '.join(HEAVY)}{why}")


if __name__ == "__main__":
    main()
