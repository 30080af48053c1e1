"""A stage that goes on from its checkpoint, and is killed where DIE_AT says."""

from __future__ import annotations

import os
import signal

from crucible_core import Context, stage


@stage
def count(ctx: Context, *, epochs: int = 6) -> Context:
    """Adds up the epochs, with a checkpoint after each."""
    begin, total = ctx.restore("state", (0, 0))
    (ctx.folder / f"began-at-{begin}").write_text("")
    for epoch in range(begin + 1, epochs + 1):
        total += epoch
        ctx = ctx.checkpoint("state", (epoch, total))
        if os.environ.get("DIE_AT") == str(epoch):
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ.get("FAIL_AT") == str(epoch):
            del os.environ["FAIL_AT"]
            raise ConnectionError("503")
    return ctx.merge_metrics({"total": total, "began_at": begin})
