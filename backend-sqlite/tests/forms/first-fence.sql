-- A fence as of 821e316, which has admitted epoch 42.
-- The fence of Leasehold (F-1), for the database that holds the effects. Any language uses it so:
--
--   BEGIN IMMEDIATE;
--   INSERT INTO leasehold_admit (resource, epoch, grant_id) VALUES ('outbox', 7, '0123456789abcdef0123456789abcdef');
--   … the effects, and any read that they depend on …
--   COMMIT;
--
-- If the INSERT fails, roll back: nothing of the transaction may stay. (The sqlite3 shell goes on after an error; run
-- it with -bail.) Needs SQLite 3.24.

-- The mark of each resource: the greatest term that it has admitted.
CREATE TABLE IF NOT EXISTS leasehold_fence_marks (
    resource TEXT NOT NULL PRIMARY KEY,
    epoch    INTEGER NOT NULL CHECK (typeof(epoch) = 'integer'),
    grant_id TEXT NOT NULL
);

CREATE VIEW IF NOT EXISTS leasehold_admit AS SELECT resource, epoch, grant_id FROM leasehold_fence_marks;

-- A term is admitted if and only if its epoch is greater than the mark's, or equal with the same grant.
CREATE TRIGGER IF NOT EXISTS leasehold_admit_term INSTEAD OF INSERT ON leasehold_admit BEGIN
    -- SQLite compares text with numbers without complaint, and every text is greater: so types are checked first.
    SELECT RAISE(ABORT, 'a term is an integer epoch above 0 and a grant of 32 hexadecimal digits in lower case')
     WHERE typeof(NEW.resource) <> 'text' OR typeof(NEW.epoch) <> 'integer' OR NEW.epoch < 1
        OR typeof(NEW.grant_id) <> 'text' OR length(NEW.grant_id) <> 32 OR NEW.grant_id GLOB '*[^0-9a-f]*';
    SELECT RAISE(ABORT, 'FENCING_EPOCH_STALE')
      FROM leasehold_fence_marks
     WHERE resource = NEW.resource
       AND (epoch > NEW.epoch OR (epoch = NEW.epoch AND grant_id <> NEW.grant_id));
    INSERT INTO leasehold_fence_marks (resource, epoch, grant_id) VALUES (NEW.resource, NEW.epoch, NEW.grant_id)
        ON CONFLICT (resource) DO UPDATE SET epoch = excluded.epoch, grant_id = excluded.grant_id
        WHERE excluded.epoch > leasehold_fence_marks.epoch;
END;

INSERT INTO leasehold_admit (resource, epoch, grant_id) VALUES ('outbox', 42, 'fedcba9876543210fedcba9876543210');
