//! Files that PyTorch and numpy wrote, round trips, and hostile files.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;

/// The files in `tests/data/checkpoint`, which `fuzz/` starts from too.
const CORPUS: [&str; 15] = [
    "zip.pth",
    "zip64.pth",
    "big_endian.pth",
    "claims.pth",
    "training.pth",
    "legacy.pth",
    "module.pth",
    "namespace.pth",
    "numpy0.pkl",
    "numpy2.pkl",
    "numpy4.pkl",
    "numpy5.pkl",
    "numpy5_bytes.pkl",
    "caffe2.pkl",
    "tensors.safetensors",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/checkpoint")
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).expect("a file of the repository")
}

fn read_bytes(bytes: &[u8]) -> Result<Value> {
    read(&Buffer::new(bytes.to_vec()))
}

/// Every number of a tensor as f64.
fn numbers(tensor: &TensorData) -> Vec<f64> {
    let bytes = tensor.bytes().expect("bytes");
    let chunk = |b: &[u8]| -> f64 {
        match tensor.dtype() {
            Dtype::Float16 => half::f16::from_le_bytes(b.try_into().unwrap()).into(),
            Dtype::BFloat16 => half::bf16::from_le_bytes(b.try_into().unwrap()).into(),
            Dtype::Float32 => f32::from_le_bytes(b.try_into().unwrap()).into(),
            Dtype::Float64 => f64::from_le_bytes(b.try_into().unwrap()),
            Dtype::UInt8 | Dtype::Bool => b[0].into(),
            Dtype::Int8 => (b[0] as i8).into(),
            Dtype::Int16 => i16::from_le_bytes(b.try_into().unwrap()).into(),
            Dtype::Int32 => i32::from_le_bytes(b.try_into().unwrap()).into(),
            Dtype::Int64 => i64::from_le_bytes(b.try_into().unwrap()) as f64,
        }
    };
    bytes.chunks_exact(tensor.dtype().size()).map(chunk).collect()
}

#[test]
fn files_of_pytorch_and_numpy_are_read() {
    let expected: Json = serde_json::from_slice(&bytes("expected.json")).unwrap();
    for (file, tensors) in expected.as_object().unwrap() {
        let value = read_bytes(&bytes(file)).unwrap_or_else(|e| panic!("{file}: {e:#}"));
        let mut dict = value.as_dict().unwrap();
        for level in ["model", "blobs"] {
            dict = dict.get(level).map_or(dict, |inner| inner.as_dict().unwrap());
        }
        for (name, want) in tensors.as_object().unwrap() {
            let tensor = dict.get(name).unwrap().as_tensor().unwrap();
            assert_eq!(Json::from(tensor.shape().to_vec()), want["shape"], "{file} {name}");
            if let Some(dtype) = want["dtype"].as_str() {
                assert_eq!(tensor.dtype().name(), dtype, "{file} {name}");
            }
            let values: Vec<f64> = want["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
            assert_eq!(numbers(tensor), values, "{file} {name}");
        }
    }
}

#[test]
fn arrays_are_written_for_either_python() {
    for file in ["zip.pth", "big_endian.pth", "numpy2.pkl", "numpy5_bytes.pkl"] {
        let mut value = read_bytes(&bytes(file)).unwrap();
        if let Value::Dict(dict) = &mut value {
            // numpy has no bfloat16
            dict.entries.retain(|(_, value)| value.as_tensor().is_none_or(|tensor| tensor.dtype() != Dtype::BFloat16));
        }
        for (python, protocol) in [(Python::Two, 2), (Python::Three, 3)] {
            let mut pickle = Vec::new();
            assert_eq!(write_pickle(&mut pickle, &value, python).unwrap(), python);
            assert_eq!(pickle[..2], [0x80, protocol]);
            let back = read_bytes(&pickle).unwrap();
            let mut again = Vec::new();
            write_pickle(&mut again, &back, python).unwrap();
            assert!(pickle == again, "{file}, {python:?}");
            same_tensors(&value, &back);
        }
    }
}

fn same_tensors(one: &Value, other: &Value) {
    match (one, other) {
        (Value::Dict(one), Value::Dict(other)) => {
            assert_eq!(one.len(), other.len());
            one.entries.iter().zip(&other.entries).for_each(|((_, one), (_, other))| same_tensors(one, other));
        }
        (Value::Tensor(one), Value::Tensor(other)) => {
            assert_eq!((one.dtype(), one.shape()), (other.dtype(), other.shape()));
            assert_eq!(one.bytes().unwrap(), other.bytes().unwrap());
        }
        (one, other) => assert_eq!(one.type_name(), other.type_name()),
    }
}

#[test]
fn views_share_their_storage() {
    for file in ["zip.pth", "legacy.pth"] {
        let value = read_bytes(&bytes(file)).unwrap();
        let identity =
            |name: &str| value.as_dict().unwrap().get(name).unwrap().as_tensor().unwrap().storage().identity();
        assert_eq!(identity("shared_a"), identity("shared_b"), "{file}");
        assert_eq!(identity("shared_a"), identity("transposed"), "{file}");
        assert_ne!(identity("shared_a"), identity("float64"), "{file}");
    }
}

#[test]
fn a_training_checkpoint_has_its_numbers() {
    let value = read_bytes(&bytes("training.pth")).unwrap();
    let dict = value.as_dict().unwrap();
    assert_eq!(dict.get("iteration").unwrap().as_int(), Some(2));
    let groups = dict.get("optimizer").unwrap().as_dict().unwrap().get("param_groups").unwrap().as_list().unwrap();
    assert_eq!(groups[0].as_dict().unwrap().get("momentum").unwrap().as_float(), Some(0.9));
    // A Counter of milestones.
    let milestones = dict.get("scheduler").unwrap().as_dict().unwrap().get("milestones").unwrap().as_dict().unwrap();
    assert_eq!(milestones.entries[0].0.as_int(), Some(3));
    let numpy = read_bytes(&bytes("numpy2.pkl")).unwrap();
    assert_eq!(numpy.as_dict().unwrap().get("scalar").unwrap().as_float(), Some(1.5));
    assert_eq!(numpy.as_dict().unwrap().get("count").unwrap().as_int(), Some(3));
}

#[test]
fn what_is_not_on_the_list_is_named() {
    let refused: [(&[u8], &str); 6] = [
        (b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.", "os.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "builtins.eval"),
        (b"cposix\nsystem\n(S'true'\ntR.", "posix.system"),
        (b"(S'true'\nios\nsystem\n.", "opcode 0x69"),
        (b"\x80\x02cmaskrcnn_benchmark.config\nrun\n)R.", "maskrcnn_benchmark.config.run"),
        (b"\x80\x02ctorch.hub\nload\n)R.", "torch.hub.load"),
    ];
    for (pickle, name) in refused {
        let error = format!("{:#}", read_bytes(pickle).unwrap_err());
        assert!(error.contains(name), "{error}");
    }
    for (file, name) in [("namespace.pth", "argparse.Namespace"), ("module.pth", "torch.nn.modules.linear.Linear")] {
        let error = format!("{:#}", read_bytes(&bytes(file)).unwrap_err());
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn sizes_that_the_file_does_not_have_are_refused() {
    let refused: [(&[u8], &str); 7] = [
        // a string of 2 GB, a bytes object of 2^63
        (b"\x80\x02X\xff\xff\xff\x7fab", "cut short"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fab.", "cut short"),
        // an array of shape (2^31 - 1,) of 2 bytes; a negative one
        (&array(b"J\xff\xff\xff\x7f\x85"), "2 bytes of data"),
        (&array(b"J\xff\xff\xff\xff\x85"), "2 bytes of data"),
        (&array(b"(J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7ft"), "2 bytes of data"),
        (b"\x80\x02}h\xff.", "memo entry 255"),
        (b"", "empty"),
    ];
    for (pickle, said) in refused {
        let error = format!("{:#}", read_bytes(pickle).unwrap_err());
        assert!(error.contains(said), "{error}");
    }
}

/// A numpy array of two bytes of f2 whose shape the given opcodes push.
fn array(shape: &[u8]) -> Vec<u8> {
    let mut out = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01".to_vec();
    out.extend(shape);
    out.extend(b"cnumpy\ndtype\nU\x02f2K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\0\0tb.");
    out
}

#[test]
fn repetition_and_nesting_are_bounded() {
    // ten levels of lists of a hundred times the level below
    let mut laughs = b"\x80\x02]q\x00".to_vec();
    for level in 0..10u8 {
        laughs.extend(b"](");
        (0..100).for_each(|_| laughs.extend([b'h', level]));
        laughs.extend([b'e', b'q', level + 1]);
    }
    laughs.push(b'.');
    assert!(format!("{:#}", read_bytes(&laughs).unwrap_err()).contains("too often"));
    // a list that contains itself
    assert!(format!("{:#}", read_bytes(b"\x80\x02]q\x00h\x00a.").unwrap_err()).contains("contain themselves"));
    // a million opening lists
    let mut deep = b"\x80\x02".to_vec();
    deep.extend(vec![b']'; 1_000_000]);
    deep.extend(vec![b'a'; 999_999]);
    deep.push(b'.');
    assert!(format!("{:#}", read_bytes(&deep).unwrap_err()).contains("nested"));
}

#[test]
fn shapes_must_fit_their_storage() {
    let storage = Buffer::new(vec![0u8; 16]);
    let view = |shape: &[i64], strides: &[i64], offset| {
        TensorData::view(Dtype::Float32, shape.to_vec(), strides.to_vec(), offset, storage.clone(), false)
    };
    assert!(view(&[2, 2], &[2, 1], 0).is_ok());
    assert!(view(&[2, 2], &[2, 1], 1).is_err());
    assert!(view(&[2, 2], &[1, 1], -1).is_err());
    assert!(view(&[2], &[-1], 1).is_err());
    assert!(view(&[i64::MAX, i64::MAX], &[0, 0], 0).is_err());
    assert!(view(&[i64::MAX], &[i64::MAX], 0).is_err());
    assert!(view(&[1 << 40], &[0], 0).is_err());
    assert!(view(&[0], &[1], 0).is_ok());
    assert_eq!(view(&[1000], &[0], 3).unwrap().bytes().unwrap().len(), 4000);
}

#[test]
fn cut_files_are_errors() {
    for file in CORPUS {
        let whole = bytes(file);
        for len in 0..whole.len() {
            assert!(read_bytes(&whole[..len]).is_err(), "{file} cut to {len} of {} bytes was read", whole.len());
        }
    }
}

/// Changed bytes: an error or some value, never a panic, never much memory.
#[test]
fn changed_files_do_no_harm() {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let corpus = CORPUS.map(bytes);
    let (mut read, mut refused) = (0, 0);
    for round in 0..6000 {
        let mut file = corpus[round % corpus.len()].clone();
        for _ in 0..1 + random(4) {
            let at = random(file.len());
            file[at] = match random(3) {
                0 => random(256) as u8,
                1 => file[at] ^ (1 << random(8)),
                _ => corpus[random(corpus.len())][random(900)],
            };
        }
        match read_bytes(&file) {
            Ok(value) => {
                read += 1;
                touch(&value);
            }
            Err(_) => refused += 1,
        }
    }
    assert!(read > 100 && refused > 100, "{read} read, {refused} refused: the changes are too weak or too strong");
}

/// Uses every tensor as loading would.
fn touch(value: &Value) {
    match value {
        Value::List(items) | Value::Tuple(items) => items.iter().for_each(touch),
        Value::Dict(dict) => dict.entries.iter().for_each(|(_, value)| touch(value)),
        Value::Tensor(tensor) => assert_eq!(tensor.bytes().unwrap().len(), tensor.numel() * tensor.dtype().size()),
        _ => {}
    }
}

#[test]
fn compressed_archives_are_refused() {
    // A zip entry that claims to be deflated and to hold 4 GB.
    let mut file = bytes("zip.pth");
    let find = |file: &[u8], what: &[u8]| file.windows(what.len()).position(|w| w == what).unwrap();
    let at = find(&file, b"PK\x01\x02");
    file[at + 10] = 8;
    file[at + 24..at + 28].copy_from_slice(&[0xfe, 0xff, 0xff, 0xff]);
    let error = format!("{:#}", read_bytes(&file).unwrap_err());
    assert!(error.contains("data.pkl"), "{error}");
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-300i64..70_000).prop_map(Value::Int),
        any::<f64>().prop_map(Value::Float),
        "\\PC{0,12}".prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Value::Bytes(Buffer::new(bytes))),
        (0i64..4, 0i64..4, prop::sample::select(Dtype::ALL.to_vec())).prop_map(|(h, w, dtype)| {
            let bytes = vec![1u8; (h * w) as usize * dtype.size()];
            Value::from(TensorData::contiguous(dtype, vec![h, w], Buffer::new(bytes)).unwrap())
        }),
    ]
}

fn tree() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 64, 8, |inner| {
        let unique = |pairs: Vec<(Value, Value)>| {
            pairs.into_iter().enumerate().map(|(i, (_, v))| (Value::Int(i as i64), v)).collect()
        };
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::List),
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Tuple),
            (prop::collection::vec((inner.clone(), inner.clone()), 0..6), any::<bool>())
                .prop_map(move |(pairs, ordered)| Value::Dict(Dict { entries: unique(pairs), ordered })),
            inner.prop_map(|state| {
                let mut dict = Dict::new();
                dict.insert("bbox", state);
                Value::object("maskrcnn_benchmark.structures.bounding_box", "BoxList", dict)
            }),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(value in tree()) {
        let back = read_bytes(&to_bytes(&value).unwrap()).unwrap();
        let (once, twice) = (encode::encode(&value).unwrap(), encode::encode(&back).unwrap());
        prop_assert_eq!(once.pickle, twice.pickle);
        let contents = |list: &[Buffer]| list.iter().map(|b| b.bytes().unwrap().to_vec()).collect::<Vec<_>>();
        prop_assert_eq!(contents(&once.storages), contents(&twice.storages));
    }
}

#[test]
fn safetensors_are_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree.safetensors");
    let value = read_bytes(&bytes("zip.pth")).unwrap();
    let tensors: Vec<(String, TensorData)> = value
        .as_dict()
        .unwrap()
        .entries
        .iter()
        .map(|(k, v)| (k.as_str().unwrap().to_string(), v.as_tensor().unwrap().clone()))
        .collect();
    write_safetensors(&path, &tensors).unwrap();
    let back = read_bytes(&std::fs::read(&path).unwrap()).unwrap();
    for (name, tensor) in &tensors {
        let found = back.as_dict().unwrap().get(name).unwrap().as_tensor().unwrap();
        assert_eq!((found.shape(), found.dtype()), (tensor.shape(), tensor.dtype()), "{name}");
        assert_eq!(found.bytes().unwrap(), tensor.bytes().unwrap(), "{name}");
    }
}

/// A full disk: the first error comes back, and nothing else is said or done.
#[test]
fn a_failed_write_is_the_first_error() {
    struct Full {
        room: usize,
        asked: usize,
    }
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.asked += 1;
            self.room = self.room.checked_sub(bytes.len()).ok_or_else(|| io::Error::other("no room"))?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let value = read_bytes(&bytes("training.pth")).unwrap();
    let mut whole = Vec::new();
    write_torch(&mut whole, "a", &value).unwrap();
    let mut before = 0;
    for room in (0..whole.len()).step_by(97) {
        let mut out = Full { room, asked: 0 };
        assert_eq!(write_torch(&mut out, "a", &value).unwrap_err().to_string(), "no room");
        assert!(out.asked >= before, "it went on after the error");
        before = out.asked;
    }
}

/// A small file whose tensors, each expanded from one number, would fill any memory together.
#[test]
fn claims_are_bounded_by_the_file() {
    let mut dict = Dict::new();
    let storage = Buffer::new(vec![0u8; 4]);
    for i in 0..100 {
        let shape = vec![1 << 12, 1 << 12];
        let tensor = TensorData::view(Dtype::Float32, shape, vec![0, 0], 0, storage.clone(), false).unwrap();
        dict.insert(i64::from(i), tensor);
    }
    let error = format!("{:#}", read_bytes(&to_bytes(&Value::Dict(dict)).unwrap()).unwrap_err());
    assert!(error.contains("far larger than the file"), "{error}");
}

#[test]
fn empty_tensors_of_absurd_sizes_are_empty() {
    let view =
        TensorData::view(Dtype::Float32, vec![i64::MAX, 0, i64::MAX], vec![1, 1, 1], 0, Buffer::new(vec![]), false);
    let tensor = view.unwrap();
    assert_eq!((tensor.numel(), tensor.is_contiguous(), tensor.bytes().unwrap().len()), (0, true, 0));
}

/// Names in the archive and in the pickle are looked up, never opened.
#[test]
fn names_are_no_paths() {
    let mut file = bytes("zip.pth");
    let entry = b"zip/data/0";
    let at = file.windows(entry.len()).position(|w| w == entry).unwrap();
    let central = at + 10 + file[at + 10..].windows(entry.len()).position(|w| w == entry).unwrap();
    for place in [at, central] {
        file[place..place + entry.len()].copy_from_slice(b"../../../0");
    }
    let error = format!("{:#}", read_bytes(&file).unwrap_err());
    assert!(error.contains("the archive has no such storage"), "{error}");
}

/// `fuzz/` compiles this folder alone, without libtorch.
#[test]
fn this_folder_needs_nothing_else_of_the_crate() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/checkpoint/pickle");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("tests.rs") {
            continue;
        }
        files += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        for word in ["crate::", "super::super::", "tch::"] {
            assert!(!text.contains(word), "{} uses {word}", path.display());
        }
    }
    assert!(files > 10, "only {files} files");
}
