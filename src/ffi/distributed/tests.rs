use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tch::{Kind, Tensor};

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
        let own = vec![rank as u8; 3 * rank as usize];
        let lengths = group.gather_lengths(&own).unwrap();
        let bytes = group.gather_bytes(&own, &lengths).unwrap();
        assert_eq!(bytes, (rank == 0).then(|| vec![vec![], vec![1, 1, 1]]));
        let mut weights = [Tensor::from_slice(&[rank as f32 + 3.0]), Tensor::from_slice(&[rank])];
        group.broadcast(&mut weights).unwrap();
        assert_eq!(weights, [Tensor::from_slice(&[3f32]), Tensor::from_slice(&[0i64])]);
    });
}

/// Backward passes, of all threads, whose own gradients were complete.
static COMPUTED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count_computed() {
    COMPUTED.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn a_program_without_nccl_says_so() {
    if cfg!(mrb_nccl) {
        return; // tests/areas/cuda uses it
    }
    let store = Store::host("127.0.0.1", 0, TIMEOUT).unwrap();
    let group = ProcessGroup::gloo(&store, 0, 1, TIMEOUT).unwrap();
    let error = group.add_nccl(&store, TIMEOUT).unwrap_err().to_string();
    assert!(error.contains("built without NCCL"), "{error}");
}

#[test]
fn gradients_are_averaged_in_every_iteration() {
    two(|group| {
        let weight = Tensor::from_slice(&[1f32, 2.0]).set_requires_grad(true);
        let bias = Tensor::from_slice(&[0f32]).set_requires_grad(true);
        let parameters = [("weight".to_string(), weight.shallow_clone()), ("bias".into(), bias.shallow_clone())];
        let mut reducer = Reducer::new(&group, &parameters, count_computed).unwrap();
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
    assert_eq!(COMPUTED.load(Ordering::SeqCst), 2 * 3, "the last pass, which misses a gradient, does not count");
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
