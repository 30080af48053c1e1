"""Words for effect sizes, by published conventions: beside the number, never instead of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from crucible_bench.vocabulary import EffectSizeName

EffectSizeWord = Literal["large", "medium", "negligible", "small", "smaller than small"]


@dataclass(frozen=True, slots=True)
class Interpretation:
    """A word for an effect size, and the source of the convention.

    Conventions are for fields that have nothing better (Cohen 1988, page 25). Whether an effect matters depends on its
    costs and benefits, not on a word.
    """

    word: EffectSizeWord
    source: str


@dataclass(frozen=True, slots=True)
class _Convention:
    small: float
    medium: float
    large: float
    source: str
    below: EffectSizeWord = "smaller than small"
    neutral: float = 0.0


_D: Final = _Convention(0.2, 0.5, 0.8, "Cohen 1988, pages 25 to 26")
CONVENTIONS: Final[Mapping[EffectSizeName, _Convention]] = MappingProxyType(
    {
        "cliffs_delta": _Convention(0.147, 0.33, 0.474, "Romano et al. 2006", below="negligible"),
        "cohens_d": _D,
        "cohens_dav": _D,
        "cohens_g": _Convention(0.05, 0.15, 0.25, "Cohen 1988, pages 147 to 149"),
        "cohens_h": _Convention(0.2, 0.5, 0.8, "Cohen 1988, pages 184 to 185"),
        "common_language": _Convention(0.06, 0.14, 0.21, "Vargha & Delaney 2000", neutral=0.5),
        "eta_squared": _Convention(0.0099, 0.0588, 0.1379, "Cohen 1988, pages 285 to 287"),
        "glass_delta": _D,
        "hedges_g": _D,
        "hedges_gav": _D,
        "omega_squared": _Convention(0.010, 0.059, 0.138, "Kirk 1996"),
        "pearson_r": _Convention(0.1, 0.3, 0.5, "Cohen 1988, pages 79 to 80"),
    }
)


def interpret(name: EffectSizeName, value: float) -> Interpretation | None:
    """The word that a published convention has for an effect of this size, whatever its sign; None without one.

    | effect size | small, medium, large from | source |
    | --- | --- | --- |
    | cohens_d, cohens_dav, hedges_g, hedges_gav, glass_delta | 0.2, 0.5, 0.8 | Cohen 1988 |
    | cohens_h | 0.2, 0.5, 0.8 | Cohen 1988 |
    | cohens_g | 0.05, 0.15, 0.25 | Cohen 1988 |
    | pearson_r | 0.1, 0.3, 0.5 | Cohen 1988 |
    | eta_squared | 0.0099, 0.0588, 0.1379 (f of 0.1, 0.25, 0.4) | Cohen 1988 |
    | omega_squared | 0.010, 0.059, 0.138 | Kirk 1996 |
    | cliffs_delta | 0.147, 0.33, 0.474 | Romano et al. 2006 |
    | common_language | 0.56, 0.64, 0.71, and their mirror images | Vargha & Delaney 2000 |

    None for the others. cohens_dz and partial_eta_squared depend on how well the pairs agree, cramers_v on the shape of
    the table, odds and risk ratios on the base rate. rank_biserial may be that of pairs (of independent groups it is
    cliffs_delta). The rest have no generally accepted convention.

    Raises ValueError for a value that is not a number.
    """
    if math.isnan(value):
        raise ValueError(f"an effect size must be a number, not {value!r}")
    convention = CONVENTIONS.get(name)
    if convention is None:
        return None
    distance = abs(value - convention.neutral) * (1.0 + 1e-12)  # 0.56 - 0.5 is not quite 0.06
    word: EffectSizeWord = convention.below
    for candidate, least in _steps(convention):
        if distance >= least:
            word = candidate
    return Interpretation(word, convention.source)


def _steps(convention: _Convention) -> tuple[tuple[EffectSizeWord, float], ...]:
    return ("small", convention.small), ("medium", convention.medium), ("large", convention.large)
