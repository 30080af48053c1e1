"""The tags of runs, each spelled once."""

from __future__ import annotations

FRESH_TAG = "crucible/fresh"
"""On a run: `true` means that every stage runs, even those whose earlier results could be reused."""


ASSIGNS_TAG = "crucible/assigns"
"""On a run that was given assigns, or goes on from such a run: the run that has them in the store."""


LAUNCHED_BY_TAG = "crucible/launched_by"


USER_TAG = "user"
"""Dagster's own tag for who launched a run, which its UI shows."""


VARIANT_TAG = "crucible/variant"
"""On a run: the variant of the experiment that it ran, or nothing."""


PARTITION_TAG = "dagster/partition"
"""Dagster's own tag for the partition that a run is of."""


TICK_TAG = "crucible/tick"
"""On a run: the time of the tick that it was launched for, in UTC (ISO 8601)."""


UPDATE_TAG = "crucible/update"
"""On a run: a digest of the materializations that it was launched for."""


LOCATION_TAG = "crucible/location"
"""On a run that the command line launches for a tick: the code location and repository of the schedule."""


SUPERSEDED_TAG = "crucible/superseded"
"""On a run: which run does the work that this one was launched for, or why none does."""


SCHEDULE_NAME_TAG = "dagster/schedule_name"


SENSOR_NAME_TAG = "dagster/sensor_name"


EXPERIMENT_TAG = "crucible/experiment"
"""On a run: the id of its experiment."""


OTHER_JOB_TAG = "crucible/other_job"
"""On a run of the experiment that is not of its own job, but of its asset or of the job of its variants: the id of the
experiment."""


GATES_TAG = "crucible/gates"
"""On a run that was judged: the verdict over all its gates."""


OPTIONS_TAG = "crucible/options"
"""On a run: `changed` if it has other options than those of its file and variant, as by `--set` or in the Launchpad."""


CRON_TAG = "crucible/cron"
"""On a run: the cron schedule and time zone by which its tick came."""


UPDATED_TAG = "crucible/updated"
"""On a run: the materializations that it was launched for."""


PINNED_TAG = "crucible/pinned"


COLLECTED_TAG = "crucible/collected"
"""On a run: `true` if what it kept in the context store was removed because it was old."""


WORKER_TAG = "crucible/worker"
"""On a run whose steps do not run below its process: that process, as host, process id and start."""


CELERY_QUEUE_TAG = "dagster-celery/queue"
"""On an op: the tag of `dagster-celery` for the queue that its steps are put into."""


LAUNCHED_FOR_TAGS = (SCHEDULE_NAME_TAG, TICK_TAG, CRON_TAG, SENSOR_NAME_TAG, UPDATE_TAG, UPDATED_TAG)
"""On a run that a schedule or a trigger launched, or that goes on from such a run: which tick or update it is of."""
