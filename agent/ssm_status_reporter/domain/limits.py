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
REDELIVERED_WAIT_MS_MIN: Final = 2 * 1000
"""What may be delivered again waits so long, however short the window: what came after it then comes right behind."""
SHARED_LOOK_AGAIN_MS: Final = 5 * 1000
"""So long, and twice `delivery.timeout`, after a shared status was found or put at the service it is asked again:
another daemon's question may have been answered before, and its update comes after."""

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
"""After so many server errors to DescribeAssociation a report goes out without an answer; one that is asked about
only because it is the association's first, after one."""
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
RECONCILE_JITTER_SHARE: Final = 0.1
"""Entries come within this share of the interval before its end, so that they do not march in step."""
RECONCILE_START_MS_MAX: Final = 2000
"""At the start the first question goes out within this time."""
CONNECTIONS_MAX: Final = 64
"""Kept to the service; the concurrency may be changed up to it by a reload."""
CLOCK_SKEW_MS_TOLERATED: Final = 60 * 1000
"""Clocks that differ by less need no correction: the service tolerates 5 minutes."""
REPLY_BYTES_MAX: Final = 1024 * 1024
"""What is read of a reply; the service's own, an association's description, is a few KiB."""
ERROR_TEXT_CHARS_MAX: Final = 500
"""What is kept of an error's message."""

# The outbox.
SENT_REMEMBERED_MAX: Final = 4
"""Reports of one association remembered as possibly applied; of equal dates there are hardly more."""
OUTBOX_BATCH_MAX: Final = 512
"""Operations in one commit."""
OUTBOX_RETRY_SECONDS: Final = 1.0
"""How often a failing transaction is tried again."""
OUTBOX_GATHER_SECONDS: Final = 0.001
"""While operations come together, each fsync waits for company until so long after the last; a lone one never does."""
OUTBOX_BUSY_SECONDS_MAX: Final = 5.0
"""How long a transaction waits for another process (a command) to end its own."""
OUTBOX_JOURNAL_BYTES_MAX: Final = 8 * 1024 * 1024
"""What the -wal file is cut to after a checkpoint."""
OUTBOX_SET_ASIDE_PER_SECOND_MAX: Final = 4
"""Broken outboxes set aside within a second, each under its own name; a disk that breaks more is given a rest."""
LOCK_BYTES_MAX: Final = 4096
"""What is read of the lock's file."""
LOCK_TRIES_MAX: Final = 5
LOCK_PAUSE_SECONDS: Final = 0.02
"""Between two tries: whoever only looks whether a daemon runs has the lock for microseconds."""
ROWS_IN_MEMORY_MAX: Final = 256
"""Rows read at a time where all are looked at."""
CLAIM_SCAN_ROWS_MAX: Final = 256
"""Rows a claim looks at; it says so when there may be more."""
PARKED_JITTER_SHARE: Final = 0.1
"""Parked reports are retried within this share of the interval after it, so that they do not march in step."""

CLOCK_SET_MS_MIN: Final = 10 * 1000
"""A clock that is off the daemon's by less was not set, as far as `status` shows: two clocks are not read at once."""
COMMANDS_LOOK_MS: Final = 2000
"""Where inotify cannot tell that a command changed the outbox, it is looked at so often."""

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

# The SSM Agent's registration.
REGISTRATION_BYTES_MAX: Final = 64 * 1024
"""What is read of it."""

# The instance metadata service.
METADATA_TIMEOUT_MS: Final = 2000
"""One request, half of it for connecting; an instance's own service answers within milliseconds."""
METADATA_ATTEMPTS_MAX: Final = 3
METADATA_PAUSE_MS: Final = 1000
"""Between two attempts: the network may still be coming up. For token and document some 16 s at worst, well within
the 90 s that systemd gives a start."""
METADATA_BYTES_MAX: Final = 64 * 1024
"""What is read of one answer."""

# Credentials.
CREDENTIALS_PAUSE_MS: Final = 100
"""Between two tries of shared credentials that keep changing."""
CREDENTIALS_LOOK_MS_MIN: Final = 1000
CREDENTIALS_LOOK_MS_MAX: Final = 60 * 1000
"""Shared credentials that inotify cannot tell of are looked at within this range, doubling."""

# Watching.
EVENTS_PER_DRAIN_MAX: Final = 1024
"""Events of inotify read before what they tell of is looked at: about 8 ms. The kernel keeps the others."""

# The service manager.
NOTIFY_SECONDS_MAX: Final = 0.1
"""So long is waited for room in its queue, which others fill too: the event loop waits meanwhile."""
STATUS_SECONDS_MIN: Final = 5.0
"""The status line is brought up to date no more often."""
TOLD_AFTER_SECONDS: Final = 0.05
"""That a quiet node's report goes out is told so much later: whoever looks then is not in its way."""
STATUS_HINT_CHARS_MAX: Final = 200
"""What the status line shows of a hold's hint; `status` has it whole."""

# Stopping.
STOP_SECONDS_MAX: Final = 10.0
"""Calls in flight get so long to finish at SIGTERM."""
CANCEL_AGAIN_SECONDS: Final = 5.0
"""What has not ended so long after its cancellation is cancelled once more: longer than any source takes to stop."""

# The SSM Agent's runs.
AGENT_RUNS_HELD_MAX: Final = 256
"""State files held open until their run is over; beyond it the one held longest is let go."""
AGENT_STATE_BYTES_MAX: Final = 16 * 1024 * 1024
"""A state file beyond this is not read."""
AGENT_RESULTS_WAITING_MAX: Final = 1024
"""Results of the agent's runs that wait for the outbox; beyond it the oldest goes."""
AGENT_STOP_SECONDS_MAX: Final = 2.0
"""Results at hand get so long to be committed at SIGTERM: their files may be gone."""

# MQTT.
MQTT_RECEIVE_MAX: Final = 64
"""Messages that an MQTT 5 broker may send before the first is acknowledged (its Receive Maximum)."""
MQTT_IN_FLIGHT_MAX: Final = 128
"""Messages taken and not yet acknowledged. Beyond it nothing more is read: of what knows no Receive Maximum (3.1.1,
QoS 0) there may be more, and Mosquitto 2.0 counts a few too few."""
MQTT_PAYLOAD_BYTES_MAX: Final = 64 * 1024
"""A larger payload is refused."""
MQTT_PACKET_BYTES_MAX: Final = 2 * 1024 * 1024
"""The Maximum Packet Size. A 3.1.1 broker does not know it: there a larger packet ends the connection."""
MQTT_NODE_CHARS_MAX: Final = 64
"""A topic whose level for the node is longer is no node's, and is not answered."""
MQTT_ECHO_CHARS_MAX: Final = 4096
"""What is sent back of a refused payload."""
MQTT_POSTINGS_MAX: Final = 1000
"""Outcomes and answers that wait for the broker; the oldest go first."""
MQTT_POSTING_ATTEMPTS_MAX: Final = 2
"""Connections that may end while the same publications are out; some brokers end one for what they do not allow."""
MQTT_POSTING_SILENCES_MAX: Final = 10
"""So often is published what a broker that is there does not confirm: some minutes, with the pauses between."""
MQTT_POSTINGS_OUT_MAX: Final = 20
"""Publications that the broker has not confirmed; fewer if its own Receive Maximum is smaller."""
MQTT_SESSION_SECONDS: Final = 7 * 24 * 60 * 60
"""For so long the broker keeps messages for a daemon that is away (MQTT 5; under 3.1.1 it decides alone)."""
MQTT_KEEPALIVE_SECONDS: Final = 60
"""A connection on which nothing was said for so long is tried."""
MQTT_DIAL_SECONDS_MAX: Final = 10.0
"""From the look-up of the name to the end of the TLS handshake."""
MQTT_ANSWER_SECONDS_MAX: Final = 10.0
"""A broker that does not answer for so long is given up, and tried again."""
MQTT_CONFIRMATION_SECONDS_MAX: Final = 10 * 60.0
"""So long is a confirmation waited for while other things are heard: Mosquitto sends 20,000 messages before it, which
a slow disk lets in at 200 a second."""
MQTT_PATIENCE_MS: Final = 2000
"""At the start, a broker that takes longer is no longer waited for: the others go on."""
MQTT_FAREWELL_SECONDS_MAX: Final = 2.0
"""To say `offline` and to disconnect, at SIGTERM."""
MQTT_BACKOFF_MS_INITIAL: Final = 1000
MQTT_BACKOFF_MS_MIN: Final = 500
MQTT_BACKOFF_MS_MAX: Final = 60 * 1000
"""Pauses between attempts to connect."""
MQTT_STEADY_MS: Final = 60 * 1000
"""A connection that held for so long begins the pauses anew."""
MQTT_BACKLOG_MS_MAX: Final = 60 * 1000
"""After so long on a resumed session what arrives is no longer taken for a redelivery, unless it says so."""
MQTT_BACKLOG_QUIET_MS: Final = 1000
"""Nor is it after the broker was silent for so long."""

# Metrics.
METRICS_TEXTFILE_SECONDS: Final = 15
"""How often the file for node_exporter is written: the interval that Prometheus scrapes at, as a rule."""
METRICS_RETRY_SECONDS: Final = 60
"""How often an address to serve metrics at is tried again."""
METRICS_STOP_SECONDS_MAX: Final = 1.0
"""Scrapes under way get so long to be answered at SIGTERM, and a file to be written; the calls to the service wait
behind them."""
HEALTH_MS_MIN: Final = 10 * 1000
"""A loop that got no further for so long, with something to do, is unhealthy: the outbox tries again every second."""

# What blocks.
BLOCKING_THREADS_MAX: Final = 16
"""Threads in which something may block. A resolver without a name server blocks one for up to half a minute at each
attempt to connect; enough of them are left for what must get on."""

# The preflight.
CLOCK_SKEW_MS_ADVISED: Final = 60 * 1000
"""Clocks further apart than this are amiss; the service tolerates 5 minutes."""
CREDENTIALS_LEFT_MS_ADVISED: Final = 60 * 1000
"""Keys that end sooner than this were not renewed in time: what renews them does so 5 minutes ahead at the latest."""
DISK_FREE_BYTES_ADVISED: Final = 64 * 1024 * 1024
"""Less room than this on the outbox's disk is amiss: results would soon not be acknowledged any more."""
