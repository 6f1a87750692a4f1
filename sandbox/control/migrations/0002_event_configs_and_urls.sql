CREATE TABLE event_configs (
    function TEXT NOT NULL REFERENCES functions (name) ON DELETE CASCADE,
    qualifier TEXT NOT NULL, -- $LATEST, a number or an alias
    document TEXT NOT NULL,
    PRIMARY KEY (function, qualifier)
) STRICT;

CREATE TABLE function_urls (
    function TEXT NOT NULL REFERENCES functions (name) ON DELETE CASCADE,
    qualifier TEXT NOT NULL, -- an alias; '' for the function itself
    id TEXT NOT NULL UNIQUE,
    port INTEGER NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (function, qualifier)
) STRICT;
