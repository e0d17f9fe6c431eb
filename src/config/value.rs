//! The values a configuration leaf, a Python literal or a YAML document can have.

use std::fmt;

/// A Python value. The first seven kinds are what a leaf of the configuration may hold; the others exist so that a
/// literal or a YAML scalar of such a type can be named when it is refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`, YAML's `null`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer; Python's larger ones are refused.
    Int(i64),
    /// A float.
    Float(f64),
    /// Text.
    Str(String),
    /// A list, YAML's sequence.
    List(Vec<Value>),
    /// A tuple.
    Tuple(Vec<Value>),
    /// A dict, YAML's mapping: keys in the order of their first appearance.
    Dict(Vec<(Value, Value)>),
    /// A set, without repetitions.
    Set(Vec<Value>),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Real and imaginary part.
    Complex(f64, f64),
    /// A YAML date or time, as written.
    Timestamp(String),
    /// `...`
    Ellipsis,
}

impl Value {
    /// Python's name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::Set(_) => "set",
            Value::Bytes(_) => "bytes",
            Value::Complex(..) => "complex",
            Value::Timestamp(_) => "date",
            Value::Ellipsis => "ellipsis",
        }
    }

    /// Whether yacs takes such a value as a leaf (the items of lists and tuples are not looked at).
    pub fn is_valid_leaf(&self) -> bool {
        use Value::*;
        matches!(self, None | Bool(_) | Int(_) | Float(_) | Str(_) | List(_) | Tuple(_))
    }

    /// The text, where the value is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_hashable(&self) -> bool {
        match self {
            Value::List(_) | Value::Dict(_) | Value::Set(_) => false,
            Value::Tuple(items) => items.iter().all(Value::is_hashable),
            _ => true,
        }
    }
}

/// Prints the value as Python's `repr` does.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("None"),
            Value::Bool(true) => f.write_str("True"),
            Value::Bool(false) => f.write_str("False"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Float(value) => f.write_str(&float_repr(*value)),
            Value::Str(text) => f.write_str(&str_repr(text)),
            Value::List(items) => write_items(f, "[", items, "]"),
            Value::Tuple(items) if items.len() == 1 => write!(f, "({},)", items[0]),
            Value::Tuple(items) => write_items(f, "(", items, ")"),
            Value::Set(items) if items.is_empty() => f.write_str("set()"),
            Value::Set(items) => write_items(f, "{", items, "}"),
            Value::Dict(pairs) => {
                f.write_str("{")?;
                for (i, (key, value)) in pairs.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
            Value::Bytes(bytes) => write!(f, "b'{}'", bytes.escape_ascii()),
            Value::Complex(re, im) if *re == 0.0 => write!(f, "{im}j"),
            Value::Complex(re, im) => write!(f, "({re}{im:+}j)"),
            Value::Timestamp(text) => f.write_str(text),
            Value::Ellipsis => f.write_str("Ellipsis"),
        }
    }
}

fn write_items(f: &mut fmt::Formatter<'_>, open: &str, items: &[Value], close: &str) -> fmt::Result {
    f.write_str(open)?;
    for (i, item) in items.iter().enumerate() {
        write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
    }
    f.write_str(close)
}

/// Python's `repr` of a float: the shortest digits that give the number back, with an exponent below 1e-4 and from
/// 1e16 on.
pub(super) fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{value:?}")
}

/// Python's `repr` of a string.
pub(super) fn str_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (0.0001, "0.0001"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.0 / 3.0, "0.3333333333333333"),
            (2.5e300, "2.5e+300"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(float_repr(value), text);
        }
    }

    #[test]
    fn values_print_as_in_python() {
        let value = Value::Tuple(vec![Value::List(vec![Value::None, Value::Bool(true)]), Value::Str("it's".into())]);
        assert_eq!(value.to_string(), "([None, True], \"it's\")");
        assert_eq!(Value::Tuple(vec![Value::Int(1)]).to_string(), "(1,)");
        assert_eq!(str_repr("a'\"\n"), "'a\\'\"\\n'");
    }
}
