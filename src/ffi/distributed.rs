//! Several processes that work together: libtorch's c10d, what `torch.distributed` is made of.

use std::ffi::{c_int, CString};
use std::ptr::NonNull;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use tch::{Kind, Tensor};

use super::{call, call_for_tensor, raw};

fn milliseconds(timeout: Duration) -> i64 {
    i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX / 2)
}

/// What a function of csrc makes behind a pointer.
fn make<T>(function: impl FnOnce(*mut raw::Error, *mut *mut T) -> c_int) -> Result<NonNull<T>> {
    let mut handle = std::ptr::null_mut();
    call(|error| function(error, &mut handle))?;
    NonNull::new(handle).context("libtorch gave no object")
}

/// A key-value store that one process hosts and all reach over TCP (`torch.distributed.TCPStore`).
pub struct Store {
    handle: NonNull<raw::Store>,
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

/// The processes of a job, connected with each other. Every process calls the same methods in the same order.
pub struct ProcessGroup {
    handle: NonNull<raw::ProcessGroup>,
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

    pub fn rank(&self) -> usize {
        self.rank
    }

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
        let place = super::optional(output.as_ref());
        // SAFETY: all handles are live for the call; the output may be null.
        call(|error| unsafe { raw::mrb_gather(error, self.handle.as_ptr(), place, input.as_ptr()) })?;
        Ok(output)
    }

    fn room_for_all(&self, tensor: &Tensor) -> Tensor {
        let mut shape = vec![self.world_size as i64];
        shape.extend(tensor.size());
        Tensor::zeros(shape, (tensor.kind(), tensor.device()))
    }

    /// All processes' bytes by rank, of any length, in rank 0; `None` elsewhere.
    ///
    /// # Errors
    /// See [`ProcessGroup::barrier`].
    pub fn gather_bytes(&self, bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>> {
        let lengths: Vec<i64> = Vec::try_from(self.all_gather(&Tensor::from(bytes.len() as i64))?)?;
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

/// Averages gradients over the processes while `backward` still runs (`DistributedDataParallel` without its module).
///
/// Each iteration calls [`prepare_for_forward`](Reducer::prepare_for_forward), computes a loss that every parameter
/// takes part in, calls [`prepare_for_backward`](Reducer::prepare_for_backward), runs `backward`, and calls
/// [`check_finalized`](Reducer::check_finalized).
pub struct Reducer {
    handle: NonNull<raw::Reducer>,
}

// SAFETY: a c10d::Reducer locks itself; autograd calls it from threads of its own.
unsafe impl Send for Reducer {}

impl Reducer {
    /// # Errors
    /// The processes do not have the same parameters, or one cannot be reached.
    pub fn new(group: &ProcessGroup, parameters: &[(String, Tensor)]) -> Result<Self> {
        ensure!(!parameters.is_empty(), "no parameter is trained");
        let tensors: Vec<_> = parameters.iter().map(|(_, tensor)| tensor.as_ptr() as *const _).collect();
        let names: Vec<CString> =
            parameters.iter().map(|(name, _)| CString::new(name.as_str())).collect::<Result<_, _>>()?;
        let names: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: all pointers are valid for the call; the reducer keeps references to the tensors and the group.
        let handle = make(|error, reducer| unsafe {
            raw::mrb_reducer_new(
                error,
                reducer,
                group.handle.as_ptr(),
                tensors.as_ptr(),
                names.as_ptr(),
                parameters.len(),
            )
        })?;
        Ok(Self { handle })
    }

    /// # Errors
    /// Another process has ended, or does not answer within the timeout.
    pub fn prepare_for_forward(&mut self) -> Result<()> {
        // SAFETY: the handle is live as long as self.
        call(|error| unsafe { raw::mrb_reducer_prepare_for_forward(error, self.handle.as_ptr()) })
    }

    /// # Errors
    /// The iteration before did not reach every parameter.
    pub fn prepare_for_backward(&mut self) -> Result<()> {
        // SAFETY: the handle is live as long as self.
        call(|error| unsafe { raw::mrb_reducer_prepare_for_backward(error, self.handle.as_ptr()) })
    }

    /// # Errors
    /// A parameter did not take part in the loss, so that its gradient, and those sent with it, were not averaged.
    pub fn check_finalized(&mut self) -> Result<()> {
        // SAFETY: the handle is live as long as self.
        call(|error| unsafe { raw::mrb_reducer_check_finalized(error, self.handle.as_ptr()) })
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: the handle was made by csrc for this object alone and is not used again. A failure to take the
        // hooks off the parameters leaves nothing to do.
        let _ = call(|error| unsafe { raw::mrb_reducer_free(error, self.handle.as_ptr()) });
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    #[test]
    fn a_store_is_shared_and_its_prefixes_are_apart() {
        let server = Store::host("127.0.0.1", 0, TIMEOUT).unwrap();
        let client = Store::connect("127.0.0.1", server.port(), TIMEOUT).unwrap().with_prefix("run/1").unwrap();
        client.set("rank", b"two").unwrap();
        assert!(client.check("rank").unwrap() && !server.check("rank").unwrap());
        assert_eq!(server.get("run/1/rank").unwrap(), b"two");
        assert_eq!((client.add("n", 2).unwrap(), client.add("n", -5).unwrap()), (2, -3));
    }

    #[test]
    fn a_port_in_use_and_an_absent_store_are_errors() {
        let server = Store::host("127.0.0.1", 0, TIMEOUT).unwrap();
        assert!(Store::host("127.0.0.1", server.port(), TIMEOUT).is_err());
        let port = server.port();
        drop(server);
        assert!(Store::connect("127.0.0.1", port, Duration::from_millis(100)).is_err());
    }

    /// Two members of a group as two threads, each with its own connection.
    fn two<T: Send>(body: impl Fn(ProcessGroup) -> T + Sync) -> Vec<T> {
        let server = Store::host("127.0.0.1", 0, TIMEOUT).unwrap();
        let member = |rank| {
            let store = Store::connect("127.0.0.1", server.port(), TIMEOUT).unwrap();
            body(ProcessGroup::gloo(&store, rank, 2, TIMEOUT).unwrap())
        };
        thread::scope(|scope| {
            let member = &member;
            let threads = [0, 1].map(|rank| scope.spawn(move || member(rank)));
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn collectives_give_what_their_names_say() {
        two(|group| {
            let rank = group.rank() as i64;
            group.barrier().unwrap();
            let mut sum = Tensor::from_slice(&[rank as f32, 1.0]);
            group.all_reduce_sum(&mut sum).unwrap();
            assert_eq!(sum, Tensor::from_slice(&[1f32, 2.0]));
            let gathered = group.all_gather(&Tensor::from_slice(&[rank, 7])).unwrap();
            assert_eq!(gathered, Tensor::from_slice(&[0i64, 7, 1, 7]).view([2, 2]));
            let bytes = group.gather_bytes(&vec![rank as u8; 3 * rank as usize]).unwrap();
            assert_eq!(bytes, (rank == 0).then(|| vec![vec![], vec![1, 1, 1]]));
            let mut weights = [Tensor::from_slice(&[rank as f32 + 3.0]), Tensor::from_slice(&[rank])];
            group.broadcast(&mut weights).unwrap();
            assert_eq!(weights, [Tensor::from_slice(&[3f32]), Tensor::from_slice(&[0i64])]);
        });
    }

    #[test]
    fn gradients_are_averaged_in_every_iteration() {
        two(|group| {
            let weight = Tensor::from_slice(&[1f32, 2.0]).set_requires_grad(true);
            let bias = Tensor::from_slice(&[0f32]).set_requires_grad(true);
            let parameters = [("weight".to_string(), weight.shallow_clone()), ("bias".into(), bias.shallow_clone())];
            let mut reducer = Reducer::new(&group, &parameters).unwrap();
            for iteration in 0..3 {
                reducer.prepare_for_forward().unwrap();
                let scale = (group.rank() + iteration) as f64;
                let loss = (&weight * scale).sum(Kind::Float) + bias.sum(Kind::Float);
                reducer.prepare_for_backward().unwrap();
                weight.grad().zero_grad_if_defined();
                bias.grad().zero_grad_if_defined();
                loss.backward();
                reducer.check_finalized().unwrap();
                let expected = 0.5 + iteration as f32;
                assert_eq!(weight.grad(), Tensor::from_slice(&[expected, expected]));
                assert_eq!(bias.grad(), Tensor::from_slice(&[1f32]));
            }
            reducer.prepare_for_forward().unwrap();
            reducer.prepare_for_backward().unwrap();
            weight.sum(Kind::Float).backward();
            let error = reducer.check_finalized().unwrap_err().to_string();
            assert!(error.contains("finished reduction"), "{error}");
        });
    }

    trait ZeroGrad {
        fn zero_grad_if_defined(self);
    }

    impl ZeroGrad for Tensor {
        fn zero_grad_if_defined(mut self) {
            if self.defined() {
                let _ = self.zero_();
            }
        }
    }
}
