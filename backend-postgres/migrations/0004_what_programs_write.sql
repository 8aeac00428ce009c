-- Times hold only what a program writes: 'infinity' in a column for people once stopped every candidate, and a ttl of
-- 2^63−1 has them wait for ever. No ttl is longer than a day.
-- {schema} stands for the quoted name of the schema.

-- Rows that a hand has spoilt are put right first: the checks would refuse them.
UPDATE {schema}.coordination_leases SET
    acquired_at = greatest(least(acquired_at, '9999-12-31 23:59:59+00'), '0001-01-01 00:00:00+00'),
    renewed_at  = greatest(least(renewed_at, '9999-12-31 23:59:59+00'), '0001-01-01 00:00:00+00'),
    expires_at  = greatest(least(expires_at, '9999-12-31 23:59:59+00'), '0001-01-01 00:00:00+00'),
    ttl_ms      = least(ttl_ms, 86400000),
    max_ttl_ms  = least(max_ttl_ms, 86400000)
WHERE NOT (acquired_at BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59+00'
       AND renewed_at  BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59+00'
       AND expires_at  BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59+00'
       AND ttl_ms <= 86400000 AND max_ttl_ms <= 86400000);

ALTER TABLE {schema}.coordination_leases
    ADD CONSTRAINT coordination_leases_times CHECK (
            acquired_at BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59+00'
        AND renewed_at  BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59+00'
        AND expires_at  BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59+00'),
    ADD CONSTRAINT coordination_leases_ttls CHECK (ttl_ms <= 86400000 AND max_ttl_ms <= 86400000);
