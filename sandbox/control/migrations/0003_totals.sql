-- What was billed: it outlives its functions. A day is that of UTC, 2026-11-23.
CREATE TABLE totals (
    function TEXT NOT NULL,
    version TEXT NOT NULL,
    day TEXT NOT NULL,
    architecture TEXT NOT NULL,
    memory_mb INTEGER NOT NULL,
    tmp_mb INTEGER NOT NULL,
    provisioned INTEGER NOT NULL, -- 1: in environments that were initialised ahead
    requests INTEGER NOT NULL DEFAULT 0, -- as many as REPORT lines
    further_requests INTEGER NOT NULL DEFAULT 0, -- for large asynchronous events
    billed_ms INTEGER NOT NULL DEFAULT 0, -- the sum of Billed Duration
    init_ms INTEGER NOT NULL DEFAULT 0, -- of Inits ahead of invokes
    streamed_bytes INTEGER NOT NULL DEFAULT 0, -- beyond what is free of each request
    PRIMARY KEY (function, version, day, architecture, memory_mb, tmp_mb, provisioned)
) STRICT;

-- For how long how many environments were provisioned; seconds since the epoch.
CREATE TABLE provisioned_times (
    function TEXT NOT NULL,
    version TEXT NOT NULL,
    architecture TEXT NOT NULL,
    memory_mb INTEGER NOT NULL,
    units INTEGER NOT NULL,
    begun REAL NOT NULL,
    ended REAL NOT NULL,
    PRIMARY KEY (function, version, begun)
) STRICT;
