use std::ffi::CString;
use std::ptr::NonNull;
use std::time::Duration;

use anyhow::Result;

use super::super::{call, call_for_tensor, raw};
use super::{make, milliseconds};

/// A key-value store that one process hosts and all reach over TCP (`torch.distributed.TCPStore`).
pub struct Store {
    pub(super) handle: NonNull<raw::Store>,
    port: u16,
}

// SAFETY: c10d's stores may be used from any thread, several at a time: each request locks the connection.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    /// Hosts the store on `port` (0: any free one) and is its first client.
    ///
    /// # Errors
    /// The port is in use.
    pub fn host(host: &str, port: u16, timeout: Duration) -> Result<Self> {
        Self::open(host, port, true, timeout)
    }

    /// A client of the store at `host:port`; tries until the timeout.
    ///
    /// # Errors
    /// No store answers.
    pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<Self> {
        Self::open(host, port, false, timeout)
    }

    fn open(host: &str, port: u16, is_server: bool, timeout: Duration) -> Result<Self> {
        let (host, mut bound) = (CString::new(host)?, 0);
        // SAFETY: all pointers are valid for the call.
        let handle = make(|error, store| unsafe {
            raw::mrb_store_new(error, store, &mut bound, host.as_ptr(), port, is_server, milliseconds(timeout))
        })?;
        Ok(Self { handle, port: bound })
    }

    /// The port it is reached at.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same store, all of whose keys begin with `prefix/`.
    ///
    /// # Errors
    /// A prefix with a zero byte.
    pub fn with_prefix(&self, prefix: &str) -> Result<Self> {
        let prefix = CString::new(prefix)?;
        // SAFETY: all pointers are valid for the call; csrc counts the references to the store itself.
        let handle = make(|error, prefixed| unsafe {
            raw::mrb_store_with_prefix(error, prefixed, self.handle.as_ptr(), prefix.as_ptr())
        })?;
        Ok(Self { handle, port: self.port })
    }

    /// # Errors
    /// The store is gone.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let key = CString::new(key)?;
        // SAFETY: all pointers are valid for the call, the value for its length.
        call(|error| unsafe {
            raw::mrb_store_set(error, self.handle.as_ptr(), key.as_ptr(), value.as_ptr(), value.len())
        })
    }

    /// The value of a key, as soon as there is one.
    ///
    /// # Errors
    /// The store is gone, or its timeout is over.
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        let key = CString::new(key)?;
        // SAFETY: all pointers are valid for the call.
        let value = call_for_tensor(|error, value| unsafe {
            raw::mrb_store_get(error, value, self.handle.as_ptr(), key.as_ptr())
        })?;
        Ok(Vec::try_from(value)?)
    }

    /// Adds to a number that begins at 0, and gives the sum.
    ///
    /// # Errors
    /// The store is gone.
    pub fn add(&self, key: &str, amount: i64) -> Result<i64> {
        let (key, mut sum) = (CString::new(key)?, 0);
        // SAFETY: all pointers are valid for the call.
        call(|error| unsafe { raw::mrb_store_add(error, &mut sum, self.handle.as_ptr(), key.as_ptr(), amount) })?;
        Ok(sum)
    }

    /// Whether the key has a value.
    ///
    /// # Errors
    /// The store is gone.
    pub fn check(&self, key: &str) -> Result<bool> {
        let (key, mut is_there) = (CString::new(key)?, false);
        // SAFETY: all pointers are valid for the call.
        call(|error| unsafe { raw::mrb_store_check(error, &mut is_there, self.handle.as_ptr(), key.as_ptr()) })?;
        Ok(is_there)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: the handle was made by csrc for this object alone and is not used again.
        unsafe { raw::mrb_store_free(self.handle.as_ptr()) }
    }
}
