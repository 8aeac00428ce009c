//! Each change that makes a program wrong in one place, and the existing test that must see it.

/// What is put in the place of what, in one file of the sources.
pub(crate) enum Change {
    /// Code. `WRONG` in the new one asks whether it is this patch's turn.
    Code { find: &'static str, with: &'static str },
    /// A text that the file includes by this expression.
    Text { include: &'static str, find: &'static str, with: &'static str },
}

pub(crate) struct Patch {
    pub(crate) name: &'static str,
    pub(crate) file: &'static str,
    pub(crate) change: Change,
    /// The package, its test program, and the part of a test's name that picks those that must fail.
    pub(crate) test: (&'static str, &'static str, &'static str),
}

const fn code(
    name: &'static str,
    file: &'static str,
    find: &'static str,
    with: &'static str,
    test: (&'static str, &'static str, &'static str),
) -> Patch {
    Patch { name, file, change: Change::Code { find, with }, test }
}

const fn sql(
    name: &'static str,
    (file, include): (&'static str, &'static str),
    find: &'static str,
    with: &'static str,
    test: (&'static str, &'static str, &'static str),
) -> Patch {
    Patch { name, file, change: Change::Text { include, find, with }, test }
}

const PREPARE: &str = "workers/spendguard/src/ledger/prepare.rs";
const SCOPES: (&str, &str) = (PREPARE, r#"include_str!("sql/scopes.sql")"#);
const RESERVATIONS: (&str, &str) = (PREPARE, r#"include_str!("sql/reservations.sql")"#);

pub(crate) const PATCHES: &[Patch] = &[
    // === the guard ===
    code(
        "guard: the watchdog sets no timer",
        "cli/src/run/watchdog.rs",
        "if !cfg!(debug_assertions) ||",
        "if !WRONG && (!cfg!(debug_assertions)) || !WRONG &&",
        ("cli", "guard", "with_all_of_our_processes_stopped_the_whole_family_is_dead_by_the_deadline"),
    ),
    code(
        "guard: the keeper leaves a dead guard's command alone",
        "cli/src/run/keeper.rs",
        "term.stop(&self.isolation, Signal::TERM, kill_at);\n            return Ok(false);",
        "if !WRONG { term.stop(&self.isolation, Signal::TERM, kill_at); }\n            return Ok(false);",
        ("cli", "guard", "a_killed_guards_descendants_die_soon::pid"),
    ),
    code(
        "guard: the watchdog wakes no stopped keeper",
        "cli/src/run/watchdog.rs",
        "self.keeper.wake();",
        "if !WRONG { self.keeper.wake(); }",
        ("cli", "guard", "a_stopped_keeper_is_woken_by_its_guard::none"),
    ),
    code(
        "guard: wakes no stopped watchdog",
        "cli/src/run/keeper_handle.rs",
        "self.watchdog.wake();",
        "if !WRONG { self.watchdog.wake(); }",
        ("cli", "guard", "a_stopped_watchdog_is_woken_by_its_guard::none"),
    ),
    code(
        "guard: the end of the command counts as the end of its descendants",
        "cli/src/run/keeper.rs",
        "        if none_left {",
        "        if none_left || WRONG && term.ended.is_some() {",
        ("cli", "guard", "descendants_keep_the_lease_until_they_are_dead::none"),
    ),
    code(
        "guard: tells a deadline that is later than the true one",
        "cli/src/run/hold.rs",
        "now.plus(self.leadership.remaining())",
        "now.plus(self.leadership.remaining()).plus(Duration::from_secs(if WRONG { 20 } else { 0 }))",
        (
            "cli",
            "guard",
            "a_stopped_guards_descendants_die_by_the_deadline_and_the_successor_comes_after::pid",
        ),
    ),
    // === the workers' SQL, on Postgres ===
    sql(
        "SQL: admits any grant of the epoch",
        SCOPES,
        "AND current_epoch = p_epoch AND current_grant = p_grant;",
        "AND current_epoch = p_epoch;",
        ("cli", "ledger", "fences::every_part_of_the_term_must_be_the_present_one"),
    ),
    sql(
        "SQL: admits any epoch of the grant",
        SCOPES,
        "AND current_epoch = p_epoch AND current_grant = p_grant;",
        "AND current_grant = p_grant;",
        ("cli", "ledger", "fences::every_part_of_the_term_must_be_the_present_one"),
    ),
    sql(
        "SQL: admits whoever it is",
        SCOPES,
        "AND tenant_id = p_tenant AND current_holder_instance_id = p_owner\n              AND current_epoch = p_epoch",
        "AND tenant_id = p_tenant\n              AND current_epoch = p_epoch",
        ("cli", "ledger", "fences::every_part_of_the_term_must_be_the_present_one"),
    ),
    sql(
        "SQL: a write takes no lock of its scope",
        SCOPES,
        "    PERFORM pg_advisory_xact_lock_shared(ledger_scope_lock(p_scope));\n    PERFORM FROM fencing_scopes",
        "    PERFORM FROM fencing_scopes",
        ("cli", "ledger", "held::a_takeover_waits_for_a_write_that_was_admitted"),
    ),
    sql(
        "SQL: reserves what is not there",
        RESERVATIONS,
        "AND limit_minor - reserved_minor - committed_minor >= p_amount;",
        ";",
        ("cli", "ledger", "budgets::is_never_overdrawn_by_many_at_once"),
    ),
    sql(
        "SQL: spends what has expired",
        RESERVATIONS,
        "ELSIF p_action = 'commit' AND v_was.ttl_expires_at <= clock_timestamp() THEN",
        "ELSIF false THEN",
        ("cli", "ledger", "writes::an_expired_reservation_is_not_spent"),
    ),
    sql(
        "SQL: sweeps what lives",
        RESERVATIONS,
        "WHERE current_state = 'reserved' AND ttl_expires_at <= v_now",
        "WHERE current_state = 'reserved'",
        ("cli", "ledger", "sweeping::leaves_live_reservations_alone"),
    ),
    sql(
        "SQL: a sweep is admitted in any term",
        RESERVATIONS,
        "    PERFORM leasehold_admit('ttl_sweeper', p_epoch, p_grant);\n    SELECT array_agg(reservation_id) INTO v_ids FROM (\n        \
         SELECT reservation_id FROM reservations\n        WHERE current_state = 'reserved'",
        "    SELECT array_agg(reservation_id) INTO v_ids FROM (\n        \
         SELECT reservation_id FROM reservations\n        WHERE current_state = 'reserved'",
        ("cli", "ledger", "sweeping::a_late_batch_of_a_paused_leader_is_refused"),
    ),
    code(
        "SQL: marks rows in any term",
        "workers/spendguard/src/outbox/postgres.rs",
        "                self.fence.admit(tx, &term).await?;\n                let marked",
        "                if !WRONG { self.fence.admit(tx, &term).await?; }\n                let marked",
        ("cli", "roles", "pauses::postgres_a_late_mark_is_refused_by_the_outbox"),
    ),
    code(
        "SQL: marks rows in any term of SQLite",
        "workers/spendguard/src/outbox/sqlite.rs",
        "        self.fence.admit(&mut tx, &term).await?;\n        let marked",
        "        if !WRONG { self.fence.admit(&mut tx, &term).await?; }\n        let marked",
        ("cli", "roles", "pauses::sqlite_a_late_mark_is_refused_by_the_outbox"),
    ),
];
