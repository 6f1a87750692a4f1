-- Documents are JSON. A blob is named by the SHA-256 of its bytes, in hexadecimal, and lies beside this database.
CREATE TABLE about (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    region TEXT NOT NULL
) STRICT;

CREATE TABLE functions (
    name TEXT PRIMARY KEY,
    tags TEXT NOT NULL DEFAULT '{}',
    reserved INTEGER, -- reserved concurrency; NULL without one
    recursive_loop TEXT NOT NULL DEFAULT 'Terminate'
) STRICT;

CREATE TABLE versions (
    function TEXT NOT NULL REFERENCES functions (name) ON DELETE CASCADE,
    version TEXT NOT NULL, -- $LATEST or a number
    configuration TEXT NOT NULL, -- the members of FunctionConfiguration that are kept
    code TEXT NOT NULL, -- its blob
    layers TEXT NOT NULL DEFAULT '[]', -- their blobs, in the order of the configuration
    runtime_management TEXT, -- NULL: Auto
    made_of TEXT, -- a digest of what $LATEST was when it was published
    PRIMARY KEY (function, version)
) STRICT;

CREATE TABLE aliases (
    function TEXT NOT NULL REFERENCES functions (name) ON DELETE CASCADE,
    name TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (function, name)
) STRICT;

CREATE TABLE provisioned (
    function TEXT NOT NULL REFERENCES functions (name) ON DELETE CASCADE,
    qualifier TEXT NOT NULL,
    requested INTEGER NOT NULL,
    modified TEXT NOT NULL,
    PRIMARY KEY (function, qualifier)
) STRICT;

CREATE TABLE layers (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    document TEXT NOT NULL,
    content TEXT NOT NULL, -- its blob
    PRIMARY KEY (name, version)
) STRICT;

-- Resource policies, of functions, versions, aliases and layer versions, by ARN.
CREATE TABLE policies (
    resource TEXT PRIMARY KEY,
    document TEXT NOT NULL,
    revision TEXT NOT NULL
) STRICT;

-- The last number that was given out; numbers are never given out again (CP-040).
CREATE TABLE numbers (
    resource TEXT PRIMARY KEY,
    last INTEGER NOT NULL
) STRICT;
