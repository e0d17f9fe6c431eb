use std::ptr::NonNull;
use std::time::Duration;

use anyhow::Result;
use tch::{Kind, Tensor};

use super::super::{call, optional, raw};
use super::{make, milliseconds, Store};

/// The processes of a job, connected with each other. Every process calls the same methods in the same order.
pub struct ProcessGroup {
    pub(super) handle: NonNull<raw::ProcessGroup>,
    rank: usize,
    world_size: usize,
}

// SAFETY: c10d's process groups lock their queues of work; that calls are in the same order everywhere, which is up to
// the callers, is a matter of results and not of memory.
unsafe impl Send for ProcessGroup {}
// SAFETY: as above.
unsafe impl Sync for ProcessGroup {}

impl ProcessGroup {
    /// Connects the processes over Gloo (tensors on the CPU); each collective operation may take `timeout`.
    ///
    /// # Errors
    /// The other processes do not come within the timeout, or cannot be reached.
    pub fn gloo(store: &Store, rank: usize, world_size: usize, timeout: Duration) -> Result<Self> {
        let (number, size) = (i64::try_from(rank)?, i64::try_from(world_size)?);
        // SAFETY: all pointers are valid for the call; the group counts its own reference to the store.
        let handle = make(|error, group| unsafe {
            raw::mrb_process_group_gloo(error, group, store.handle.as_ptr(), number, size, milliseconds(timeout))
        })?;
        Ok(Self { handle, rank, world_size })
    }

    /// Lets the group handle tensors on CUDA as well, over NCCL: once CUDA is open and this process has chosen its GPU,
    /// in all processes.
    ///
    /// # Errors
    /// This program was built without NCCL, or NCCL's own words.
    pub fn add_nccl(&self, store: &Store, timeout: Duration) -> Result<()> {
        let (rank, size) = (i64::try_from(self.rank)?, i64::try_from(self.world_size)?);
        let (group, store) = (self.handle.as_ptr(), store.handle.as_ptr());
        // SAFETY: all pointers are valid for the call; the group counts its own reference to the store.
        call(|error| unsafe { raw::mrb_process_group_add_nccl(error, group, store, rank, size, milliseconds(timeout)) })
    }

    /// At the end of a job that has succeeded, in all processes: ends NCCL's threads and communicators, which waits
    /// until all operations are done. A group that is dropped without it gives them up at once.
    ///
    /// # Errors
    /// NCCL's own words.
    pub fn shutdown(&self) -> Result<()> {
        // SAFETY: the handle is live as long as self.
        call(|error| unsafe { raw::mrb_process_group_shutdown(error, self.handle.as_ptr()) })
    }

    /// This process's number in the group, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of processes.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Waits until all processes have come here.
    ///
    /// # Errors
    /// Another process has ended, or does not come within the timeout. This holds for all collective operations.
    pub fn barrier(&self) -> Result<()> {
        // SAFETY: the handle is live as long as self.
        call(|error| unsafe { raw::mrb_barrier(error, self.handle.as_ptr()) })
    }

    /// Replaces the tensor by the sum of all processes' tensors, in place.
    ///
    /// # Errors
    /// See [`ProcessGroup::barrier`].
    pub fn all_reduce_sum(&self, tensor: &mut Tensor) -> Result<()> {
        // SAFETY: both handles are live for the call.
        call(|error| unsafe { raw::mrb_all_reduce_sum(error, self.handle.as_ptr(), tensor.as_ptr()) })
    }

    /// All processes' tensors, by rank.
    ///
    /// # Shapes
    /// The same `[..]` in all processes; gives `[world size, ..]`.
    ///
    /// # Errors
    /// See [`ProcessGroup::barrier`].
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Tensor> {
        // Gloo wants the pieces end to end, without a dimension of their own.
        let input = tensor.contiguous().view(-1);
        let output = self.room_for_all(&input).view(-1);
        // SAFETY: all handles are live for the call.
        call(|error| unsafe { raw::mrb_all_gather(error, self.handle.as_ptr(), output.as_ptr(), input.as_ptr()) })?;
        let mut shape = vec![self.world_size as i64];
        shape.extend(tensor.size());
        Ok(output.view(&shape[..]))
    }

    /// All processes' tensors by rank, in rank 0; `None` elsewhere.
    ///
    /// # Shapes
    /// The same `[..]` in all processes; gives `[world size, ..]`.
    ///
    /// # Errors
    /// See [`ProcessGroup::barrier`].
    pub fn gather(&self, tensor: &Tensor) -> Result<Option<Tensor>> {
        let input = tensor.contiguous();
        let output = (self.rank == 0).then(|| self.room_for_all(tensor));
        let place = optional(output.as_ref());
        // SAFETY: all handles are live for the call; the output may be null.
        call(|error| unsafe { raw::mrb_gather(error, self.handle.as_ptr(), place, input.as_ptr()) })?;
        Ok(output)
    }

    fn room_for_all(&self, tensor: &Tensor) -> Tensor {
        let mut shape = vec![self.world_size as i64];
        shape.extend(tensor.size());
        Tensor::zeros(shape, (tensor.kind(), tensor.device()))
    }

    /// How many bytes each process has, by rank; the first half of [`ProcessGroup::gather_bytes`].
    ///
    /// # Errors
    /// See [`ProcessGroup::barrier`].
    pub fn gather_lengths(&self, bytes: &[u8]) -> Result<Vec<i64>> {
        Ok(Vec::try_from(self.all_gather(&Tensor::from(bytes.len() as i64))?)?)
    }

    /// All processes' bytes by rank, of any length, in rank 0; `None` elsewhere. `lengths` is what
    /// [`ProcessGroup::gather_lengths`] gave for the same bytes.
    ///
    /// # Errors
    /// See [`ProcessGroup::barrier`].
    pub fn gather_bytes(&self, bytes: &[u8], lengths: &[i64]) -> Result<Option<Vec<Vec<u8>>>> {
        // Gloo sends pieces of equal size.
        let longest = lengths.iter().copied().max().unwrap_or(0).max(1);
        let padded = Tensor::zeros([longest], (Kind::Uint8, tch::Device::Cpu));
        padded.narrow(0, 0, bytes.len() as i64).copy_(&Tensor::from_slice(bytes));
        let Some(gathered) = self.gather(&padded)? else { return Ok(None) };
        let piece = |(rank, &len): (usize, &i64)| Ok(Vec::try_from(gathered.get(rank as i64).narrow(0, 0, len))?);
        lengths.iter().enumerate().map(piece).collect::<Result<_>>().map(Some)
    }

    /// Makes the tensors of all processes those of rank 0, in place.
    ///
    /// # Errors
    /// See [`ProcessGroup::barrier`].
    pub fn broadcast(&self, tensors: &mut [Tensor]) -> Result<()> {
        let handles: Vec<_> = tensors.iter().map(Tensor::as_ptr).collect();
        let handles: Vec<_> = handles.into_iter().map(|handle| handle as *const _).collect();
        // SAFETY: all handles are live for the call.
        call(|error| unsafe { raw::mrb_broadcast(error, self.handle.as_ptr(), handles.as_ptr(), handles.len()) })
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // SAFETY: the handle was made by csrc for this object alone and is not used again.
        unsafe { raw::mrb_process_group_free(self.handle.as_ptr()) }
    }
}
