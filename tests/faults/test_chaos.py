"""Chaos with a few seeds, for a short time: `make chaos` takes any seeds, for as long as one likes."""

from __future__ import annotations

import pytest
from chaos import chaos

# Seeds that found something, and one that is run with every change.
SEEDS = [
    pytest.param(1, 15.0),
    *(pytest.param(seed, 60.0, marks=pytest.mark.all_faults) for seed in (2, 3, 4, 13, 28, 29)),
]


@pytest.mark.xdist_group("chaos")  # it takes minutes, so it begins early
@pytest.mark.fault("R1", "R2", "R3", "R5", "R7", "chaos", "the daemon is killed", "the code server is killed")
@pytest.mark.fault("the webserver is killed", "the machine is lost")
@pytest.mark.filterwarnings("ignore")  # of a thread that looks for a code server which was killed
@pytest.mark.parametrize(("seed", "seconds"), SEEDS)
def test_whatever_happens_every_promise_is_kept(seed: int, seconds: float) -> None:
    done = chaos(seed, seconds)
    assert done.broken == []
    assert len(done.checked) == 8
    assert done.did["launch"] > 0
