"""The tags of runs, each spelled once."""

from __future__ import annotations

FRESH_TAG = "crucible/fresh"
"""On a run: `true` means that every stage runs, even those whose earlier results could be reused."""


ASSIGNS_TAG = "crucible/assigns"
"""On a run that was given assigns, or continues such a run: the run under which the store has them."""


LAUNCHED_BY_TAG = "crucible/launched_by"


USER_TAG = "user"
"""Dagster's own tag for who launched a run, which its UI shows."""


VARIANT_TAG = "crucible/variant"
"""On a run: the variant of the experiment that it ran; empty for none."""


PARTITION_TAG = "dagster/partition"
"""Dagster's own tag for the partition of a run."""


TICK_TAG = "crucible/tick"
"""On a run: the time of the tick that it was launched for, in UTC (ISO 8601)."""


UPDATE_TAG = "crucible/update"
"""On a run: a digest of the materializations that it was launched for."""


LOCATION_TAG = "crucible/location"
"""On a run launched from the command line for a tick: the code location and repository of the schedule."""


SUPERSEDED_TAG = "crucible/superseded"
"""On a run that does no work: which run does the work that it was launched for, or why none does."""


SCHEDULE_NAME_TAG = "dagster/schedule_name"


SENSOR_NAME_TAG = "dagster/sensor_name"


EXPERIMENT_TAG = "crucible/experiment"
"""On a run: the id of its experiment."""


OTHER_JOB_TAG = "crucible/other_job"
"""On a run of the experiment's asset or of its variants' job, but not of its own job: the id of the experiment."""


GATES_TAG = "crucible/gates"
"""On a run that was judged: the verdict over all its gates."""


OPTIONS_TAG = "crucible/options"
"""On a run: `changed` if its options differ from its file and variant, because of `--set` or the Launchpad."""


CRON_TAG = "crucible/cron"
"""On a run: the cron schedule and time zone of its tick."""


UPDATED_TAG = "crucible/updated"
"""On a run: the materializations that it was launched for."""


PINNED_TAG = "crucible/pinned"


COLLECTED_TAG = "crucible/collected"
"""On a run: `true` if its values were removed from the context store because they were old."""


WORKER_TAG = "crucible/worker"
"""On a run whose steps are not child processes of its process: that process, as host, process id and start."""


CELERY_QUEUE_TAG = "dagster-celery/queue"
"""On an op: the tag of `dagster-celery` for the queue that its steps are put into."""


LAUNCHED_FOR_TAGS = (SCHEDULE_NAME_TAG, TICK_TAG, CRON_TAG, SENSOR_NAME_TAG, UPDATE_TAG, UPDATED_TAG)
"""On a run launched by a schedule or a trigger, or that continues such a run: its tick or its update."""
