"""The one error of this package: a test that these data do not allow."""

from __future__ import annotations

from typing import ClassVar

__all__ = ["CannotTestError"]


class CannotTestError(ValueError):
    """The test cannot be run on these data, so there is no result to report.

    `test` is the name that was asked for; `reason` says why it cannot be run and what to do instead. The message has
    both, so nobody needs the traceback.
    """

    explains_itself: ClassVar[bool] = True

    def __init__(self, test: str, reason: str) -> None:
        super().__init__(f"{_OTHERS.get(test) or f'cannot run {test!r}'}: {reason}")
        self.test = test
        self.reason = reason

    def __reduce__(self) -> tuple[type[CannotTestError], tuple[str, str]]:
        return type(self), (self.test, self.reason)


# What can be asked for besides a test, with the words for its failure.
_OTHERS = {
    "auto": "no test can be chosen",
    "baseline": "the groups cannot be compared with a baseline",
    "bench": "the groups cannot be compared",
    "difference": "the difference cannot be estimated",
    "groups": "the groups cannot be compared",
    "margin": "the difference cannot be compared with a margin",
    "rope": "practical equivalence has no probability",
}
