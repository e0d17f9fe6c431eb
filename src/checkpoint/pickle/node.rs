//! Values under construction: the arena that the pickle machine fills.

use std::fmt;

use super::buffer::Buffer;
use super::globals::Global;

/// Index of a node in the arena.
pub(super) type Id = u32;

/// A Python value under construction.
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// UTF-8 text, checked when it is used.
    Text(Buffer),
    /// A `str` of Python 2: bytes or Latin-1 text, as its place demands.
    ByteString(Buffer),
    Bytes(Buffer),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict {
        entries: Vec<(Id, Id)>,
        ordered: bool,
    },
    Global(Global),
    /// A reference to a storage outside the pickle.
    Persistent(Id),
    Tensor {
        storage: Id,
        offset: Id,
        size: Id,
        /// Absent in the oldest form, which is row-major.
        stride: Option<Id>,
        dtype: Option<Id>,
    },
    /// A numpy array: its state tuple (version, shape, dtype, Fortran order, data).
    Array(Option<Id>),
    /// A numpy array at protocol 5: the tuple (data, dtype, shape, order[, axes]).
    ArrayFromBuffer(Id),
    /// A numpy dtype: its code ("f4") and its state tuple, which has the byte order.
    NumpyDtype(Id, Option<Id>),
    /// A numpy scalar: dtype and bytes.
    Scalar(Id, Id),
    Object {
        module: String,
        name: String,
        args: Option<Id>,
        state: Option<Id>,
    },
}

/// For messages: the kind of value, never its contents.
impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Node::None => "None",
            Node::Bool(_) => "a bool",
            Node::Int(_) => "an int",
            Node::Float(_) => "a float",
            Node::Text(_) | Node::ByteString(_) => "a string",
            Node::Bytes(_) => "bytes",
            Node::List(_) => "a list",
            Node::Tuple(_) => "a tuple",
            Node::Dict { .. } => "a dictionary",
            Node::Global(_) => "a class or function",
            Node::Persistent(_) => "a storage",
            Node::Tensor { .. } => "a tensor",
            Node::Array(_) | Node::ArrayFromBuffer(_) => "an array",
            Node::NumpyDtype(..) => "a dtype",
            Node::Scalar(..) => "a numpy scalar",
            Node::Object { .. } => "an object",
        })
    }
}

/// The result of one pickle: nodes, the root, and where the pickle ended.
pub(super) struct Pickled {
    pub(super) nodes: Vec<Node>,
    pub(super) root: Id,
    pub(super) end: usize,
}
