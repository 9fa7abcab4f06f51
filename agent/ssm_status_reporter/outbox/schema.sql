-- The outbox, version 1. An association's entry is kept as the domain knows it, as JSON; beside it stand only
-- the columns that a query needs. Times named *_ms are milliseconds: wall time, but due_ms, probed_ms,
-- reconcile_ms and next_probe_ms steady.

CREATE TABLE association (
    id           INTEGER PRIMARY KEY,
    instance_id  TEXT NOT NULL,
    document     TEXT NOT NULL,
    entry        TEXT NOT NULL,
    state        TEXT NOT NULL,
    busy         INTEGER NOT NULL,            -- its call slot is taken
    due_ms       INTEGER,                     -- when its pending report may be claimed
    held         INTEGER NOT NULL DEFAULT 0,  -- due, but behind a hold on its node
    probed_ms    INTEGER NOT NULL DEFAULT 0,  -- when it last was the probe: probes take turns
    reconcile_ms INTEGER,                     -- when to compare it with the service
    UNIQUE (instance_id, document)
);
CREATE INDEX association_due ON association (due_ms) WHERE due_ms IS NOT NULL AND held = 0;
CREATE INDEX association_reconcile ON association (reconcile_ms) WHERE reconcile_ms IS NOT NULL;
CREATE INDEX association_state ON association (state) WHERE state <> 'acknowledged' OR busy = 1;

CREATE TABLE counter (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE dead_letter (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    instance_id    TEXT NOT NULL,
    document       TEXT NOT NULL,
    status         TEXT NOT NULL,
    message        TEXT NOT NULL,
    additional_info TEXT,
    observed_at_ms INTEGER NOT NULL,
    code           TEXT NOT NULL,
    error          TEXT NOT NULL,
    hint           TEXT,
    request_id     TEXT,
    at_ms          INTEGER NOT NULL
);

CREATE TABLE hold (
    scope       TEXT NOT NULL,
    instance_id TEXT NOT NULL DEFAULT '',
    document    TEXT NOT NULL DEFAULT '',
    reason      TEXT NOT NULL,
    since_ms    INTEGER NOT NULL,
    next_probe_ms INTEGER NOT NULL,
    PRIMARY KEY (scope, instance_id, document)
) WITHOUT ROWID;

CREATE TABLE kept_file (
    name     BLOB PRIMARY KEY,
    inode    INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    size     INTEGER NOT NULL,
    digest   BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE fact (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
