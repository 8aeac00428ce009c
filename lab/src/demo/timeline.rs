//! The terms over time, drawn with characters.

use crate::epoch::{epoch_in_words, within_timeline};

/// The forwarders.
pub(super) const NAMES: [&str; 3] = ["forwarder-a", "forwarder-b", "forwarder-c"];

/// One forwarder at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    Leads(u64),
    StandsBy,
    Stopped,
    Killed,
    Paused,
}

/// The meaning of the characters.
pub(super) const LEGEND: &str =
    "━ leads, from the epoch written there · stands by  × killed  z paused  (blank: stopped)";

/// One row for each forwarder, at most `width` columns; and how many samples a column stands for.
pub(super) fn rows(samples: &[[Activity; 3]], width: usize) -> ([String; 3], usize) {
    let step = samples.len().div_ceil(width.max(1)).max(1);
    let columns: Vec<_> = samples.chunks(step).map(|chunk| chunk[chunk.len() - 1]).collect();
    let row = |number: usize| {
        let mut row: Vec<char> = columns.iter().map(|column| character(column[number])).collect();
        let mut previous = None;
        for (at, column) in columns.iter().enumerate() {
            let epoch = match column[number] {
                Activity::Leads(epoch) => Some(epoch),
                _ => None,
            };
            if let Some(epoch) = epoch
                && previous != Some(epoch)
            {
                // Never over another state than that of the same term.
                let same = columns[at..]
                    .iter()
                    .take_while(|column| column[number] == Activity::Leads(epoch))
                    .count();
                let digits = within_timeline(epoch).to_string();
                if digits.len() <= same {
                    row.splice(at..at + digits.len(), digits.chars());
                }
            }
            previous = epoch;
        }
        row.into_iter().collect()
    };
    (std::array::from_fn(row), step)
}

fn character(cell: Activity) -> char {
    match cell {
        Activity::Leads(_) => '━',
        Activity::StandsBy => '·',
        Activity::Stopped => ' ',
        Activity::Killed => '×',
        Activity::Paused => 'z',
    }
}

/// A state in words.
pub(super) fn word(cell: Activity) -> String {
    match cell {
        Activity::Leads(epoch) => format!("leads, epoch {}", epoch_in_words(epoch)),
        Activity::StandsBy => "stands by".to_owned(),
        Activity::Stopped => "stopped".to_owned(),
        Activity::Killed => "killed".to_owned(),
        Activity::Paused => "paused".to_owned(),
    }
}

/// The whole picture, with a time axis; a sample is half a second.
pub(super) fn picture(samples: &[[Activity; 3]]) -> String {
    let (rows, step) = rows(samples, 72);
    let columns = samples.len().div_ceil(step);
    let per_mark = 20usize.div_ceil(step);
    let mut axis = String::new();
    for column in (0..columns).step_by(per_mark) {
        let mark = format!("|{} s", column * step / 2);
        axis.push_str(&format!("{mark:<per_mark$}"));
    }
    let mut picture = format!("  {:<12} {}\n", "", axis.trim_end());
    for (name, row) in NAMES.iter().zip(rows) {
        picture.push_str(&format!("  {name:<12} {row}\n"));
    }
    picture + "  " + LEGEND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_stand_where_their_terms_begin() {
        let lead = |a, b| [a, b, Activity::StandsBy];
        let samples: Vec<_> = [
            vec![lead(Activity::Leads(9), Activity::StandsBy); 3],
            vec![lead(Activity::Killed, Activity::StandsBy); 2],
            vec![lead(Activity::StandsBy, Activity::Leads(10)); 3],
            vec![lead(Activity::Leads(11), Activity::Paused); 1],
        ]
        .concat();
        let (rows, step) = rows(&samples, 72);
        assert_eq!((rows, step), (["9━━××···━".into(), "·····10━z".into(), "·········".into()], 1));
    }
}
