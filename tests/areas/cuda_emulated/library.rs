//! Compiles the `.cu` files for the host, once for a state of the sources, and finds functions in the result.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use libloading::Library;
use sha2::{Digest, Sha256};

/// Without optimisation that changes results: no fused multiply-add, no reordering.
const FLAGS: [&str; 7] = ["-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-Wall", "-Werror"];

/// The launch function of this name; `None` (said aloud) where the sources are not there, as beside packed-up programs.
///
/// # Safety
/// `F` is the function's type in its header.
pub unsafe fn function<F: Copy>(name: &str) -> Option<F> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| {
        let csrc = Path::new(env!("CARGO_MANIFEST_DIR")).join("csrc");
        if !csrc.is_dir() {
            println!("SKIPPED: emulated CUDA kernels ({} is not there)", csrc.display());
            return None;
        }
        let path = compiled(&csrc);
        // SAFETY: the library consists of kernels; it runs nothing when it is loaded.
        Some(unsafe { Library::new(&path) }.unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    });
    // SAFETY: the caller answers for the type.
    let symbol = unsafe { library.as_ref()?.get::<F>(name.as_bytes()) };
    Some(*symbol.unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// The library for the sources as they are.
fn compiled(csrc: &Path) -> PathBuf {
    let mut files = Vec::new();
    collect(csrc, &mut files);
    files.sort();
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let mut hash = Sha256::new();
    hash.update(&compiler);
    hash.update(FLAGS.join(" "));
    for file in &files {
        hash.update(file.to_string_lossy().as_bytes());
        hash.update(std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display())));
    }
    let name = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda_emulated");
    std::fs::create_dir_all(&folder).expect("a folder in the target directory");
    let library = folder.join(format!("{name}.so"));
    if library.is_file() {
        return library;
    }
    let unfinished = folder.join(format!("{name}.{}", std::process::id()));
    let output = Command::new(&compiler)
        .args(FLAGS)
        .arg("-I")
        .arg(csrc.join("cuda/emulation")) // before everything that might have a cuda_runtime.h
        .arg("-I")
        .arg(csrc)
        .args(["-x", "c++"])
        .args(files.iter().filter(|f| f.extension().is_some_and(|e| e == "cu")))
        .arg("-o")
        .arg(&unfinished)
        .output()
        .unwrap_or_else(|e| panic!("{compiler}: {e}"));
    assert!(output.status.success(), "{compiler} on the .cu files:\n{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&unfinished, &library).expect("a new file can be renamed");
    library
}

/// The kernels and every header.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("csrc can be listed") {
        let path = entry.expect("csrc can be listed").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "cu" || e == "cuh" || e == "h") {
            files.push(path);
        }
    }
}
