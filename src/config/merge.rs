//! yacs' rules for a single value: which values may replace which, and what to say when they may not.

use super::error::{ConfigError, ErrorKind};
use super::literal::{self, LiteralError};
use super::node::dotted;
use super::value::{str_repr, Value};

/// "the int 5", for messages.
pub(super) fn described(value: &Value) -> String {
    match value {
        Value::None => "None".into(),
        value => format!("the {} {value}", value.type_name()),
    }
}

pub(super) fn key_not_a_string(key: &Value) -> ConfigError {
    ConfigError::new(ErrorKind::Other, format!("expected a name as key, found {}", described(key)))
}

/// Refuses values of types that no leaf can have, before anything is merged.
pub(super) fn check_leaves(pairs: &[(Value, Value)], above: &str) -> Result<(), ConfigError> {
    for (key, value) in pairs {
        match (key, value) {
            (Value::Str(key), Value::Dict(pairs)) => check_leaves(pairs, &dotted(above, key))?,
            (key, Value::Dict(_)) => return Err(key_not_a_string(key)),
            (_, value) if value.is_valid_leaf() => {}
            (key, value) => {
                let key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                let message = format!("{} is of a type that no key can have", described(value));
                return Err(ConfigError::new(ErrorKind::InvalidLeafType, message).with_key(&dotted(above, &key)));
            }
        }
    }
    Ok(())
}

/// A value after strings were read as literals. A mapping of the YAML file is a section, a dict literal is not.
pub(super) enum Decoded {
    Section(Vec<(Value, Value)>),
    Leaf(Value),
}

pub(super) fn decode(value: Value, key: &str) -> Result<Decoded, ConfigError> {
    match value {
        Value::Dict(pairs) => Ok(Decoded::Section(pairs)),
        Value::Str(text) => match literal::parse(&text) {
            Ok(value) => Ok(Decoded::Leaf(value)),
            Err(LiteralError::NotALiteral { .. }) => Ok(Decoded::Leaf(Value::Str(text))),
            Err(error) => Err(ConfigError::new(ErrorKind::Other, format!("{text:?}: {error}")).with_key(key)),
        },
        other => Ok(Decoded::Leaf(other)),
    }
}

/// A text that [`decode`] turns into `text`.
pub(super) fn undecodable(text: &str) -> String {
    match literal::parse(text) {
        Err(LiteralError::NotALiteral { .. }) => text.to_owned(),
        _ => str_repr(text),
    }
}

pub(super) fn section_expected(key: &str, found: &Decoded) -> ConfigError {
    let found = match found {
        Decoded::Section(_) => "a section".into(),
        Decoded::Leaf(value) => described(value),
    };
    let hint = "give the keys of the section one by one, as KEY.SUBKEY or as a YAML mapping".to_owned();
    let message = format!("expected a section with keys, found {found}");
    ConfigError::new(ErrorKind::TypeMismatch, message).with_key(key).with_hint(Some(hint))
}

/// The value that `replacement` gives in the place of `original`.
pub(super) fn coerce(original: &Value, replacement: Decoded, key: &str) -> Result<Value, ConfigError> {
    let replacement = match replacement {
        Decoded::Leaf(value) => value,
        Decoded::Section(_) => {
            let message = format!("expected {}, found a section", expected(original));
            return Err(ConfigError::new(ErrorKind::TypeMismatch, message).with_key(key));
        }
    };
    let valid = replacement.is_valid_leaf();
    match (original, replacement) {
        (Value::None, value) if valid => Ok(value),
        (_, Value::None) => Ok(Value::None),
        (Value::Tuple(_), Value::List(items)) => Ok(Value::Tuple(items)),
        (Value::List(_), Value::Tuple(items)) => Ok(Value::List(items)),
        (Value::Float(_), Value::Int(value)) => Ok(Value::Float(value as f64)),
        (original, value) if valid && std::mem::discriminant(original) == std::mem::discriminant(&value) => Ok(value),
        (original, value) => {
            let message = format!("expected {}, found {}", expected(original), described(&value));
            let hint = hint(original, &value);
            Err(ConfigError::new(ErrorKind::TypeMismatch, message).with_key(key).with_hint(hint))
        }
    }
}

fn expected(original: &Value) -> String {
    match original {
        Value::None => "a value".into(),
        original => format!("a value of type {} such as {original}", original.type_name()),
    }
}

/// How to write what was probably meant.
fn hint(original: &Value, found: &Value) -> Option<String> {
    match (original, found) {
        (Value::Bool(_), Value::Str(text)) if matches!(text.to_lowercase().as_str(), "true" | "yes" | "on") => {
            Some("write True".into())
        }
        (Value::Bool(_), Value::Str(text)) if matches!(text.to_lowercase().as_str(), "false" | "no" | "off") => {
            Some("write False".into())
        }
        (Value::Bool(_), Value::Int(0)) => Some("write False".into()),
        (Value::Bool(_), Value::Int(1)) => Some("write True".into()),
        (Value::Int(_), Value::Float(value)) if value.fract() == 0.0 && value.abs() < 1e15 => {
            Some(format!("write {}", *value as i64))
        }
        (Value::Str(_), Value::Bool(_) | Value::Int(_) | Value::Float(_)) => {
            Some(format!("to give it as text, quote it for Python too: \"'{found}'\""))
        }
        (Value::Tuple(_) | Value::List(_), Value::Str(text)) if text.contains(['(', '[', ',']) => {
            Some("this is not a Python tuple or list; are brackets or quotes missing?".into())
        }
        (Value::Tuple(_) | Value::List(_), Value::Int(_) | Value::Float(_) | Value::Str(_)) => {
            Some(format!("write ({found},) with a comma for one item"))
        }
        _ => None,
    }
}
