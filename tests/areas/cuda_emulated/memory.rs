//! Memory as a kernel sees it: one buffer a tensor, with a page after it that nobody may touch.

use std::ffi::c_void;
use std::ptr::NonNull;

use tch::{Kind, Tensor};

/// The values of a tensor at the very end of its pages: one read or write too far stops the test with a segmentation
/// fault.
pub struct Buffer {
    pages: NonNull<u8>,
    mapped: usize,
    start: NonNull<u8>,
    bytes: usize,
    shape: Vec<i64>,
    kind: Kind,
}

impl Buffer {
    /// A copy of the tensor's values in its order of dimensions.
    pub fn of(tensor: &Tensor) -> Self {
        let mut buffer = Self::filled(&tensor.size(), tensor.kind(), 0);
        let plain = tensor.detach().contiguous();
        plain.copy_data_u8(buffer.data_mut(), plain.numel());
        buffer
    }

    /// For what a kernel adds to.
    pub fn zeros(shape: &[i64], kind: Kind) -> Self {
        Self::filled(shape, kind, 0)
    }

    /// For what a kernel writes: a value that it forgets stays nan (floats), -1 (integers) or true.
    pub fn unwritten(shape: &[i64], kind: Kind) -> Self {
        Self::filled(shape, kind, if kind == Kind::Bool { 1 } else { 0xff })
    }

    /// With every byte the same.
    pub fn filled(shape: &[i64], kind: Kind, byte: u8) -> Self {
        let bytes = shape.iter().product::<i64>() as usize * kind.elt_size_in_bytes();
        // SAFETY: asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let mapped = bytes.next_multiple_of(page) + page;
        // SAFETY: new anonymous memory; the last page, which exists, is then closed.
        let pages = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let address = libc::mmap(std::ptr::null_mut(), mapped, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert!(address != libc::MAP_FAILED, "no memory for {bytes} bytes");
            assert_eq!(libc::mprotect(address.byte_add(mapped - page), page, libc::PROT_NONE), 0);
            NonNull::new(address.cast::<u8>()).expect("memory is not at address 0")
        };
        // SAFETY: the place lies within the mapping, `bytes` before the closed page.
        let start = unsafe { pages.add(mapped - page - bytes) };
        let mut buffer = Self { pages, mapped, start, bytes, shape: shape.to_vec(), kind };
        buffer.data_mut().fill(byte);
        buffer
    }

    /// The values as a tensor.
    pub fn tensor(&self) -> Tensor {
        // SAFETY: `bytes` bytes from there on are ours, and written since the buffer was made.
        let data = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) };
        Tensor::from_data_size(data, &self.shape, self.kind)
    }

    pub fn pointer<T>(&self) -> *const T {
        self.start.as_ptr().cast()
    }

    pub fn pointer_mut<T>(&mut self) -> *mut T {
        self.start.as_ptr().cast()
    }

    fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: `bytes` bytes from there on are ours alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: what `filled` mapped, once.
        let status = unsafe { libc::munmap(self.pages.as_ptr().cast::<c_void>(), self.mapped) };
        debug_assert_eq!(status, 0);
    }
}

/// The place of a buffer that may be absent.
pub fn optional<T>(buffer: Option<&Buffer>) -> *const T {
    buffer.map_or(std::ptr::null(), Buffer::pointer)
}
