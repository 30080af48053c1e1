"""What the gates of an experiment say of a run."""

from crucible_core.moved import moved_names

# By their old names, which stored values have: until version 1.0.
_MODELS = ["Baseline", "Gate", "GateResult", "NoRegression"]
__getattr__ = moved_names(__name__, dict.fromkeys(_MODELS, "crucible_core.ir.gates"))
