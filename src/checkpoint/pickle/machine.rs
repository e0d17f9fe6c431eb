//! The pickle machine: runs the opcodes of protocols 0 to 5 over an arena of nodes. It calls nothing: what a pickle
//! wants to import is looked up in the list of [`super::globals`], anything else is an error.

use std::collections::HashMap;

use anyhow::{bail, ensure, Context, Result};

use super::buffer::Buffer;
use super::globals;
use super::node::{Id, Node, Pickled};
use super::opcodes as op;
use super::text;

/// A pickle may make this many nodes; real checkpoints stay far below.
const MAX_NODES: usize = 1 << 24;
/// A node is no larger than this, so that all of them together have at most 1.25 GiB beside what they point to.
const _: () = assert!(size_of::<Node>() <= 80);
/// Marks, stack and memo each have at most as many entries.
const MAX_STACK: usize = 1 << 24;

const NONE: Id = 0;
const TRUE: Id = 1;
const FALSE: Id = 2;
const EMPTY_TUPLE: Id = 3;

/// Runs the pickle at `start` of `input` up to its STOP.
///
/// # Errors
/// Truncated or malformed input, an opcode or a global that is not allowed.
pub(super) fn run(input: &Buffer, start: usize) -> Result<Pickled> {
    let nodes = vec![Node::None, Node::Bool(true), Node::Bool(false), Node::Tuple(Vec::new())];
    let mut machine = Machine {
        input,
        bytes: input.raw(),
        at: start,
        nodes,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        let at = machine.at;
        let opcode = machine.u8()?;
        if opcode == op::STOP {
            let root = machine.pop()?;
            return Ok(Pickled { nodes: machine.nodes, root, end: machine.at });
        }
        machine.step(opcode).with_context(|| format!("in the pickle at byte {at} (opcode 0x{opcode:02x})"))?;
    }
}

pub(super) struct Machine<'a> {
    input: &'a Buffer,
    bytes: &'a [u8],
    at: usize,
    pub(super) nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// One instruction; the groups follow the sections of Lib/pickle.py.
    fn step(&mut self, opcode: u8) -> Result<()> {
        let is_known = self.stack_step(opcode)?
            || self.scalar_step(opcode)?
            || self.collection_step(opcode)?
            || self.object_step(opcode)?
            || self.memo_step(opcode)?;
        ensure!(is_known, "this opcode is not used by checkpoints and is not read");
        Ok(())
    }

    /// The frame of a pickle and its stack; `false` for any other opcode, as in the functions below.
    fn stack_step(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            op::PROTO => {
                let version = self.u8()?;
                ensure!(version <= 5, "pickle protocol {version} is not known");
            }
            op::FRAME => {
                self.take(8)?;
            }
            op::MARK => {
                ensure!(self.marks.len() < MAX_STACK, "too many marks");
                self.marks.push(self.stack.len());
            }
            op::POP => {
                // A mark on top of the stack counts as an item.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            op::POP_MARK => {
                self.items()?;
            }
            op::DUP => {
                let top = self.top()?;
                self.push(top)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Constants, numbers and strings.
    fn scalar_step(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            op::NONE => self.push(NONE)?,
            op::NEWTRUE => self.push(TRUE)?,
            op::NEWFALSE => self.push(FALSE)?,
            op::EMPTY_TUPLE => self.push(EMPTY_TUPLE)?,
            op::INT | op::LONG | op::FLOAT | op::STRING | op::UNICODE => self.textual(opcode)?,
            op::BININT => {
                let value = i32::from_le_bytes(self.array()?);
                self.add(Node::Int(value.into()))?;
            }
            op::BININT1 => {
                let value = self.u8()?;
                self.add(Node::Int(value.into()))?;
            }
            op::BININT2 => {
                let value = u16::from_le_bytes(self.array()?);
                self.add(Node::Int(value.into()))?;
            }
            op::LONG1 | op::LONG4 => {
                let len = if opcode == op::LONG1 { self.u8()?.into() } else { self.length(4)? };
                let at = self.take(len)?;
                let value = text::long(&self.bytes[at..at + len])?;
                self.add(Node::Int(value))?;
            }
            op::BINFLOAT => {
                let value = f64::from_be_bytes(self.array()?);
                self.add(Node::Float(value))?;
            }
            op::SHORT_BINSTRING => self.sized(1, Node::ByteString)?,
            op::BINSTRING => self.sized(4, Node::ByteString)?,
            op::SHORT_BINUNICODE => self.sized(1, Node::Text)?,
            op::BINUNICODE => self.sized(4, Node::Text)?,
            op::BINUNICODE8 => self.sized(8, Node::Text)?,
            op::SHORT_BINBYTES => self.sized(1, Node::Bytes)?,
            op::BINBYTES => self.sized(4, Node::Bytes)?,
            op::BINBYTES8 | op::BYTEARRAY8 => self.sized(8, Node::Bytes)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Lists, tuples and dictionaries.
    fn collection_step(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            op::EMPTY_LIST | op::EMPTY_SET => self.add(Node::List(Vec::new()))?,
            op::EMPTY_DICT => self.add(Node::Dict { entries: Vec::new(), ordered: false })?,
            op::LIST | op::FROZENSET => {
                let items = self.items()?;
                self.add(Node::List(items))?;
            }
            op::TUPLE => {
                let items = self.items()?;
                self.add(Node::Tuple(items))?;
            }
            op::TUPLE1 | op::TUPLE2 | op::TUPLE3 => {
                let from = self.stack.len().checked_sub((opcode - op::TUPLE1 + 1).into());
                let from = from.filter(|from| *from >= self.floor()).context("the stack is too short")?;
                let items = self.stack.split_off(from);
                self.add(Node::Tuple(items))?;
            }
            op::DICT => {
                let items = self.items()?;
                self.add(Node::Dict { entries: pairs(&items)?, ordered: false })?;
            }
            op::APPEND => {
                let item = self.pop()?;
                self.extend(&[item])?;
            }
            op::APPENDS | op::ADDITEMS => {
                let items = self.items()?;
                self.extend(&items)?;
            }
            op::SETITEM => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.update(&[key, value])?;
            }
            op::SETITEMS => {
                let items = self.items()?;
                self.update(&items)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What is looked up by name and made from it.
    fn object_step(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            op::GLOBAL => {
                let (module, name) = (self.line()?, self.line()?);
                let (module, name) = (String::from_utf8_lossy(module), String::from_utf8_lossy(name));
                self.global(&module, &name)?;
            }
            op::STACK_GLOBAL => {
                let name = self.pop()?;
                let module = self.pop()?;
                let (module, name) = (self.text(module)?.to_string(), self.text(name)?.to_string());
                self.global(&module, &name)?;
            }
            op::REDUCE | op::NEWOBJ => {
                let args = self.pop()?;
                let callable = self.pop()?;
                let node = globals::call(self, callable, args, opcode == op::NEWOBJ)?;
                self.add(node)?;
            }
            op::NEWOBJ_EX => bail!("objects made with keyword arguments are not read"),
            op::BUILD => {
                let state = self.pop()?;
                let object = self.top()?;
                globals::build(self, object, state)?;
            }
            op::BINPERSID => {
                let id = self.pop()?;
                self.add(Node::Persistent(id))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Values remembered by number.
    fn memo_step(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            op::GET => {
                let index = self.decimal()?;
                self.recall(index)?;
            }
            op::BINGET => {
                let index = self.u8()?;
                self.recall(index.into())?;
            }
            op::LONG_BINGET => {
                let index = u32::from_le_bytes(self.array()?);
                self.recall(index)?;
            }
            op::PUT => {
                let index = self.decimal()?;
                self.remember(index)?;
            }
            op::BINPUT => {
                let index = self.u8()?;
                self.remember(index.into())?;
            }
            op::LONG_BINPUT => {
                let index = u32::from_le_bytes(self.array()?);
                self.remember(index)?;
            }
            op::MEMOIZE => {
                let index = u32::try_from(self.memo.len()).context("too many memo entries")?;
                self.remember(index)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn textual(&mut self, opcode: u8) -> Result<()> {
        let line = self.line()?;
        let node = match opcode {
            op::INT if line == b"00" => Node::Bool(false),
            op::INT if line == b"01" => Node::Bool(true),
            op::INT | op::LONG => Node::Int(text::integer(line)?),
            op::FLOAT => Node::Float(text::float(line)?),
            op::STRING => Node::ByteString(Buffer::new(text::quoted(line)?)),
            _ => Node::Text(Buffer::new(text::raw_unicode_escape(line)?.into_bytes())),
        };
        self.add(node)
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let global = globals::find(module, name)?;
        self.add(Node::Global(global))
    }

    fn extend(&mut self, items: &[Id]) -> Result<()> {
        let list = self.top()?;
        match &mut self.nodes[list as usize] {
            Node::List(list) => list.extend(items),
            other => bail!("items are appended to {other:?}"),
        }
        Ok(())
    }

    fn update(&mut self, items: &[Id]) -> Result<()> {
        let dict = self.top()?;
        match &mut self.nodes[dict as usize] {
            Node::Dict { entries, .. } => entries.extend(pairs(items)?),
            Node::Object { module, name, .. } => bail!("items are set on an instance of {module}.{name}"),
            other => bail!("items are set on {other:?}"),
        }
        Ok(())
    }

    /// Text of a node that must be a string.
    pub(super) fn text(&self, id: Id) -> Result<&str> {
        match &self.nodes[id as usize] {
            Node::Text(text) | Node::ByteString(text) => std::str::from_utf8(text.raw()).context("a name is not UTF-8"),
            other => bail!("a name was expected, not {other:?}"),
        }
    }

    pub(super) fn items_of(&self, id: Id) -> Result<&[Id]> {
        match &self.nodes[id as usize] {
            Node::Tuple(items) | Node::List(items) => Ok(items),
            other => bail!("a tuple was expected, not {other:?}"),
        }
    }

    fn add(&mut self, node: Node) -> Result<()> {
        ensure!(self.nodes.len() < MAX_NODES, "the pickle makes more than {MAX_NODES} values");
        self.nodes.push(node);
        self.push((self.nodes.len() - 1) as Id)
    }

    fn push(&mut self, id: Id) -> Result<()> {
        ensure!(self.stack.len() < MAX_STACK, "the stack of the pickle is too deep");
        self.stack.push(id);
        Ok(())
    }

    /// Below this the stack belongs to an open mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id> {
        ensure!(self.stack.len() > self.floor(), "the stack of the pickle is empty");
        self.stack.pop().context("the stack of the pickle is empty")
    }

    fn top(&self) -> Result<Id> {
        ensure!(self.stack.len() > self.floor(), "the stack of the pickle is empty");
        self.stack.last().copied().context("the stack of the pickle is empty")
    }

    /// The items above the last mark, which goes.
    fn items(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().context("there is no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn remember(&mut self, index: u32) -> Result<()> {
        let top = self.top()?;
        ensure!(self.memo.len() < MAX_STACK, "the memo of the pickle has more than {MAX_STACK} entries");
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<()> {
        let id = *self.memo.get(&index).with_context(|| format!("memo entry {index} does not exist"))?;
        self.push(id)
    }

    fn sized(&mut self, width: usize, make: fn(Buffer) -> Node) -> Result<()> {
        let len = self.length(width)?;
        let at = self.take(len)?;
        let buffer = self.input.slice(at, len)?;
        self.add(make(buffer))
    }

    fn length(&mut self, width: usize) -> Result<usize> {
        let at = self.take(width)?;
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(&self.bytes[at..at + width]);
        usize::try_from(u64::from_le_bytes(wide)).context("a length does not fit")
    }

    fn take(&mut self, len: usize) -> Result<usize> {
        let left = self.bytes.len().saturating_sub(self.at);
        ensure!(len <= left, "the pickle is cut short: {len} bytes are wanted, {left} are left");
        self.at += len;
        Ok(self.at - len)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.bytes[self.take(1)?])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let at = self.take(N)?;
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[at..at + N]);
        Ok(out)
    }

    fn line(&mut self) -> Result<&'a [u8]> {
        let bytes: &'a [u8] = self.bytes;
        let rest = bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|b| *b == b'\n').context("the pickle is cut short inside a line")?;
        self.at += len + 1;
        Ok(&rest[..len])
    }

    fn decimal(&mut self) -> Result<u32> {
        let value = text::integer(self.line()?)?;
        u32::try_from(value).context("a memo index does not fit")
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>> {
    ensure!(items.len().is_multiple_of(2), "a dictionary gets a key without a value");
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}
