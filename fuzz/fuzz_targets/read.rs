//! Any bytes, read as a file of weights: an error or a value, never a panic, never much memory.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, unused_imports)]
#[path = "../../src/checkpoint/pickle/mod.rs"]
mod pickle;

use pickle::{Buffer, Value};

fuzz_target!(|data: &[u8]| {
    if let Ok(value) = pickle::read(&Buffer::new(data.to_vec())) {
        touch(&value);
    }
});

/// Uses every tensor as loading would.
fn touch(value: &Value) {
    match value {
        Value::List(items) | Value::Tuple(items) => items.iter().for_each(touch),
        Value::Dict(dict) => dict.entries.iter().for_each(|(_, value)| touch(value)),
        Value::Object(object) => touch(&object.state),
        Value::Tensor(tensor) => {
            if let Ok(bytes) = tensor.bytes() {
                assert_eq!(bytes.len(), tensor.numel() * tensor.dtype().size());
            }
        }
        _ => {}
    }
}
