-- A fleet's home (M-2): the mode and the lease under which the work on a resource is led. May be run again.
CREATE TABLE IF NOT EXISTS leasehold_homes (
    resource   TEXT NOT NULL PRIMARY KEY,
    -- Names the work on this resource, whoever leads it (W-1).
    work       TEXT NOT NULL,
    mode       TEXT,
    lease      TEXT,
    settled_at TEXT, -- for people
    CHECK ((mode IS NULL) = (lease IS NULL))
) STRICT;
