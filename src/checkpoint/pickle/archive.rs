//! torch.save's archives: zip files whose entries are stored, aligned, and of any size. The `zip` crate's writer makes
//! entries beyond 4 GB that PyTorch does not find.

use std::io::Write;

use anyhow::{Context, Result};

/// torch aligns storages to this, so that they can be memory-mapped.
const ALIGNMENT: u64 = 64;
/// What a field of 32 bits says when its number is elsewhere.
const ELSEWHERE: u32 = u32::MAX;
/// The version of the format that has sizes of 64 bits.
const VERSION: u16 = 45;
/// 1 January 1980, the first day of the format.
const DATE: u16 = 1 << 5 | 1;

/// Writes one entry after another, and last the list of them.
pub(super) struct Archive<W> {
    out: W,
    /// Bytes written so far.
    at: u64,
    entries: Vec<Entry>,
}

struct Entry {
    name: String,
    crc: u32,
    size: u64,
    start: u64,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, at: 0, entries: Vec::new() }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn entry(&mut self, name: String, bytes: &[u8]) -> Result<()> {
        let entry = Entry { name, crc: crc32fast::hash(bytes), size: bytes.len() as u64, start: self.at };
        let mut extra = Vec::new();
        if entry.is_large() {
            extra.extend(numbers(&[entry.size, entry.size]));
        }
        // torch fills up to the alignment with a field of this name.
        let unpadded = self.at + 30 + (entry.name.len() + extra.len() + 4) as u64;
        let padding = (ALIGNMENT - unpadded % ALIGNMENT) % ALIGNMENT;
        extra.extend(b"FB");
        extra.extend((padding as u16).to_le_bytes());
        extra.resize(extra.len() + padding as usize, b'Z');

        let mut header = b"PK\x03\x04".to_vec();
        header.extend(entry.common(extra.len())?);
        header.extend(entry.name.as_bytes());
        header.extend(extra);
        self.write(&header)?;
        self.write(bytes)?;
        self.entries.push(entry);
        Ok(())
    }

    /// Writes the list of entries.
    pub(super) fn finish(mut self) -> Result<()> {
        let (start, count) = (self.at, self.entries.len() as u64);
        for entry in std::mem::take(&mut self.entries) {
            let mut extra = Vec::new();
            if entry.is_large() {
                extra.extend([entry.size, entry.size]);
            }
            let place = u32::try_from(entry.start).unwrap_or(ELSEWHERE);
            if place == ELSEWHERE {
                extra.push(entry.start);
            }
            let extra = if extra.is_empty() { Vec::new() } else { numbers(&extra) };
            let mut header = b"PK\x01\x02".to_vec();
            header.extend(VERSION.to_le_bytes());
            header.extend(entry.common(extra.len())?);
            // No comment, first disk, no attributes.
            header.extend([0; 10]);
            header.extend(place.to_le_bytes());
            header.extend(entry.name.as_bytes());
            header.extend(extra);
            self.write(&header)?;
        }
        let (end, size) = (self.at, self.at - start);
        let mut tail = b"PK\x06\x06".to_vec();
        tail.extend(44u64.to_le_bytes());
        tail.extend([VERSION, VERSION].map(u16::to_le_bytes).concat());
        tail.extend([0; 8]);
        tail.extend([count, count, size, start].map(u64::to_le_bytes).concat());
        // Where that record is, and then the record that all readers look for first.
        tail.extend(b"PK\x06\x07\0\0\0\0");
        tail.extend(end.to_le_bytes());
        tail.extend(1u32.to_le_bytes());
        tail.extend(b"PK\x05\x06\0\0\0\0");
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        tail.extend([count, count].map(u16::to_le_bytes).concat());
        tail.extend([size, start].map(|n| u32::try_from(n).unwrap_or(ELSEWHERE).to_le_bytes()).concat());
        tail.extend([0; 2]);
        self.write(&tail)?;
        Ok(self.out.flush()?)
    }
}

impl Entry {
    fn is_large(&self) -> bool {
        self.size >= ELSEWHERE.into()
    }

    /// What the header before an entry and the one in the list share: version to the length of the extra fields.
    fn common(&self, extra: usize) -> Result<Vec<u8>> {
        let name = u16::try_from(self.name.len()).context("the name of an entry is too long")?;
        let size = if self.is_large() { ELSEWHERE } else { self.size as u32 };
        // Names are UTF-8.
        let mut out = [VERSION, 1 << 11, 0, 0, DATE].map(u16::to_le_bytes).concat();
        out.extend([self.crc, size, size].map(u32::to_le_bytes).concat());
        out.extend([name, extra as u16].map(u16::to_le_bytes).concat());
        Ok(out)
    }
}

/// An extra field with numbers of 64 bits.
fn numbers(numbers: &[u64]) -> Vec<u8> {
    let mut out = 1u16.to_le_bytes().to_vec();
    out.extend((8 * numbers.len() as u16).to_le_bytes());
    out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    out
}
