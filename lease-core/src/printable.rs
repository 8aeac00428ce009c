//! Texts of a store's, for a terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// The text with everything escaped that a terminal or a reader would not show as it stands: control characters (line
/// breaks among them), line and paragraph separators, and characters that reorder or hide others.
///
/// Whoever may write to a store chooses the texts in its records. JSON stays valid, and means the same.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            character if is_hidden(character) => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(shown, "\\u{unit:04x}").expect("a string takes everything");
                }
            }
            character => shown.push(character),
        }
    }
    Cow::Owned(shown)
}

/// A control character, a separator of lines, or one of Unicode's format characters.
pub(crate) fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_terminal_obeys_and_what_a_reader_does_not_see() {
        for (text, shown) in [
            ("\u{1b}[2Jpod-1\u{7}", r"\u001b[2Jpod-1\u0007"),
            ("a\nheld by b\r\t", r"a\nheld by b\r\t"),
            ("\u{9b}31m\u{7f}", r"\u009b31m\u007f"),
            ("pod\u{202e}1-dop\u{2066}", r"pod\u202e1-dop\u2066"),
            ("a\u{2028}b\u{200b}c\u{feff}", r"a\u2028b\u200bc\ufeff"),
            ("\u{e0041}", r"\udb40\udc41"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn leaves_every_other_text_alone() {
        for text in ["", "outbox-forwarder", "Größe 大 क्षि e\u{301} 🚀 \"\\'"] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn json_means_the_same() {
        let text = "\u{1b}\u{9b}\u{202e}\u{e0041}\n";
        let json = serde_json::to_string(text).expect("text");
        assert_eq!(serde_json::from_str::<String>(&printable(&json)).expect("JSON"), text);
        assert!(!printable(&json).contains(is_hidden));
    }
}
