//! Writing YAML as PyYAML's `safe_dump(default_flow_style=False)` does. Strings that need it are written in double
//! quotes on one line; long ones are not folded.

use super::resolve::{resolve, Scalar};
use crate::config::value::float_repr;
use crate::config::Value;

/// Appends `value` as a block of the given indentation, after `key:` or `-`.
pub(in crate::config) fn dump(out: &mut String, value: &Value, indent: usize, in_list: bool) {
    match value {
        Value::List(items) | Value::Tuple(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                // The first item of a list in a list stands on the line of the outer dash.
                if in_list && i == 0 {
                    out.push_str(" -");
                } else {
                    out.push('\n');
                    out.extend(std::iter::repeat_n(' ', indent));
                    out.push('-');
                }
                dump(out, item, indent + 2, true);
            }
        }
        Value::Dict(pairs) if !pairs.is_empty() => {
            for (i, (key, item)) in pairs.iter().enumerate() {
                if in_list && i == 0 {
                    out.push(' ');
                } else {
                    out.push('\n');
                    out.extend(std::iter::repeat_n(' ', indent));
                }
                out.push_str(&scalar(key));
                out.push(':');
                dump(out, item, if matches!(item, Value::Dict(_)) { indent + 2 } else { indent }, false);
            }
        }
        value => {
            out.push(' ');
            out.push_str(&scalar(value));
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::None => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => float(*value),
        Value::Str(text) => string(text),
        Value::List(_) | Value::Tuple(_) => "[]".into(),
        Value::Dict(_) => "{}".into(),
        other => string(&other.to_string()),
    }
}

fn float(value: f64) -> String {
    if value.is_nan() {
        return ".nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { ".inf".into() } else { "-.inf".into() };
    }
    let text = float_repr(value);
    // YAML 1.1 wants a point in every float.
    match text.split_once('e') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0e{exponent}"),
        _ => text,
    }
}

fn string(text: &str) -> String {
    if text.chars().any(|c| !(' '..='~').contains(&c)) {
        return double_quoted(text);
    }
    if is_plain(text) && resolve(text) == Scalar::Str {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "''"))
}

/// Whether a printable text can stand without quotes in a block.
fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let blank_after_first = bytes.get(1).is_none_or(|b| *b == b' ');
    let bad_start = match bytes.first() {
        None => true,
        Some(b'?' | b':' | b'-') => blank_after_first,
        Some(first) => b"#,[]{}&*!|>'\"%@`".contains(first),
    };
    !(bad_start
        || text.starts_with(' ')
        || text.ends_with([' ', ':'])
        || text.starts_with("---")
        || text.starts_with("...")
        || text.contains(": ")
        || text.contains(" #"))
}

fn double_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            c if u32::from(c) <= 0xff => out.push_str(&format!("\\x{:02X}", u32::from(c))),
            c if u32::from(c) <= 0xffff => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    out.push('"');
    out
}
