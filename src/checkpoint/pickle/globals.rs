//! What a pickle may refer to by name, and what "calling" it means here: making a node. Nothing is ever executed.

use anyhow::{bail, ensure, Context, Result};

use super::machine::Machine;
use super::node::{Id, Node};
use super::tensor_data::Dtype;

/// An entry of the list of allowed names.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Global {
    Dict {
        ordered: bool,
    },
    DefaultDict,
    Sequence {
        tuple: bool,
    },
    RebuildTensor {
        version: u8,
    },
    RebuildParameter,
    /// A storage class: typed, or of bytes.
    Storage(Option<Dtype>),
    TorchDtype(Dtype),
    NumpyReconstruct,
    NumpyFrombuffer,
    NumpyScalar,
    NumpyArray,
    NumpyDtype,
    Encode,
    Bytes,
    Reconstructor,
    /// A type that is only named (as a default factory or a base class).
    Type,
    /// A class of the original, whose instances are plain data here.
    Class {
        module: String,
        name: String,
    },
}

/// Looks a name up.
///
/// # Errors
/// Names the global when it is not on the list.
pub(super) fn find(module: &str, name: &str) -> Result<Global> {
    let found = match (module, name) {
        ("collections", "OrderedDict") => Global::Dict { ordered: true },
        ("collections", "Counter") | ("__builtin__" | "builtins", "dict") => Global::Dict { ordered: false },
        ("collections", "defaultdict") => Global::DefaultDict,
        ("__builtin__" | "builtins", "set" | "frozenset" | "list") => Global::Sequence { tuple: false },
        ("__builtin__" | "builtins", "tuple") | ("torch", "Size") => Global::Sequence { tuple: true },
        ("__builtin__" | "builtins", "bytes" | "bytearray") => Global::Bytes,
        ("__builtin__" | "builtins", "object" | "int" | "float" | "str" | "bool") => Global::Type,
        ("copy_reg" | "copyreg", "_reconstructor") => Global::Reconstructor,
        ("_codecs", "encode") => Global::Encode,
        ("torch._utils", "_rebuild_tensor") => Global::RebuildTensor { version: 1 },
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor { version: 2 },
        ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTensor { version: 3 },
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("torch.storage", "UntypedStorage" | "_UntypedStorage") | ("torch", "UntypedStorage") => Global::Storage(None),
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Global::NumpyReconstruct,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Global::NumpyScalar,
        ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Global::NumpyFrombuffer,
        ("numpy", "ndarray") => Global::NumpyArray,
        ("numpy", "dtype") => Global::NumpyDtype,
        ("torch" | "torch.cuda" | "torch.storage", _) => return torch_type(module, name),
        _ if module == "maskrcnn_benchmark" || module.starts_with("maskrcnn_benchmark.") => {
            Global::Class { module: module.to_string(), name: name.to_string() }
        }
        _ => bail!("{}", refusal(module, name)),
    };
    Ok(found)
}

fn torch_type(module: &str, name: &str) -> Result<Global> {
    let dtype = Dtype::ALL.into_iter().find(|d| d.storage_name() == name);
    if let Some(dtype) = dtype {
        return Ok(Global::Storage(Some(dtype)));
    }
    let alias = match name {
        "half" => "float16",
        "float" => "float32",
        "double" => "float64",
        "short" => "int16",
        "int" => "int32",
        "long" => "int64",
        other => other,
    };
    if let Some(dtype) = Dtype::ALL.into_iter().find(|d| module == "torch" && d.name() == alias) {
        return Ok(Global::TorchDtype(dtype));
    }
    let element_type = name.ends_with("Storage") || name.starts_with("complex") || name.starts_with('q');
    ensure!(!element_type, "the file has tensors of type {module}.{name}, which no model here uses");
    bail!("{}", refusal(module, name))
}

fn refusal(module: &str, name: &str) -> String {
    format!(
        "the file refers to {module}.{name}, which is not on the list of what a checkpoint may contain; nothing was \
         executed. If the file comes from a trusted source, save only its state_dict with torch.save and load that"
    )
}

/// What `callable(*args)` makes, or `callable.__new__(callable, *args)` for `new`.
pub(super) fn call(machine: &Machine, callable: Id, args: Id, new: bool) -> Result<Node> {
    let Node::Global(global) = &machine.nodes[callable as usize] else {
        bail!("the pickle calls {:?}", machine.nodes[callable as usize]);
    };
    let ids = machine.items_of(args)?;
    let arg = |i: usize| ids.get(i).copied().with_context(|| format!("{global:?} lacks argument {i}"));
    Ok(match global {
        Global::Dict { ordered } => Node::Dict { entries: entries(machine, ids.first())?, ordered: *ordered },
        Global::DefaultDict => Node::Dict { entries: Vec::new(), ordered: false },
        Global::Sequence { tuple } => {
            let items = ids.first().map(|id| machine.items_of(*id)).transpose()?.unwrap_or_default().to_vec();
            if *tuple {
                Node::Tuple(items)
            } else {
                Node::List(items)
            }
        }
        Global::RebuildTensor { version } => Node::Tensor {
            storage: arg(0)?,
            offset: arg(1)?,
            size: arg(2)?,
            stride: if *version == 1 && ids.len() < 4 { None } else { Some(arg(3)?) },
            dtype: if *version == 3 { Some(arg(6)?) } else { None },
        },
        // (tensor, requires_grad, hooks): a parameter is its tensor.
        Global::RebuildParameter => match machine.nodes[arg(0)? as usize] {
            Node::Tensor { storage, offset, size, stride, dtype } => {
                Node::Tensor { storage, offset, size, stride, dtype }
            }
            ref other => bail!("a parameter is rebuilt from {other:?}"),
        },
        Global::NumpyReconstruct => Node::Array(None),
        Global::NumpyFrombuffer => Node::ArrayFromBuffer(args),
        Global::NumpyScalar => Node::Scalar(arg(0)?, arg(1)?),
        Global::NumpyDtype => Node::NumpyDtype(arg(0)?, None),
        Global::Encode => encode(machine, arg(0)?, ids.get(1).copied())?,
        Global::Bytes => match ids.first() {
            None => Node::Bytes(super::buffer::Buffer::new(Vec::new())),
            Some(id) => match &machine.nodes[*id as usize] {
                Node::Bytes(bytes) | Node::ByteString(bytes) => Node::Bytes(bytes.clone()),
                other => bail!("bytes are made from {other:?}"),
            },
        },
        Global::Reconstructor => match &machine.nodes[arg(0)? as usize] {
            Node::Global(Global::Class { module, name }) => object(module, name, None),
            other => bail!("an instance of {other:?} is made"),
        },
        Global::Class { module, name } if new => object(module, name, (!ids.is_empty()).then_some(args)),
        Global::Class { module, name } => bail!("the file calls {module}.{name}; nothing was executed"),
        Global::Storage(_) | Global::TorchDtype(_) | Global::NumpyArray | Global::Type => {
            bail!("the file calls {global:?}")
        }
    })
}

fn object(module: &str, name: &str, args: Option<Id>) -> Node {
    Node::Object { module: module.to_string(), name: name.to_string(), args, state: None }
}

fn entries(machine: &Machine, items: Option<&Id>) -> Result<Vec<(Id, Id)>> {
    let Some(items) = items else { return Ok(Vec::new()) };
    if let Node::Dict { entries, .. } = &machine.nodes[*items as usize] {
        return Ok(entries.clone());
    }
    let pair = |id: &Id| match machine.items_of(*id)? {
        [key, value] => Ok((*key, *value)),
        _ => bail!("a dictionary is made of something else than pairs"),
    };
    machine.items_of(*items)?.iter().map(pair).collect()
}

/// `_codecs.encode(text, 'latin1')`: how Python 3 writes bytes at protocol 2.
fn encode(machine: &Machine, text: Id, encoding: Option<Id>) -> Result<Node> {
    let encoding = encoding.map(|id| machine.text(id)).transpose()?.unwrap_or("utf-8");
    match &machine.nodes[text as usize] {
        Node::Text(text) if matches!(encoding, "latin1" | "latin-1") => Ok(Node::Bytes(text.clone().latin1()?)),
        Node::ByteString(bytes) => Ok(Node::Bytes(bytes.clone())),
        other => bail!("{other:?} is encoded as {encoding}"),
    }
}

/// BUILD: gives `object` its state.
pub(super) fn build(machine: &mut Machine, object: Id, state: Id) -> Result<()> {
    match &mut machine.nodes[object as usize] {
        Node::Array(slot) | Node::NumpyDtype(_, slot) | Node::Object { state: slot, .. } => *slot = Some(state),
        // The attributes of a dictionary: torch's `_metadata` (versions of the modules), of no use here.
        Node::Dict { .. } => {}
        other => bail!("{other:?} gets a state"),
    }
    Ok(())
}
