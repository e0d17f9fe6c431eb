//! Compiles `csrc` against the libtorch that torch-sys found, and tells the programs where that libtorch is.

use std::path::{Path, PathBuf};

fn main() {
    let lib = PathBuf::from(
        std::env::var_os("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch is (DEP_TCH_LIBTORCH_LIB)"),
    );
    let include = lib.parent().expect("libtorch's lib folder has a parent").join("include");
    assert!(
        include.join("ATen").is_dir(),
        "{} has no libtorch headers: run tools/setup_libtorch.sh",
        include.display()
    );

    let mut sources = Vec::new();
    collect_sources(Path::new("csrc"), &mut sources);
    sources.sort();

    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(3) // in every profile: these are the inner loops
        .debug(false)
        .flag("-fopenmp") // without it at::parallel_for silently runs serially
        // Nobody looks at floating-point traps or errno; without this a choice between two values is a branch, and a
        // loop with one is not vectorised. Results do not change.
        .flag("-fno-trapping-math")
        .flag("-fno-math-errno")
        .define("_GLIBCXX_USE_CXX11_ABI", "1") // the ABI of libtorch's wheels
        .define("NDEBUG", None)
        .include("csrc")
        .include("csrc/distributed/standin") // headers of gloo, which libtorch's wheels lack
        .flag(format!("-isystem{}", include.display()))
        .flag(format!("-isystem{}", include.join("torch/csrc/api/include").display()))
        .files(&sources);
    build.compile("mrb_csrc");

    println!("cargo:rustc-link-search=native={}", lib.display());
    for name in ["torch_cpu", "c10", "gomp"] {
        println!("cargo:rustc-link-lib={name}");
    }
    // The dispatch on the processor's features (target_clones) reads __cpu_model, which only the static libgcc exports.
    println!("cargo:rustc-link-lib=gcc");
    // Programs find libtorch where it was built against, or beside themselves when they are packed up with it.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    println!("cargo:rerun-if-changed=csrc");
    println!("cargo:rerun-if-changed=build.rs");
}

/// Every C++ source below `folder`.
fn collect_sources(folder: &Path, sources: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("csrc can be listed") {
        let path = entry.expect("csrc can be listed").path();
        if path.is_dir() {
            collect_sources(&path, sources);
        } else if path.extension().is_some_and(|e| e == "cpp") {
            sources.push(path);
        }
    }
}
