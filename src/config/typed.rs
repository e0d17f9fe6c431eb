//! From the tree to the typed [`Config`] and back, through serde: a Python tuple is serde's tuple, a list its sequence.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::ser::{self, Impossible, Serialize, SerializeSeq, SerializeStruct, SerializeTuple, Serializer};
use serde::Deserialize;

use super::error::{ConfigError, ErrorKind};
use super::node::{CfgNode, Node};
use super::{Config, Value};

pub(super) fn from_node(node: &CfgNode) -> Result<Config, ConfigError> {
    Config::deserialize(Reader::Section(node)).map_err(|error| {
        let path = error.path();
        let hint = (node.get(&path) == Some(&Value::None)).then(|| CfgNode::default().get(&path).cloned()).flatten();
        let hint = hint.map(|default| format!("leave the key out for its default, {default}"));
        ConfigError::new(ErrorKind::TypeMismatch, error.message.as_str()).with_key(&path).with_hint(hint)
    })
}

/// The tree of a typed configuration, which always has one: every field is a section or a valid leaf.
pub(super) fn to_node(config: &Config) -> CfgNode {
    match config.serialize(Writer) {
        Ok(Node::Section(section)) => section,
        other => unreachable!("the configuration is a section, found {other:?}"),
    }
}

/// A message and the keys that lead to the value it is about, innermost first.
#[derive(Debug)]
struct Error {
    message: String,
    keys: Vec<String>,
}

impl Error {
    fn below(mut self, key: impl Into<String>) -> Self {
        self.keys.push(key.into());
        self
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for key in self.keys.iter().rev() {
            if !path.is_empty() && !key.starts_with('[') {
                path.push('.');
            }
            path.push_str(key);
        }
        path
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), keys: Vec::new() }
    }

    fn invalid_type(found: Unexpected, expected: &dyn de::Expected) -> Self {
        let found = match found {
            Unexpected::Unit => "None".into(),
            found => format!("{found}"),
        };
        Self::custom(format_args!("expected {expected}, found {found}"))
    }
}

impl ser::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), keys: Vec::new() }
    }
}

/// What of the tree is read: a section, or a leaf and what is in it.
enum Reader<'a> {
    Section(&'a CfgNode),
    Value(&'a Value),
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = match self {
            Self::Section(section) => {
                return visitor.visit_map(Entries { entries: Box::new(section.entries()), next: None });
            }
            Self::Value(value) => value,
        };
        match value {
            Value::None => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Str(text) => visitor.visit_borrowed_str(text),
            Value::List(items) | Value::Tuple(items) => {
                let mut access = Items { items: items.iter(), index: 0 };
                let value = visitor.visit_seq(&mut access)?;
                match access.items.len() {
                    0 => Ok(value),
                    left => Err(de::Error::custom(format_args!("expected {} items, found {left} more", access.index))),
                }
            }
            other => Err(de::Error::custom(format_args!("a {} cannot be used: {other}", other.type_name()))),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Entries<'a> {
    entries: Box<dyn Iterator<Item = (&'a str, &'a Node)> + 'a>,
    next: Option<(&'a str, &'a Node)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.next = self.entries.next();
        let Some((key, _)) = self.next else { return Ok(None) };
        seed.deserialize(de::value::BorrowedStrDeserializer::new(key)).map(Some).map_err(|e: Error| e.below(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, node) = self.next.take().ok_or_else(|| de::Error::custom("a value without key"))?;
        match node {
            Node::Section(section) => seed.deserialize(Reader::Section(section)),
            Node::Leaf(value) => seed.deserialize(Reader::Value(value)),
        }
        .map_err(|e| e.below(key))
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Value>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(Reader::Value(item)).map(Some).map_err(|e| e.below(format!("[{index}]")))
    }
}

/// Makes a [`Node`] of the few serde types that a configuration consists of.
#[derive(Clone, Copy)]
struct Writer;

fn unsupported<T>(what: &str) -> Result<T, Error> {
    Err(ser::Error::custom(format_args!("a configuration cannot hold {what}")))
}

/// Serializer methods that do the same for several types of numbers.
macro_rules! numbers {
    ($target:ident: $($method:ident $type:ty),*) => {
        $(fn $method(self, v: $type) -> Result<Node, Error> {
            self.$target(v.into())
        })*
    };
}

/// Serializer methods for types that no configuration has.
macro_rules! unsupported {
    ($($method:ident($($argument:ty),*) -> $result:ident, $what:literal;)*) => {
        $(fn $method(self, $(_: $argument),*) -> Result<Self::$result, Error> {
            unsupported($what)
        })*
    };
}

impl Serializer for Writer {
    type Ok = Node;
    type Error = Error;
    type SerializeSeq = ItemWriter;
    type SerializeTuple = ItemWriter;
    type SerializeTupleStruct = Impossible<Node, Error>;
    type SerializeTupleVariant = Impossible<Node, Error>;
    type SerializeMap = Impossible<Node, Error>;
    type SerializeStruct = SectionWriter;
    type SerializeStructVariant = Impossible<Node, Error>;

    numbers!(serialize_i64: serialize_i8 i8, serialize_i16 i16, serialize_i32 i32);
    numbers!(serialize_i64: serialize_u8 u8, serialize_u16 u16, serialize_u32 u32);
    numbers!(serialize_f64: serialize_f32 f32);
    unsupported! {
        serialize_bytes(&[u8]) -> Ok, "bytes";
        serialize_unit_struct(&'static str) -> Ok, "a unit struct";
        serialize_unit_variant(&'static str, u32, &'static str) -> Ok, "an enum";
        serialize_tuple_struct(&'static str, usize) -> SerializeTupleStruct, "a tuple struct";
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> SerializeTupleVariant, "an enum";
        serialize_map(Option<usize>) -> SerializeMap, "a map";
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> SerializeStructVariant, "an enum";
    }

    fn serialize_bool(self, v: bool) -> Result<Node, Error> {
        Ok(Node::Leaf(Value::Bool(v)))
    }
    fn serialize_i64(self, v: i64) -> Result<Node, Error> {
        Ok(Node::Leaf(Value::Int(v)))
    }
    fn serialize_u64(self, v: u64) -> Result<Node, Error> {
        i64::try_from(v).map_or_else(|_| unsupported("an integer beyond 64 bits"), |v| self.serialize_i64(v))
    }
    fn serialize_f64(self, v: f64) -> Result<Node, Error> {
        Ok(Node::Leaf(Value::Float(v)))
    }
    fn serialize_char(self, v: char) -> Result<Node, Error> {
        self.serialize_str(&v.to_string())
    }
    fn serialize_str(self, v: &str) -> Result<Node, Error> {
        Ok(Node::Leaf(Value::Str(v.to_owned())))
    }
    fn serialize_none(self) -> Result<Node, Error> {
        Ok(Node::Leaf(Value::None))
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Node, Error> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<Node, Error> {
        self.serialize_none()
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<Node, Error> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Node, Error> {
        unsupported("an enum")
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<ItemWriter, Error> {
        Ok(ItemWriter { items: Vec::new(), wrap: Value::List })
    }
    fn serialize_tuple(self, _: usize) -> Result<ItemWriter, Error> {
        Ok(ItemWriter { items: Vec::new(), wrap: Value::Tuple })
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<SectionWriter, Error> {
        Ok(SectionWriter(BTreeMap::new()))
    }
}

struct ItemWriter {
    items: Vec<Value>,
    wrap: fn(Vec<Value>) -> Value,
}

impl SerializeSeq for ItemWriter {
    type Ok = Node;
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        match value.serialize(Writer)? {
            Node::Leaf(value) => self.items.push(value),
            Node::Section(_) => return unsupported("a section in a list"),
        }
        Ok(())
    }

    fn end(self) -> Result<Node, Error> {
        Ok(Node::Leaf((self.wrap)(self.items)))
    }
}

impl SerializeTuple for ItemWriter {
    type Ok = Node;
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<Node, Error> {
        SerializeSeq::end(self)
    }
}

struct SectionWriter(BTreeMap<String, Node>);

impl SerializeStruct for SectionWriter {
    type Ok = Node;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        self.0.insert(key.to_owned(), value.serialize(Writer)?);
        Ok(())
    }

    fn end(self) -> Result<Node, Error> {
        Ok(Node::Section(CfgNode::from_entries(self.0)))
    }
}
