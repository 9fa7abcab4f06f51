"""Every bound of the daemon, with its unit in its name. Nothing grows without one of these.

Bounds an operator may choose are in the configuration; these are the ones nobody should have to.
"""

from typing import Final

# The API's own limits (botocore's service model ssm-2014-11-06).
STATUS_TEXT_CHARS_MAX: Final = 1024
CUT_MARK: Final = " … [cut]"

# Time.
CLOCK_AHEAD_MS_MAX: Final = 5 * 60 * 1000
"""A result observed further ahead of the clock than this is taken as observed now."""
ASK_AGAIN_AFTER_MS: Final = 60 * 1000
"""A report older than this is not sent again before the service was asked what it holds."""

# The service.
ENDPOINT_FAILURES_IN_A_ROW: Final = 3
"""So many failures in a row, without an answer in between, hold the endpoint."""
ENDPOINT_ASSOCIATIONS_MIN: Final = 2
"""Failures that could be one association's own count against the endpoint only when so many share them."""
PERMISSION_DENIALS_IN_A_ROW: Final = 3
"""So many distinct associations denied in a row hold the permission for all."""
KNOWN_DENIED_MAX: Final = 10_000
"""Associations remembered as denied since they were last permitted; being denied again, they hold themselves alone."""
ASKS_UNANSWERED_MAX: Final = 3
"""After so many server errors to DescribeAssociation a report goes out without an answer."""
ASKS_UNANSWERED_BESIDE_OTHERS_MAX: Final = 20
"""The same where another writer is known: there the answer keeps older from overwriting newer."""
UNSERVED_MS: Final = 60 * 60 * 1000
"""For so long the service's word that it does not serve an association is believed."""
RETRY_AFTER_MS_MAX: Final = 60 * 60 * 1000
"""A Retry-After hint beyond this is taken as this."""
BUSY_BACKOFF_MS_MAX: Final = 10 * 1000
"""TooManyUpdates is over within seconds: its backoff does not grow beyond this."""
RATE_FLOOR_PER_SECOND: Final = 0.1
"""Throttling never brings the rate below this."""
RECONCILE_RATE_SHARE: Final = 0.25
"""DescribeAssociation for reconciliation takes at most this share of the rate."""
ERROR_TEXT_CHARS_MAX: Final = 500
"""What is kept of an error's message."""

# The outbox.
SENT_REMEMBERED_MAX: Final = 4
"""Reports of one association remembered as possibly applied; of equal dates there are hardly more."""
OUTBOX_BATCH_MAX: Final = 512
"""Operations in one commit."""
ROWS_IN_MEMORY_MAX: Final = 256
"""Rows read at a time where all are looked at."""
CLAIM_SCAN_ROWS_MAX: Final = 256
"""Rows a claim looks at; it says so when there may be more."""
PARKED_JITTER_SHARE: Final = 0.1
"""Parked reports are retried within this share of the interval after it, so that they do not march in step."""

# The results directory.
RESULTS_IN_FLIGHT_MAX: Final = 1024
"""Files claimed and not yet committed."""
REJECTED_FILES_MAX: Final = 1000
"""Refused files kept in rejected/; the oldest go first."""
UNDECODABLE_SETTLE_MS: Final = 2000
"""What cannot be decoded is refused only after it has not changed for so long."""
JSON_DEPTH_MAX: Final = 64
"""Levels of objects and arrays in a result; a bound of its own, so that the stack in use decides nothing."""
NEAR_MISS_CHARS_MAX: Final = 64
"""A name longer than this is not compared with the known ones to suggest one."""
REMEMBERED_FILES_MAX: Final = 16_384
"""File names held in memory for one reason (due, waiting, said once); beyond it the directory is scanned again."""
FILES_PER_TURN_MAX: Final = 64
"""Files looked at before other tasks get their turn: about 6 ms."""
SPOOL_RETRY_MS_MIN: Final = 1000
SPOOL_RETRY_MS_MAX: Final = 60 * 1000
"""What the file system refuses, and no event will tell the end of, is tried again within this range, doubling."""
SPOOL_STOP_SECONDS_MAX: Final = 2.0
"""Commits under way get so long at SIGTERM; what takes longer is met again at the next start."""

# Stopping.
STOP_SECONDS_MAX: Final = 10.0
"""Calls in flight get so long to finish at SIGTERM."""

# The SSM Agent's runs.
AGENT_RUNS_HELD_MAX: Final = 256
"""State files held open until their run is over; beyond it the one held longest is let go."""
AGENT_STATE_BYTES_MAX: Final = 16 * 1024 * 1024
"""A state file beyond this is not read."""
AGENT_RESULTS_WAITING_MAX: Final = 1024
"""Results of the agent's runs that wait for the outbox; beyond it the oldest goes."""
AGENT_STOP_SECONDS_MAX: Final = 2.0
"""Results at hand get so long to be committed at SIGTERM: their files may be gone."""
