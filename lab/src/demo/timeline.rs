//! Who led when, as a picture made of characters.

use super::screen::{Cell, NAMES, epoch_in_words, within_timeline};

/// What the characters mean.
pub(super) const LEGEND: &str =
    "━ leads, from the epoch written there · stands by  × killed  z paused  (blank: stopped)";

/// One row for each forwarder, at most `width` columns; and how many samples a column stands for.
pub(super) fn rows(samples: &[[Cell; 3]], width: usize) -> ([String; 3], usize) {
    let step = samples.len().div_ceil(width.max(1)).max(1);
    let columns: Vec<_> = samples.chunks(step).map(|chunk| chunk[chunk.len() - 1]).collect();
    let row = |number: usize| {
        let mut row: Vec<char> = columns.iter().map(|column| character(column[number])).collect();
        let mut previous = None;
        for (at, column) in columns.iter().enumerate() {
            let epoch = match column[number] {
                Cell::Leads(epoch) => Some(epoch),
                _ => None,
            };
            if let Some(epoch) = epoch
                && previous != Some(epoch)
            {
                // Never over another state than that of the same term.
                let same =
                    columns[at..].iter().take_while(|column| column[number] == Cell::Leads(epoch)).count();
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

fn character(cell: Cell) -> char {
    match cell {
        Cell::Leads(_) => '━',
        Cell::StandsBy => '·',
        Cell::Stopped => ' ',
        Cell::Killed => '×',
        Cell::Paused => 'z',
    }
}

/// A state in words.
pub(super) fn word(cell: Cell) -> String {
    match cell {
        Cell::Leads(epoch) => format!("leads, epoch {}", epoch_in_words(epoch)),
        Cell::StandsBy => "stands by".to_owned(),
        Cell::Stopped => "stopped".to_owned(),
        Cell::Killed => "killed".to_owned(),
        Cell::Paused => "paused".to_owned(),
    }
}

/// The whole picture, with a time axis; a sample is half a second.
pub(super) fn picture(samples: &[[Cell; 3]]) -> String {
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
        let lead = |a, b| [a, b, Cell::StandsBy];
        let samples: Vec<_> = [
            vec![lead(Cell::Leads(9), Cell::StandsBy); 3],
            vec![lead(Cell::Killed, Cell::StandsBy); 2],
            vec![lead(Cell::StandsBy, Cell::Leads(10)); 3],
            vec![lead(Cell::Leads(11), Cell::Paused); 1],
        ]
        .concat();
        let (rows, step) = rows(&samples, 72);
        assert_eq!((rows, step), (["9━━××···━".into(), "·····10━z".into(), "·········".into()], 1));
    }
}
