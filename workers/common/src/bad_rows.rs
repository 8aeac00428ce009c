//! Bad rows: one that a database or a receiver refuses doesn't hold up the others.
//!
//! A batch that was refused is halved until the bad row is alone. Then that row is left out, and named, and the work goes
//! on behind it. It is tried again after a while: somebody may have put it right.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sqlx::error::DatabaseError;

/// The time for which a row is left out.
const LEFT_OUT_FOR: Duration = Duration::from_secs(15);
/// More bad rows than this at a time are nobody's bad luck: then the work waits, as after every other failure.
const MOST_LEFT_OUT: usize = 20;

/// The batches of one term.
#[derive(Debug)]
pub struct Batches<Row> {
    /// Smaller than usual after a refusal; doubled by each full batch.
    size: Option<u32>,
    left_out: VecDeque<(Instant, Row)>,
}

impl<Row> Default for Batches<Row> {
    fn default() -> Self {
        Self { size: None, left_out: VecDeque::new() }
    }
}

impl<Row: Clone> Batches<Row> {
    /// The most rows in the next batch, of `usual` at most.
    pub fn size(&self, usual: u32) -> u32 {
        self.size.unwrap_or(usual)
    }

    /// Nothing was refused lately.
    pub fn are_usual(&self) -> bool {
        self.size.is_none() && self.left_out.is_empty()
    }

    /// A batch of `rows`, more than one, was refused: the next one is half of it.
    pub fn halve(&mut self, rows: usize) {
        self.size = Some(u32::try_from(rows / 2).unwrap_or(u32::MAX).max(1));
    }

    /// A batch was done.
    pub fn done(&mut self, full: bool, usual: u32) {
        self.size = self.size.map(|size| size.saturating_mul(2)).filter(|size| full && *size < usual);
    }

    /// A row was refused by itself. False if too many are left out already.
    pub fn leave_out(&mut self, row: Row) -> bool {
        let room = self.left_out.len() < MOST_LEFT_OUT;
        if room {
            self.left_out.push_back((Instant::now() + LEFT_OUT_FOR, row));
        }
        room
    }

    /// The rows that the next batch has to be without.
    pub fn left_out(&mut self) -> Vec<Row> {
        let now = Instant::now();
        self.left_out.retain(|(until, _)| *until > now);
        self.left_out.iter().map(|(_, row)| row.clone()).collect()
    }
}

/// Did a database refuse the data themselves, so that asking again would never help?
pub fn is_of_the_data(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|code| match code.len() {
        // Postgres: data exceptions, broken constraints, and what is too large or nested too deeply.
        5 => ["22", "23", "54"].contains(&&code[..2]),
        // SQLite: too big, a broken constraint, a wrong type; the low byte of the code says which.
        _ => code.parse::<u32>().is_ok_and(|code| [18, 19, 20].contains(&(code & 0xff))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_batch_shrinks_to_the_bad_row_and_grows_again_behind_it() {
        let mut batches = Batches::default();
        assert!(batches.are_usual());
        for expected in [50, 25, 12, 6, 3, 1] {
            batches.halve(batches.size(100) as usize);
            assert_eq!(batches.size(100), expected);
        }
        assert!(batches.leave_out(7));
        assert_eq!(batches.left_out(), [7]);
        for expected in [2, 4, 8, 16, 32, 64, 100] {
            batches.done(true, 100);
            assert_eq!(batches.size(100), expected);
        }
        assert!(!batches.are_usual(), "one is left out");
    }

    #[test]
    fn too_many_bad_rows_are_no_bad_rows() {
        let mut batches = Batches::default();
        let left_out = (0..100).filter(|row| batches.leave_out(*row)).count();
        assert_eq!((left_out, batches.left_out().len()), (MOST_LEFT_OUT, MOST_LEFT_OUT));
    }
}
