//! A fleet's home (M-2): the database of its effects remembers who leads the work there, a mode and a lease. So a direct
//! change of either is refused, before there are two leaders in two stores.

#[cfg(feature = "postgres")]
pub mod postgres;
pub mod sqlite;

use lease_settings::{App, BadSetting, LeaderElection};

/// Who leads a work: where, and under which lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The mode.
    pub mode: String,
    /// The lease.
    pub lease: String,
}

/// What a database knows of the work on one of its resources.
#[derive(Clone, Debug)]
pub struct KnownWork {
    /// Tells it from the work on any other database; made with the tables.
    pub id: String,
    /// Who led it last; `None` until a term is admitted, and once an operator had it forgotten.
    pub home: Option<Home>,
    /// The greatest epoch that was admitted.
    pub mark: Option<u64>,
}

/// Where a fleet leads, and where it may come from.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Its home from its first admitted term on.
    pub home: Home,
    /// The mode that it comes from, `leaderElection.migrateFrom`; the lease has the same name there.
    pub from: Option<String>,
}

impl Settlement {
    /// May this fleet lead what is at home there?
    fn may_take(&self, known: &Home) -> bool {
        let modes = [Some(&self.home.mode), self.from.as_ref()];
        known.lease == self.home.lease && modes.contains(&Some(&known.mode))
    }

    /// Is it at home here already?
    pub(crate) fn is_at(&self, known: &KnownWork) -> bool {
        known.home.as_ref() == Some(&self.home)
    }

    /// Refuses what would make a second fleet. `role` names the operator's command.
    ///
    /// # Errors
    /// The work is at home elsewhere: the setting, and what to do.
    pub(crate) fn check(&self, known: &KnownWork, app: &App, role: &str) -> Result<(), BadSetting> {
        let Some(home) = known.home.as_ref().filter(|home| !self.may_take(home)) else { return Ok(()) };
        let Home { mode, lease } = home;
        let remembers = format!(
            "the database of this work remembers that it is led in mode {mode}, under lease {lease}, and two fleets must \
             not lead it"
        );
        let forget = format!("stop all its workers and run `leasehold worker {role} --forget-home`");
        let refuse = |key, why| Err(app.settings().refuse::<LeaderElection>(key, why));
        if *lease != self.home.lease {
            return refuse(
                "leaseName",
                format!("{remembers}: use that name; to give it another one, {forget}"),
            );
        }
        refuse(
            "mode",
            format!(
                "{remembers}: set leaderElection.migrateFrom to {mode} for one upgrade, and the workers change over; \
                 if that store is gone for good, {forget}"
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_takes_over_from_the_mode_that_it_names_and_from_no_other_lease() {
        let home = |mode: &str, lease: &str| Home { mode: mode.to_owned(), lease: lease.to_owned() };
        let fleet = Settlement { home: home("postgres", "a"), from: Some("etcd".to_owned()) };
        assert!(fleet.may_take(&home("postgres", "a")));
        assert!(fleet.may_take(&home("etcd", "a")));
        assert!(!fleet.may_take(&home("k8s", "a")));
        assert!(!fleet.may_take(&home("etcd", "b")));
        assert!(!fleet.may_take(&home("postgres", "b")));
        assert!(!Settlement { from: None, ..fleet }.may_take(&home("etcd", "a")));
    }
}
