//! The constants that Python's JSON has and JSON does not.

/// By the names that Python writes and reads.
pub(super) const ALL: [(&str, f64); 3] =
    [("-Infinity", f64::NEG_INFINITY), ("Infinity", f64::INFINITY), ("NaN", f64::NAN)];

/// The text with the constants in it written as strings; `None` if it has none. What else is wrong with it stays so.
pub(super) fn quoted(text: &[u8]) -> Option<Vec<u8>> {
    let mut quoted = Vec::new();
    let (mut at, mut copied, mut in_string) = (0, 0, false);
    while at < text.len() {
        match text[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'-' | b'I' | b'N' => {
                let names = || ALL.into_iter().map(|(name, _)| name.as_bytes());
                if let Some(name) = names().find(|name| text[at..].starts_with(name)) {
                    quoted.extend_from_slice(&text[copied..at]);
                    quoted.push(b'"');
                    quoted.extend_from_slice(name);
                    quoted.push(b'"');
                    at += name.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return None;
    }
    quoted.extend_from_slice(&text[copied..]);
    Some(quoted)
}
