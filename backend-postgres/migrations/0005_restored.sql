-- `leasehold restored` leaves a row, too.

ALTER TABLE {schema}.coordination_lease_history
    DROP CONSTRAINT coordination_lease_history_event_type_check,
    ADD CONSTRAINT coordination_lease_history_event_type_check CHECK (event_type IN
        ('acquired', 'taken_over', 'released', 'revoked', 'stepped_down', 'expired_observed', 'sealed', 'restored'));
