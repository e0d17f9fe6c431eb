//! Bytes that lie in a memory-mapped file, or are owned; cloning is cheap.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{ensure, Context, Result};

/// Where bytes lie.
pub trait Source: AsRef<[u8]> + Send + Sync {
    /// Told of bytes that are not needed soon: a mapped file can give their memory back.
    fn release(&self, _range: Range<usize>) {}
}

impl Source for Vec<u8> {}

/// A range of shared bytes.
#[derive(Clone)]
pub struct Buffer {
    source: Arc<dyn Source>,
    range: Range<usize>,
    /// Python 3 writes bytes at protocol 2 as text in which each byte is one code point: `Some(n)` for n bytes so
    /// written.
    latin1: Option<usize>,
}

impl Buffer {
    /// All bytes of `source`.
    pub fn new(source: impl Source + 'static) -> Self {
        let range = 0..source.as_ref().len();
        Self { source: Arc::new(source), range, latin1: None }
    }

    /// A part of the bytes.
    ///
    /// # Errors
    /// A range that is not inside.
    pub fn slice(&self, start: usize, len: usize) -> Result<Buffer> {
        let end = start.checked_add(len).filter(|end| *end <= self.range.len());
        let end = end.with_context(|| format!("{len} bytes at {start} are not inside {} bytes", self.range.len()))?;
        let range = self.range.start + start..self.range.start + end;
        Ok(Buffer { source: self.source.clone(), range, latin1: None })
    }

    /// The bytes whose values are the code points of this UTF-8 text.
    pub(super) fn latin1(self) -> Result<Buffer> {
        let text = self.raw();
        std::str::from_utf8(text).context("text that should hold bytes is not UTF-8")?;
        // Code points up to U+00FF begin with these bytes; every code point has one byte that does not continue
        // another.
        ensure!(text.iter().all(|byte| *byte <= 0xc3), "text that should hold bytes holds other characters");
        let count = text.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
        Ok(Buffer { latin1: Some(count), ..self })
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.latin1.unwrap_or(self.range.len())
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes: borrowed, except where Python wrote them as text.
    ///
    /// # Errors
    /// The file was changed while it was read.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        if self.latin1.is_none() {
            return Ok(Cow::Borrowed(self.raw()));
        }
        let text = std::str::from_utf8(self.raw()).context("a file changed while it was read")?;
        Ok(Cow::Owned(text.chars().map(|c| c as u8).collect()))
    }

    /// Tells the source that these bytes are not needed soon.
    pub fn release(&self) {
        self.source.release(self.range.clone());
    }

    pub(super) fn raw(&self) -> &[u8] {
        &(*self.source).as_ref()[self.range.clone()]
    }

    /// Equal for buffers that are the same bytes of the same source.
    pub(super) fn identity(&self) -> (usize, usize, usize) {
        (Arc::as_ptr(&self.source) as *const u8 as usize, self.range.start, self.range.end)
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}
