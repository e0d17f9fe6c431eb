//! Compiles the CUDA code for the host, once for a state of the sources, and finds functions in the results: a library
//! of the kernels, and one of the code between tensors and kernels, which calls the first.

use std::ffi::{c_int, c_void, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use sha2::{Digest, Sha256};

/// Without optimisation that changes results: no fused multiply-add, no reordering. What a GPU would not do, or only by
/// chance (a vector at an address that is no multiple of its size, an overflow), stops the test.
const FLAGS: [&str; 9] = [
    "-std=c++17",
    "-O2",
    "-ffp-contract=off",
    "-fPIC",
    "-shared",
    "-Wall",
    "-Werror",
    "-fsanitize=alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero,float-cast-overflow",
    "-fsanitize-undefined-trap-on-error",
];

/// The stream on which the emulation takes launches (csrc/cuda/emulation/cuda_runtime_api.h).
pub const STREAM: *mut c_void = std::ptr::without_provenance_mut(64);

/// The launch function of this name; `None` (said aloud) where the sources are not there, as beside packed-up programs.
///
/// # Safety
/// `F` is the function's type in its header.
pub unsafe fn function<F: Copy>(name: &str) -> Option<F> {
    // SAFETY: the caller answers for the type.
    Some(unsafe { symbol(kernels()?, name) })
}

/// The function of csrc/api.h of this name, which runs the CUDA code of an operator on tensors of the host; `None` as
/// for [`function`].
///
/// # Safety
/// `F` is the function's type in its header.
pub unsafe fn operator<F: Copy>(name: &str) -> Option<F> {
    // SAFETY: the caller answers for the type.
    Some(unsafe { symbol(operators()?, name) })
}

unsafe fn symbol<F: Copy>(library: &Library, name: &str) -> F {
    // SAFETY: the caller answers for the type.
    *unsafe { library.get::<F>(name.as_bytes()) }.unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Runs a test with the threads of the emulated blocks in rising, falling and shuffled order: what does not hold for
/// all of them is a race.
pub fn in_each_order(test: impl Fn()) {
    // SAFETY: the type is that of csrc/cuda/emulation/order.cpp.
    let Some(choose) = (unsafe { function::<unsafe extern "C" fn(c_int)>("mrb_emulation_order") }) else { return };
    for order in [2, 1, 0] {
        // SAFETY: sets a variable of this thread to a value that it may have.
        unsafe { choose(order) };
        test();
    }
}

fn kernels() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| {
        let csrc = csrc()?;
        let mut sources = collect(&csrc, &["cu"]);
        sources.push(csrc.join("cuda/emulation/order.cpp"));
        let inputs: Vec<OsString> = sources.iter().map(OsString::from).collect();
        Some(open(&compiled("kernels", &csrc, &sources, &inputs)))
    });
    library.as_ref()
}

fn operators() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| {
        let csrc = csrc()?;
        kernels()?;
        // The CPU kernels stay out: nothing may fall back on them.
        let mut sources = collect(&csrc.join("ops"), &["cpp"]);
        let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        sources.retain(|source| !stem(source).ends_with("_cpu") && stem(source) != "simd");
        let include = Path::new(env!("MRB_LIBTORCH")).join("include");
        let mut inputs: Vec<OsString> = vec!["-DMRB_WITH_CUDA".into(), "-D_GLIBCXX_USE_CXX11_ABI=1".into()];
        for folder in [include.join("torch/csrc/api/include"), include] {
            inputs.extend(["-isystem".into(), folder.into()]);
        }
        // All at once, since libtorch's headers take longer than everything else.
        inputs.extend(sources.iter().flat_map(|source| ["-include".into(), source.into()]));
        inputs.push("/dev/null".into());
        Some(open(&compiled("operators", &csrc, &sources, &inputs)))
    });
    library.as_ref()
}

fn csrc() -> Option<PathBuf> {
    let csrc = Path::new(env!("CARGO_MANIFEST_DIR")).join("csrc");
    if !csrc.is_dir() {
        println!("SKIPPED: emulated CUDA code ({} is not there)", csrc.display());
        return None;
    }
    Some(csrc)
}

fn open(path: &Path) -> Library {
    // SAFETY: the libraries run nothing when they are loaded. The second finds the functions of the first.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The library for the sources as they are; the compiler is also given `inputs`.
fn compiled(name: &str, csrc: &Path, sources: &[PathBuf], inputs: &[OsString]) -> PathBuf {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let mut hash = Sha256::new();
    hash.update(&compiler);
    hash.update(FLAGS.join(" "));
    for input in inputs {
        hash.update(input.as_encoded_bytes());
    }
    for file in collect(csrc, &["h", "cuh"]).iter().chain(sources) {
        hash.update(file.to_string_lossy().as_bytes());
        hash.update(std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display())));
    }
    let state = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda_emulated");
    std::fs::create_dir_all(&folder).expect("a folder in the target directory");
    let library = folder.join(format!("{name}.{state}.so"));
    if library.is_file() {
        return library;
    }
    let unfinished = folder.join(format!("{name}.{state}.{}", std::process::id()));
    let output = Command::new(&compiler)
        .args(FLAGS)
        .arg("-I")
        .arg(csrc.join("cuda/emulation")) // before everything that might have a cuda_runtime.h
        .arg("-I")
        .arg(csrc)
        .args(["-x", "c++"])
        .args(inputs)
        .arg("-o")
        .arg(&unfinished)
        .output()
        .unwrap_or_else(|e| panic!("{compiler}: {e}"));
    assert!(output.status.success(), "{compiler} on {name}:\n{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&unfinished, &library).expect("a new file can be renamed");
    library
}

/// The files below `folder` with one of the extensions, in a fixed order.
fn collect(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("csrc can be listed") {
        let path = entry.expect("csrc can be listed").path();
        if path.is_dir() {
            files.extend(collect(&path, extensions));
        } else if path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted)) {
            files.push(path);
        }
    }
    files.sort();
    files
}
