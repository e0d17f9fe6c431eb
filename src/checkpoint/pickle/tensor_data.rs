//! Tensors of files: typed, strided views of bytes.

use std::borrow::Cow;
use std::fmt;

use anyhow::{bail, ensure, Context, Result};

use super::buffer::Buffer;

/// An expanded (stride 0) tensor may have more elements than its storage, but not more than this.
const MAX_EXPANDED: usize = 1 << 24;

/// The element types that a tensor in a file can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// Half precision.
    Float16,
    /// A float32 without the last 16 bits of its mantissa.
    BFloat16,
    /// Single precision.
    Float32,
    /// Double precision.
    Float64,
    /// 0 to 255.
    UInt8,
    /// -128 to 127.
    Int8,
    /// Two bytes, signed.
    Int16,
    /// Four bytes, signed.
    Int32,
    /// Eight bytes, signed.
    Int64,
    /// One byte, 0 or 1.
    Bool,
}

impl Dtype {
    /// Every element type.
    pub const ALL: [Dtype; 10] = [
        Dtype::Float16,
        Dtype::BFloat16,
        Dtype::Float32,
        Dtype::Float64,
        Dtype::UInt8,
        Dtype::Int8,
        Dtype::Int16,
        Dtype::Int32,
        Dtype::Int64,
        Dtype::Bool,
    ];

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Dtype::UInt8 | Dtype::Int8 | Dtype::Bool => 1,
            Dtype::Float16 | Dtype::BFloat16 | Dtype::Int16 => 2,
            Dtype::Float32 | Dtype::Int32 => 4,
            Dtype::Float64 | Dtype::Int64 => 8,
        }
    }

    /// The name after `torch.`.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Float16 => "float16",
            Dtype::BFloat16 => "bfloat16",
            Dtype::Float32 => "float32",
            Dtype::Float64 => "float64",
            Dtype::UInt8 => "uint8",
            Dtype::Int8 => "int8",
            Dtype::Int16 => "int16",
            Dtype::Int32 => "int32",
            Dtype::Int64 => "int64",
            Dtype::Bool => "bool",
        }
    }

    /// The name of torch's typed storage class.
    pub fn storage_name(self) -> &'static str {
        match self {
            Dtype::Float16 => "HalfStorage",
            Dtype::BFloat16 => "BFloat16Storage",
            Dtype::Float32 => "FloatStorage",
            Dtype::Float64 => "DoubleStorage",
            Dtype::UInt8 => "ByteStorage",
            Dtype::Int8 => "CharStorage",
            Dtype::Int16 => "ShortStorage",
            Dtype::Int32 => "IntStorage",
            Dtype::Int64 => "LongStorage",
            Dtype::Bool => "BoolStorage",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A strided view of a storage. Several tensors may share one storage.
#[derive(Clone, Debug)]
pub struct TensorData {
    dtype: Dtype,
    shape: Vec<i64>,
    strides: Vec<usize>,
    offset: usize,
    storage: Buffer,
    big_endian: bool,
}

impl TensorData {
    /// A view that starts `offset` elements into `storage`; strides count elements.
    ///
    /// # Errors
    /// Negative sizes or strides, or a view that leaves its storage.
    pub fn view(
        dtype: Dtype,
        shape: Vec<i64>,
        strides: Vec<i64>,
        offset: i64,
        storage: Buffer,
        big_endian: bool,
    ) -> Result<Self> {
        ensure!(shape.len() == strides.len(), "a tensor has {} sizes and {} strides", shape.len(), strides.len());
        ensure!(shape.len() <= 64, "a tensor has {} dimensions", shape.len());
        let what = || format!("a tensor of shape {shape:?}, strides {strides:?}, offset {offset}");
        let size = |v: &i64| usize::try_from(*v).with_context(|| format!("{} is negative somewhere", what()));
        let dims = shape.iter().map(size).collect::<Result<Vec<_>>>()?;
        let steps = strides.iter().map(size).collect::<Result<Vec<_>>>()?;
        let offset = size(&offset)?;
        let available = storage.len() / dtype.size();
        let last = match dims.contains(&0) {
            true => Some(0),
            false => {
                dims.iter().zip(&steps).try_fold(offset + 1, |sum, (d, s)| sum.checked_add((d - 1).checked_mul(*s)?))
            }
        };
        if last.is_none_or(|last| last > available) {
            bail!("{} of {dtype} leaves its storage of {available} elements", what());
        }
        if !dims.contains(&0) {
            let numel = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
            if numel.is_none_or(|n| n > available.max(MAX_EXPANDED)) {
                bail!("{} is expanded from only {available} elements", what());
            }
        }
        Ok(Self { dtype, shape, strides: steps, offset, storage, big_endian })
    }

    /// A tensor in row-major order that fills its storage.
    ///
    /// # Errors
    /// A negative size, sizes whose product does not fit, or a storage that is too short.
    pub fn contiguous(dtype: Dtype, shape: Vec<i64>, storage: Buffer) -> Result<Self> {
        let strides = row_major(&shape)?;
        Self::view(dtype, shape, strides, 0, storage, false)
    }

    /// The type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The size of each dimension.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// How many elements of the storage lie between neighbours in each dimension.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// Where the view starts in its storage, in elements.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The bytes that the tensor is a view of.
    pub fn storage(&self) -> &Buffer {
        &self.storage
    }

    /// Whether the storage has the most significant byte of an element first.
    pub fn big_endian(&self) -> bool {
        self.big_endian
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        // An empty tensor may have other sizes whose product does not fit.
        if self.shape.contains(&0) {
            return 0;
        }
        self.shape.iter().map(|d| *d as usize).product()
    }

    /// The size of [`TensorData::bytes`].
    pub fn len(&self) -> usize {
        self.numel() * self.dtype.size()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.numel() == 0
    }

    /// Whether the elements follow each other in row-major order.
    pub fn is_contiguous(&self) -> bool {
        if self.numel() == 0 {
            return true;
        }
        let mut expected = 1;
        for (dim, stride) in self.shape.iter().zip(&self.strides).rev() {
            if *dim != 1 && *stride != expected {
                return false;
            }
            expected *= *dim as usize;
        }
        true
    }

    /// The elements in row-major order, little-endian; borrowed from the file where they lie so.
    ///
    /// # Errors
    /// The file was changed while it was read.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        let (size, numel) = (self.dtype.size(), self.numel());
        if numel == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        let all = self.storage.bytes()?;
        let mut found = if self.is_contiguous() {
            let range = self.offset * size..(self.offset + numel) * size;
            match all {
                Cow::Borrowed(all) => Cow::Borrowed(&all[range]),
                Cow::Owned(all) => Cow::Owned(all[range].to_vec()),
            }
        } else {
            Cow::Owned(self.gather(&all))
        };
        if self.big_endian && size > 1 {
            found.to_mut().chunks_exact_mut(size).for_each(|element| element.reverse());
        }
        Ok(found)
    }

    fn gather(&self, all: &[u8]) -> Vec<u8> {
        let size = self.dtype.size();
        let mut out = Vec::with_capacity(self.numel() * size);
        let mut index = vec![0i64; self.shape.len()];
        let mut at = self.offset;
        loop {
            out.extend_from_slice(&all[at * size..(at + 1) * size]);
            let mut dim = self.shape.len();
            loop {
                if dim == 0 {
                    return out;
                }
                dim -= 1;
                index[dim] += 1;
                at += self.strides[dim];
                if index[dim] < self.shape[dim] {
                    break;
                }
                at -= self.strides[dim] * self.shape[dim] as usize;
                index[dim] = 0;
            }
        }
    }
}

/// The strides of a row-major tensor.
pub(super) fn row_major(shape: &[i64]) -> Result<Vec<i64>> {
    let mut strides = vec![1i64; shape.len()];
    for dim in (1..shape.len()).rev() {
        let next = strides[dim].checked_mul(shape[dim].max(1));
        strides[dim - 1] = next.with_context(|| format!("a tensor of shape {shape:?} is too large"))?;
    }
    Ok(strides)
}
