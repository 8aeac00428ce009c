//! The events that every canonical store can keep. What else a database refuses, it refuses by itself.

use lease_worker_common::quoted::quoted;

use super::ArrivedEvent;

/// The deepest that a payload may be nested: SQLite ends at 1,000, Postgres where its stack does.
const DEEPEST: usize = 500;

/// # Errors
/// Why the event can't be kept.
pub fn check(event: &ArrivedEvent<'_>) -> Result<(), String> {
    let key = &event.key;
    if key.tenant_id.contains('\0') || key.workload_instance_id.contains('\0') {
        return Err(format!(
            "event {}: the id holds a NUL character, which no store keeps",
            quoted(&key.id())
        ));
    }
    if depth(event.payload.get()) > DEEPEST {
        return Err(format!("event {}: its data are nested more than {DEEPEST} deep", quoted(&key.id())));
    }
    Ok(())
}

/// Of valid JSON. Without a stack: that of a parser is what such data use up.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_brackets_outside_of_strings_nest() {
        for (json, expected) in
            [("7", 0), ("[]", 1), (r#"{"a":[1,{"b":2}],"c":[[]]}"#, 3), (r#"["[[[\"[[", "\\", []]"#, 2)]
        {
            assert_eq!(depth(json), expected, "{json}");
        }
    }
}
