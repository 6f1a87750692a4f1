-- Times are seconds since the epoch.
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    function TEXT NOT NULL,
    qualifier TEXT, -- as it was asked for
    request_id TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    tenant_id TEXT,
    accepted REAL NOT NULL,
    due REAL NOT NULL, -- no attempt before
    failures INTEGER NOT NULL DEFAULT 0, -- attempts that the function failed
    condition TEXT, -- NULL: queued; else how it has ended, and nobody has taken note
    reason TEXT, -- why, for people
    payload BLOB NOT NULL -- the last one: who looks at the others need not read over it
) STRICT;

CREATE INDEX events_queued ON events (function, qualifier, id, accepted, due, failures, condition) WHERE condition IS NULL;
CREATE INDEX events_ended ON events (id) WHERE condition IS NOT NULL;

CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY,
    function TEXT NOT NULL,
    request_id TEXT NOT NULL,
    target TEXT NOT NULL, -- an ARN, or file://…
    kind TEXT NOT NULL, -- success, failure or dead-letter
    message TEXT NOT NULL, -- JSON: body, attributes
    made REAL NOT NULL,
    due REAL NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    reason TEXT, -- why the last try failed
    given_up INTEGER NOT NULL DEFAULT 0
) STRICT;
