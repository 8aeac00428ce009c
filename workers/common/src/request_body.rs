//! Requests in JSON.

use serde::Deserialize;

/// Reads a request.
///
/// # Errors
/// Where it can't be read, and why: `[3].time: …`.
pub fn read<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| error.to_string())?;
    json.end().map_err(|error| error.to_string())?;
    Ok(read)
}
