//! torch.save's zip format (PyTorch 1.6 and later): a pickle and one stored entry per storage, used in place.

use std::collections::HashMap;
use std::io::Cursor;

use anyhow::{bail, ensure, Context, Result};
use zip::{CompressionMethod, ZipArchive};

use super::buffer::Buffer;
use super::value::Value;
use super::{finish, machine};

/// Whether the bytes begin a zip archive.
pub(super) fn matches(file: &Buffer) -> bool {
    file.raw().starts_with(b"PK\x03\x04")
}

/// Reads the archive.
pub(super) fn read(file: &Buffer) -> Result<Value> {
    let mut archive = ZipArchive::new(Cursor::new(file.raw())).context("the zip archive is damaged or cut short")?;
    let pickles: Vec<String> =
        archive.file_names().filter(|n| *n == "data.pkl" || n.ends_with("/data.pkl")).map(String::from).collect();
    let [pickle] = &pickles[..] else {
        bail!("the zip archive has {} entries named data.pkl: it was not written by torch.save", pickles.len());
    };
    let prefix = pickle.trim_end_matches("data.pkl").to_string();
    ensure!(
        archive.index_for_name(&format!("{prefix}constants.pkl")).is_none(),
        "the file is a TorchScript program; save its state_dict with torch.save instead"
    );
    let big_endian = match entry(file, &mut archive, &format!("{prefix}byteorder"))? {
        None => false,
        Some(order) => match order.raw() {
            b"little" => false,
            b"big" => true,
            other => bail!("the byte order is {:?}", String::from_utf8_lossy(other)),
        },
    };
    let pickle = entry(file, &mut archive, pickle)?.context("data.pkl is missing")?;
    let pickled = machine::run(&pickle, 0)?;
    let mut storages: HashMap<String, Buffer> = HashMap::new();
    finish::finish(&pickled, file.len(), &mut |storage| {
        if !storages.contains_key(&storage.key) {
            let found = entry(file, &mut archive, &format!("{prefix}data/{}", storage.key))?;
            storages.insert(storage.key.clone(), found.context("the archive has no such storage")?);
        }
        let buffer = storages[&storage.key].clone();
        let wanted = storage.len.checked_mul(storage.dtype.map_or(1, |dtype| dtype.size()));
        ensure!(
            wanted == Some(buffer.len()),
            "{} elements are announced, but the archive has {} bytes",
            storage.len,
            buffer.len()
        );
        Ok((buffer, big_endian))
    })
}

/// An entry of the archive as a part of the file.
fn entry(file: &Buffer, archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str) -> Result<Option<Buffer>> {
    let Some(index) = archive.index_for_name(name) else { return Ok(None) };
    let found = archive.by_index_raw(index).with_context(|| format!("zip entry {name:?}"))?;
    ensure!(
        found.compression() == CompressionMethod::Stored && found.size() == found.compressed_size(),
        "zip entry {name:?} is compressed, which torch.save never does"
    );
    let start = found.data_start().with_context(|| format!("zip entry {name:?} has no place"))?;
    let (start, size) = (usize::try_from(start)?, usize::try_from(found.size())?);
    Ok(Some(file.slice(start, size).with_context(|| format!("zip entry {name:?}"))?))
}
