//! Values on the command line.

use std::time::Duration;

use jiff::SignedDuration;

/// A length of time with its unit: `1s`, `500ms`, `1m 30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let how = "use a number with its unit, for example 2s or 500ms";
    let span: SignedDuration = text.parse().map_err(|error| format!("{error}; {how}"))?;
    Duration::try_from(span)
        .ok()
        .filter(|span| !span.is_zero())
        .ok_or_else(|| format!("must be more than 0; {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_needs_a_unit_and_is_more_than_nothing() {
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        for bad in ["5", "0s", "-1s", "soon", ""] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
