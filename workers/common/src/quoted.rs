//! Quotations in messages.

/// Longer than every name that is allowed.
const LONGEST: usize = 500;

/// What somebody else has sent, as a message may repeat it: in quotes, and its beginning only if it is longer than names are.
pub fn quoted(text: &str) -> String {
    let end = text.floor_char_boundary(LONGEST);
    match text.get(..end) {
        Some(beginning) if end < text.len() => format!("{beginning:?}… ({} bytes)", text.len()),
        _ => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_quoted_whole_and_a_flood_is_cut() {
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
        assert_eq!(quoted(&"x".repeat(LONGEST)).len(), LONGEST + 2);
        let flood = quoted(&"é".repeat(40_000));
        assert!(flood.len() < LONGEST + 50 && flood.ends_with("… (80000 bytes)"), "{flood}");
    }
}
