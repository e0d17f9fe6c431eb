//! The configuration as a tree of named values, with the rules of yacs' `CfgNode`: how YAML files and `KEY VALUE` lists
//! are merged into the defaults, and how the result is printed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::error::{closest_key, ConfigError, ErrorKind};
use super::merge::{check_leaves, coerce, decode, described, key_not_a_string, section_expected, undecodable, Decoded};
use super::{typed, yaml, Config, Value};

/// A section of the configuration: keys with values or further sections.
///
/// # Rules of merging
/// - Every string value is first read as a Python literal ([`literal`](super::literal)); what is no literal stays a
///   string.
/// - A key that the tree does not have is an error, and so is a value of another type than the present one, with these
///   exceptions: lists and tuples take each other's values (their items are not looked at), `None` replaces anything
///   and is replaced by anything, and an integer is accepted where a float is expected (yacs refuses it).
/// - Merging is not atomic: what comes before an error is already merged.
/// - [`freeze`](Self::freeze) stops [`set`](Self::set), not merging.
#[derive(Clone, Debug, PartialEq)]
pub struct CfgNode {
    entries: BTreeMap<String, Node>,
    frozen: bool,
}

/// What a key of a section holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// Further keys.
    Section(CfgNode),
    /// A value.
    Leaf(Value),
}

/// The defaults.
impl Default for CfgNode {
    fn default() -> Self {
        Config::default().to_node()
    }
}

impl CfgNode {
    pub(super) fn from_entries(entries: BTreeMap<String, Node>) -> Self {
        Self { entries, frozen: false }
    }

    /// The keys of this section with what they hold, in alphabetical order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.entries.iter().map(|(key, node)| (key.as_str(), node))
    }

    /// All leaves below this section with their dotted keys, in alphabetical order.
    pub fn leaves(&self) -> Vec<(String, &Value)> {
        let mut leaves = Vec::new();
        for (key, node) in &self.entries {
            match node {
                Node::Leaf(value) => leaves.push((key.clone(), value)),
                Node::Section(section) => {
                    leaves.extend(section.leaves().into_iter().map(|(below, value)| (format!("{key}.{below}"), value)));
                }
            }
        }
        leaves
    }

    /// The value of a dotted key; `None` for sections and unknown keys.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match key.split_once('.') {
            Some((first, rest)) => match self.entries.get(first)? {
                Node::Section(section) => section.get(rest),
                Node::Leaf(_) => None,
            },
            None => match self.entries.get(key)? {
                Node::Leaf(value) => Some(value),
                Node::Section(_) => None,
            },
        }
    }

    /// Replaces the value of a dotted key, whatever its type.
    ///
    /// # Errors
    /// If the tree is frozen, or has no such leaf.
    pub fn set(&mut self, key: &str, value: Value) -> Result<(), ConfigError> {
        if self.frozen {
            let message = format!("cannot become {value}, the configuration is frozen");
            return Err(ConfigError::new(ErrorKind::Other, message).with_key(key));
        }
        match self.node_mut(key)? {
            Node::Leaf(leaf) => {
                *leaf = value;
                Ok(())
            }
            Node::Section(_) => Err(ConfigError::new(ErrorKind::TypeMismatch, "is a section").with_key(key)),
        }
    }

    /// Makes [`set`](Self::set) an error from now on. As in yacs, merging stays possible.
    pub fn freeze(&mut self) {
        self.frozen = true;
    }

    /// Undoes [`freeze`](Self::freeze).
    pub fn defrost(&mut self) {
        self.frozen = false;
    }

    /// Whether [`freeze`](Self::freeze) is in force.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Merges a YAML file.
    ///
    /// # Errors
    /// If the file cannot be read, is not YAML, has a key that the tree does not have or a value of another type.
    pub fn merge_from_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let origin = path.display().to_string();
        let other = |message: String| ConfigError::new(ErrorKind::Other, message).at(origin.clone());
        match path.extension().and_then(|e| e.to_str()) {
            None | Some("yaml" | "yml") => {}
            Some("py") => return Err(other("Python files are not executed; write the configuration as YAML".into())),
            Some(extension) => return Err(other(format!("expected a .yaml or .yml file, found .{extension}"))),
        }
        let text = std::fs::read_to_string(path).map_err(|e| other(format!("cannot read the configuration: {e}")))?;
        self.merge_from_str(&text, &origin)
    }

    /// Merges a YAML text; `origin` is what errors call it.
    ///
    /// # Errors
    /// As [`merge_from_file`](Self::merge_from_file).
    pub fn merge_from_str(&mut self, text: &str, origin: &str) -> Result<(), ConfigError> {
        let pairs = match yaml::load(text).map_err(|e| e.at(origin))? {
            Value::None => return Ok(()),
            Value::Dict(pairs) => pairs,
            other => {
                let message = format!("expected sections and keys, found {}", described(&other));
                return Err(ConfigError::new(ErrorKind::Other, message).at(origin));
            }
        };
        check_leaves(&pairs, "").map_err(|e| e.at(origin))?;
        self.merge_pairs(pairs, "").map_err(|e| self.with_closest_key(e).at(origin))
    }

    /// Merges overrides in the form key, value, key, value.
    ///
    /// # Errors
    /// If a key has no value, does not exist, or has a value of another type.
    pub fn merge_from_list<S: AsRef<str>>(&mut self, list: &[S]) -> Result<(), ConfigError> {
        if list.len() % 2 == 1 {
            let last = list[list.len() - 1].as_ref();
            let message =
                format!("expected KEY VALUE pairs, found {} words, the last of which is {last:?}", list.len());
            return Err(ConfigError::new(ErrorKind::OddLength, message).at("overrides"));
        }
        for pair in list.chunks_exact(2) {
            self.merge_override(pair[0].as_ref(), Value::Str(pair[1].as_ref().to_owned()))?;
        }
        Ok(())
    }

    /// Merges one override; a string is read as a literal first.
    ///
    /// # Errors
    /// If the key does not exist or has a value of another type.
    pub fn merge_override(&mut self, key: &str, value: Value) -> Result<(), ConfigError> {
        let origin = format!("override {key} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        let merged = self.node_mut(key).and_then(|node| {
            let value = decode(value, key)?;
            match node {
                Node::Leaf(leaf) => {
                    *leaf = coerce(leaf, value, key)?;
                    Ok(())
                }
                Node::Section(_) => Err(section_expected(key, &value)),
            }
        });
        merged.map_err(|e| self.with_closest_key(e).at(origin))
    }

    /// The node of a dotted key.
    fn node_mut(&mut self, key: &str) -> Result<&mut Node, ConfigError> {
        let mut section = self;
        let mut parts = key.split('.').peekable();
        let mut path = String::new();
        while let Some(part) = parts.next() {
            let node = section.entries.get_mut(part).ok_or_else(|| ConfigError::unknown_key(key))?;
            if parts.peek().is_none() {
                return Ok(node);
            }
            path += if path.is_empty() { "" } else { "." };
            path += part;
            section = match node {
                Node::Section(section) => section,
                // yacs looks for the rest in the value itself, which for these types is another error.
                Node::Leaf(Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_)) => {
                    let message = format!("there is no {key}: {path} is a value, not a section");
                    return Err(ConfigError::new(ErrorKind::Other, message));
                }
                Node::Leaf(_) => return Err(ConfigError::unknown_key(key)),
            };
        }
        Err(ConfigError::unknown_key(key))
    }

    /// Merges the pairs of a YAML mapping; `above` is the dotted key of this section.
    fn merge_pairs(&mut self, pairs: Vec<(Value, Value)>, above: &str) -> Result<(), ConfigError> {
        for (key, value) in pairs {
            let Value::Str(key) = key else {
                return Err(key_not_a_string(&key));
            };
            let full_key = dotted(above, &key);
            let value = decode(value, &full_key)?;
            match (self.entries.get_mut(&key), value) {
                (None, _) => return Err(ConfigError::unknown_key(&full_key)),
                (Some(Node::Section(section)), Decoded::Section(pairs)) => section.merge_pairs(pairs, &full_key)?,
                (Some(Node::Section(_)), value) => return Err(section_expected(&full_key, &value)),
                (Some(Node::Leaf(leaf)), value) => *leaf = coerce(leaf, value, &full_key)?,
            }
        }
        Ok(())
    }

    fn with_closest_key(&self, error: ConfigError) -> ConfigError {
        if error.kind() != ErrorKind::UnknownKey {
            return error;
        }
        let mut known: Vec<String> = Vec::new();
        self.collect_keys("", &mut known);
        let closest = error.key().and_then(|key| closest_key(key, known.iter().map(String::as_str)));
        let hint = closest.map(|key| match error.key() {
            Some(given) if given == key => "in YAML, keys are nested, not dotted".into(),
            _ => format!("did you mean {key}?"),
        });
        error.with_hint(hint)
    }

    fn collect_keys(&self, above: &str, keys: &mut Vec<String>) {
        for (key, node) in &self.entries {
            let key = dotted(above, key);
            if let Node::Section(section) = node {
                section.collect_keys(&key, keys);
            }
            keys.push(key);
        }
    }

    /// The text of `config.yml`: YAML as yacs' `dump()` writes it, keys in alphabetical order, tuples as lists. Merged
    /// into the defaults it gives the same configuration (tuples inside of lists become lists); strings that would be
    /// read as another literal are quoted once more for that.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        yaml::dump(&mut text, &self.to_value(), 0, false);
        text.push('\n');
        text.trim_start().to_owned()
    }

    fn to_value(&self) -> Value {
        let pairs = self.entries.iter().map(|(key, node)| {
            let value = match node {
                Node::Section(section) => section.to_value(),
                Node::Leaf(Value::Str(text)) => Value::Str(undecodable(text)),
                Node::Leaf(value) => value.clone(),
            };
            (Value::Str(key.clone()), value)
        });
        Value::Dict(pairs.collect())
    }

    /// The typed configuration.
    ///
    /// # Errors
    /// If a value does not fit the type that the programs need: `None`, or a list with items of another type. The error
    /// names the key.
    pub fn to_config(&self) -> Result<Config, ConfigError> {
        typed::from_node(self)
    }
}

/// Prints the tree as yacs' `str(cfg)`, which the programs log.
impl fmt::Display for CfgNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn write(f: &mut fmt::Formatter<'_>, section: &CfgNode, indent: usize, first: &mut bool) -> fmt::Result {
            for (key, node) in &section.entries {
                let line_break = if std::mem::take(first) { "" } else { "\n" };
                match node {
                    Node::Section(below) => {
                        write!(f, "{line_break}{:indent$}{key}:", "")?;
                        write(f, below, indent + 2, first)?;
                    }
                    Node::Leaf(Value::Str(text)) => write!(f, "{line_break}{:indent$}{key}: {text}", "")?,
                    Node::Leaf(value) => write!(f, "{line_break}{:indent$}{key}: {value}", "")?,
                }
            }
            Ok(())
        }
        write(f, self, 0, &mut true)
    }
}

pub(super) fn dotted(above: &str, key: &str) -> String {
    if above.is_empty() {
        key.to_owned()
    } else {
        format!("{above}.{key}")
    }
}

#[cfg(test)]
mod tests;
