-- The columns for people hold only what a program writes: 'infinity' there once stopped every candidate.
-- {schema} stands for the quoted name of the schema.

-- Rows that a hand has spoilt are put right first: the check would refuse them.
UPDATE {schema}.coordination_leases SET
    acquired_at = greatest(least(acquired_at, '9999-12-31 23:59:59+00'), '0001-01-01 00:00:00+00'),
    renewed_at  = greatest(least(renewed_at, '9999-12-31 23:59:59+00'), '0001-01-01 00:00:00+00'),
    expires_at  = greatest(least(expires_at, '9999-12-31 23:59:59+00'), '0001-01-01 00:00:00+00')
WHERE NOT (acquired_at BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59+00'
       AND renewed_at  BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59+00'
       AND expires_at  BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59+00');

ALTER TABLE {schema}.coordination_leases ADD CONSTRAINT coordination_leases_times CHECK (
        acquired_at BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59+00'
    AND renewed_at  BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59+00'
    AND expires_at  BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59+00');
