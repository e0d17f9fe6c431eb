//! NCCL with one process.

use std::time::Duration;

use maskrcnn_benchmark::ffi::{ProcessGroup, Reducer, Store};
use tch::{Device, Kind, Tensor};

use super::device;

const TIMEOUT: Duration = Duration::from_secs(60);

extern "C" fn computed() {}

#[test]
fn one_process_gets_back_what_it_gives() {
    let Some(device) = device() else { return };
    if !cfg!(mrb_nccl) {
        println!("SKIPPED: this program was built without NCCL");
        return;
    }
    let store = Store::host("127.0.0.1", 0, TIMEOUT).unwrap();
    let group = ProcessGroup::gloo(&store, 0, 1, TIMEOUT).unwrap();
    group.add_nccl(&store, TIMEOUT).unwrap();

    let values = Tensor::from_slice(&[3f32, -1.5, 8.0]);
    let mut on_gpu = values.to_device(device);
    group.all_reduce_sum(&mut on_gpu).unwrap();
    assert_eq!(on_gpu.to_device(Device::Cpu), values);
    let mut on_cpu = values.copy();
    group.all_reduce_sum(&mut on_cpu).unwrap();
    assert_eq!(on_cpu, values);
    let mut both = [values.to_device(device)];
    group.broadcast(&mut both).unwrap();
    assert_eq!(both[0].to_device(Device::Cpu), values);

    let weight = values.to_device(device).set_requires_grad(true);
    let mut reducer = Reducer::new(&group, &[("weight".into(), weight.shallow_clone())], computed).unwrap();
    reducer.prepare_for_forward().unwrap();
    let loss = (&weight * &weight).sum(Kind::Float);
    reducer.prepare_for_backward().unwrap();
    loss.backward();
    reducer.check_finalized().unwrap();
    assert_eq!(weight.grad().to_device(Device::Cpu), values * 2.0);
    group.barrier().unwrap();
    drop(reducer);
    group.shutdown().unwrap();
}
