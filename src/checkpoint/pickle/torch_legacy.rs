//! torch.save's stream format (PyTorch before 1.6): five pickles in a row, then the storages.

use std::collections::HashMap;

use anyhow::{bail, ensure, Context, Result};

use super::buffer::Buffer;
use super::machine;
use super::node::Pickled;
use super::tensor_data::Dtype;
use super::value::Value;
use super::{finish, finish::no_storages};

/// The first pickle of the stream: the integer 0x1950a86a20f9469cfc6c.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Whether the bytes begin such a stream.
pub(super) fn matches(file: &Buffer) -> bool {
    let bytes = file.raw();
    bytes.len() > 2 && bytes[0] == 0x80 && bytes[2..].starts_with(MAGIC)
}

/// Reads the stream.
pub(super) fn read(file: &Buffer) -> Result<Value> {
    let (protocol, at) = plain(file, 2 + MAGIC.len(), "the protocol version")?;
    ensure!(protocol.as_int() == Some(1001), "the stream's protocol version is not 1001");
    let (system, at) = plain(file, at, "the system information")?;
    let little = system.as_dict().and_then(|d| d.get("little_endian")).and_then(Value::as_bool);
    let big_endian = !little.context("the stream does not say its byte order")?;
    let pickled = machine::run(file, at)?;
    let (keys, mut at) = plain(file, pickled.end, "the list of storages")?;
    let sizes = element_sizes(&pickled)?;
    let mut storages: HashMap<String, Buffer> = HashMap::new();
    for key in keys.as_list().context("the list of storages is no list")? {
        let key = match key {
            Value::Int(key) => key.to_string(),
            key => key.as_str().context("a storage has no name")?.to_string(),
        };
        let head = file.slice(at, 8).with_context(|| format!("the file is cut short before storage {key:?}"))?;
        let mut count = [0; 8];
        count.copy_from_slice(head.raw());
        let count = if big_endian { u64::from_be_bytes(count) } else { u64::from_le_bytes(count) };
        let Some(size) = sizes.get(&key) else { bail!("the stream has a storage {key:?} that no tensor uses") };
        let len = usize::try_from(count).ok().and_then(|count| count.checked_mul(*size));
        let len = len.with_context(|| format!("storage {key:?} announces {count} elements"))?;
        let data = file.slice(at + 8, len).with_context(|| format!("the file is cut short in storage {key:?}"))?;
        at += 8 + len;
        storages.insert(key, data);
    }
    finish::finish(&pickled, file.len(), &mut |storage| {
        let whole = storages.get(&storage.key).context("the stream has no such storage")?;
        let size = storage.dtype.map_or(1, Dtype::size);
        ensure!(
            storage.len.checked_mul(size) == Some(whole.len()),
            "{} elements are announced, but the stream has {} bytes",
            storage.len,
            whole.len()
        );
        let buffer = match storage.part {
            None => whole.clone(),
            Some((offset, len)) => {
                let (offset, len) = (offset.checked_mul(size), len.checked_mul(size));
                let (offset, len) = offset.zip(len).context("a part of a storage is too large")?;
                whole.slice(offset, len)?
            }
        };
        Ok((buffer, big_endian))
    })
}

/// A pickle without storages.
fn plain(file: &Buffer, at: usize, what: &str) -> Result<(Value, usize)> {
    let pickled = machine::run(file, at).with_context(|| what.to_string())?;
    let value = finish::finish(&pickled, file.len(), &mut no_storages).with_context(|| what.to_string())?;
    Ok((value, pickled.end))
}

/// Bytes per element of every storage: a stream counts elements, and only the tensors tell their type.
fn element_sizes(pickled: &Pickled) -> Result<HashMap<String, usize>> {
    let mut sizes = HashMap::new();
    for storage in finish::storages(pickled)? {
        let size = storage.dtype.map_or(1, Dtype::size);
        let known = *sizes.entry(storage.key.clone()).or_insert(size);
        ensure!(known == size, "storage {:?} has two element types", storage.key);
    }
    Ok(sizes)
}
