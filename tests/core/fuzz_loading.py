"""Looks for experiment files that the loader does not bear, guided by coverage: `make fuzz`.

Needs atheris, and is no test: it runs for as long as it is told. What it finds is kept as `build/fuzz/crash-*`, and
what reached new code in `build/fuzz/corpus`, where the next run begins. Its arguments are those of libFuzzer.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import atheris  # type: ignore[import-not-found]  # of an environment of its own

with atheris.instrument_imports(include=["crucible_core.ir", "crucible_core.values", "ruamel.yaml"]):
    import ruamel.yaml

    from crucible_core import InvalidExperimentError, load_experiment
    from crucible_core.ir import guarded_yaml
    from crucible_core.ir.loading import is_experiment

LOADED = (guarded_yaml, ruamel.yaml)  # imported with the others, so that they are instrumented
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "fuzz"
SECONDS = 2.0
"""Of CPU, four times what a file may take: instrumented code is slower."""


def read(raw: bytes) -> None:
    # The first byte says what the file is; the rest is in it.
    file = FOLDER / ("input.json" if raw[:1] == b"j" else "input.yaml")
    file.write_bytes(raw[1:])
    began = time.process_time()
    with contextlib.suppress(InvalidExperimentError):
        load_experiment(file)
    is_experiment(file)
    if time.process_time() - began > SECONDS:
        raise TimeoutError(f"{file} took {time.process_time() - began:.1f} s")


def begin() -> Path:
    """The corpus: what earlier runs found, and at first the examples."""
    corpus = FOLDER / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(sorted([*ROOT.glob("examples/*/*.yaml"), *ROOT.glob("tests/interchange/*.json")])):
        kind = b"j" if file.suffix == ".json" else b"y"
        (corpus / f"example-{number}").write_bytes(kind + file.read_bytes())
    return corpus


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], str(begin()), f"-artifact_prefix={FOLDER}/", *sys.argv[1:]], read)
    atheris.Fuzz()
