//! Values from YAML nodes: PyYAML's `SafeConstructor`.

use super::resolve::{resolve, Scalar};
use super::{syntax, Content, Node};
use crate::config::error::{ConfigError, ErrorKind};
use crate::config::Value;

/// Aliases may not blow a document up to more nodes than this.
const MAX_NODES: usize = 200_000;

const YAML: &str = "tag:yaml.org,2002:";

type Pairs = Vec<(Value, Value)>;

#[derive(Default)]
pub(super) struct Constructor {
    nodes: usize,
}

impl Constructor {
    pub(super) fn value(&mut self, node: &Node) -> Result<Value, ConfigError> {
        self.count(node)?;
        match &node.content {
            Content::Scalar { text, plain } => scalar(node, text, *plain),
            Content::Sequence(items) => match core_tag(node) {
                None | Some("seq") => Ok(Value::List(items.iter().map(|i| self.value(i)).collect::<Result<_, _>>()?)),
                Some("omap" | "pairs") => self.pairs(node, items),
                Some(other) => Err(unknown_tag(node, other)),
            },
            Content::Mapping(_) => match core_tag(node) {
                None | Some("map") => Ok(Value::Dict(self.mapping(node)?)),
                Some("set") => Ok(Value::Set(self.mapping(node)?.into_iter().map(|(key, _)| key).collect())),
                Some(other) => Err(unknown_tag(node, other)),
            },
        }
    }

    fn count(&mut self, node: &Node) -> Result<(), ConfigError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(syntax(node.line, format_args!("more than {MAX_NODES} values, aliases included")));
        }
        Ok(())
    }

    /// The pairs of a mapping: those of `<<` first, then its own, each key once with its last value.
    fn mapping(&mut self, node: &Node) -> Result<Pairs, ConfigError> {
        let Content::Mapping(pairs) = &node.content else {
            return Err(syntax(node.line, "expected a mapping to merge"));
        };
        let (mut merged, mut own) = (Pairs::new(), Pairs::new());
        for (key, value) in pairs {
            if is_merge(key) {
                merged.extend(self.merged(value)?);
                continue;
            }
            let name = match &key.content {
                Content::Scalar { text, plain: true } if key.tag.is_none() && text == "=" => Value::Str("=".into()),
                _ => self.value(key)?,
            };
            if !name.is_hashable() {
                return Err(syntax(key.line, "a key that is a list or a mapping"));
            }
            own.push((name, self.value(value)?));
        }
        merged.append(&mut own);
        let mut unique = Pairs::new();
        for (key, value) in merged {
            match unique.iter_mut().find(|(known, _)| *known == key) {
                Some(pair) => pair.1 = value,
                None => unique.push((key, value)),
            }
        }
        Ok(unique)
    }

    /// What `<<` brings: one mapping, or a list of them of which the first wins.
    fn merged(&mut self, node: &Node) -> Result<Pairs, ConfigError> {
        self.count(node)?;
        match &node.content {
            Content::Sequence(items) => {
                let mut all = Pairs::new();
                for item in items.iter().rev() {
                    all.extend(self.mapping(item)?);
                }
                Ok(all)
            }
            _ => self.mapping(node),
        }
    }

    /// `!!omap` and `!!pairs`: a list of mappings with one key each, read as a list of pairs.
    fn pairs(&mut self, node: &Node, items: &[std::rc::Rc<Node>]) -> Result<Value, ConfigError> {
        let mut list = Vec::new();
        for item in items {
            match <[(Value, Value); 1]>::try_from(self.mapping(item)?) {
                Ok([(key, value)]) => list.push(Value::Tuple(vec![key, value])),
                Err(_) => return Err(syntax(node.line, "expected mappings with one key each")),
            }
        }
        Ok(Value::List(list))
    }
}

fn is_merge(key: &Node) -> bool {
    match (&key.content, &key.tag) {
        (Content::Scalar { text, plain: true }, None) => resolve(text) == Scalar::Merge,
        (_, Some(tag)) => tag.strip_prefix(YAML) == Some("merge"),
        _ => false,
    }
}

/// The node's tag without the prefix of YAML's own tags; `None` where it has none.
fn core_tag(node: &Node) -> Option<&str> {
    node.tag.as_deref().filter(|tag| *tag != "!").map(|tag| tag.strip_prefix(YAML).unwrap_or(tag))
}

fn unknown_tag(node: &Node, tag: &str) -> ConfigError {
    syntax(node.line, format_args!("nothing is known about the tag {tag}"))
}

fn scalar(node: &Node, text: &str, plain: bool) -> Result<Value, ConfigError> {
    // A lone `!` means: resolve as if it were plain.
    let plain = plain || node.tag.as_deref() == Some("!");
    let scalar = match core_tag(node) {
        None if plain => resolve(text),
        None | Some("str") => Scalar::Str,
        Some("bool") => Scalar::Bool,
        Some("int") => Scalar::Int,
        Some("float") => Scalar::Float,
        Some("null") => Scalar::Null,
        Some("timestamp") => Scalar::Timestamp,
        Some("binary") => return binary(node, text),
        // An empty scalar may stand for an empty collection: `!!set`, `!!seq` and the like want a real one.
        Some(other) => return Err(unknown_tag(node, other)),
    };
    let bad = |what: &str| ConfigError::new(ErrorKind::Other, format!("line {}: {text:?} is no {what}", node.line));
    match scalar {
        Scalar::Str => Ok(Value::Str(text.to_owned())),
        Scalar::Null => Ok(Value::None),
        Scalar::Bool => match text.to_lowercase().as_str() {
            "yes" | "true" | "on" => Ok(Value::Bool(true)),
            "no" | "false" | "off" => Ok(Value::Bool(false)),
            _ => Err(bad("boolean")),
        },
        Scalar::Int => int(text).map(Value::Int).ok_or_else(|| bad("64-bit integer")),
        Scalar::Float => float(text).map(Value::Float).ok_or_else(|| bad("float")),
        Scalar::Timestamp => Ok(Value::Timestamp(text.to_owned())),
        Scalar::Merge | Scalar::Value => Err(syntax(node.line, format_args!("{text} has no meaning here"))),
    }
}

fn split_sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn int(text: &str) -> Option<i64> {
    let text = text.replace('_', "");
    let (negative, digits) = split_sign(&text);
    let radix = |digits: &str, radix: u32| match digits.starts_with(['+', '-']) {
        true => None,
        false => i128::from_str_radix(digits, radix).ok(),
    };
    let value = match digits.as_bytes() {
        b"0" => Some(0),
        [b'0', b'b', ..] => radix(&digits[2..], 2),
        [b'0', b'x', ..] => radix(&digits[2..], 16),
        [b'0', ..] => radix(digits, 8),
        _ if digits.contains(':') => digits
            .split(':')
            .try_fold(0i128, |sum, part| sum.checked_mul(60)?.checked_add(i128::from(part.parse::<i64>().ok()?))),
        _ => radix(digits, 10),
    }?;
    i64::try_from(if negative { -value } else { value }).ok()
}

fn float(text: &str) -> Option<f64> {
    let text = text.replace('_', "").to_lowercase();
    let (negative, digits) = split_sign(&text);
    let value = match digits {
        ".inf" => f64::INFINITY,
        ".nan" => f64::NAN,
        _ if digits.contains(':') => {
            digits.split(':').try_fold(0.0, |sum, p| Some(sum * 60.0 + p.parse::<f64>().ok()?))?
        }
        _ => digits.parse().ok()?,
    };
    Some(if negative { -value } else { value })
}

/// The bytes of a base64 text.
fn binary(node: &Node, text: &str) -> Result<Value, ConfigError> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for c in text.bytes().filter(|c| !c.is_ascii_whitespace() && *c != b'=') {
        let sextet = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(syntax(node.line, "failed to decode base64 data")),
        };
        bits = bits << 6 | u32::from(sextet);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Ok(Value::Bytes(bytes))
}
