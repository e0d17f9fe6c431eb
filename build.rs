//! Compiles `csrc` against the libtorch that torch-sys found, and tells the programs where that libtorch is.
//!
//! With nvcc (see build/cuda.rs) the CUDA kernels are compiled as well, and `MRB_WITH_CUDA` is defined for all of
//! `csrc`.

#[path = "build/architectures.rs"]
mod architectures;
#[path = "build/cuda.rs"]
mod cuda;

use std::path::{Path, PathBuf};

fn main() {
    let lib = PathBuf::from(
        std::env::var_os("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch is (DEP_TCH_LIBTORCH_LIB)"),
    );
    let libtorch = lib.parent().expect("libtorch's lib folder has a parent");
    let include = libtorch.join("include");
    assert!(
        include.join("ATen").is_dir(),
        "{} has no libtorch headers: run tools/setup_libtorch.sh",
        include.display()
    );

    let mut sources = Vec::new();
    collect_sources(Path::new("csrc"), &mut sources);
    sources.sort();
    let (kernels, mut sources): (Vec<_>, Vec<_>) = sources.into_iter().partition(|s| has_extension(s, "cu"));
    let toolkit = cuda::find(libtorch);
    if toolkit.is_none() {
        sources.retain(|source| !is_cuda_wrapper(source));
    }

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
    if let Some(toolkit) = &toolkit {
        build.define("MRB_WITH_CUDA", None).flag(format!("-isystem{}", toolkit.include().display()));
        build.objects(toolkit.compile(&kernels));
        if let Some(folder) = toolkit.compile_nccl(libtorch) {
            build.define("MRB_WITH_NCCL", None);
            println!("cargo:rustc-cfg=mrb_nccl");
            println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
        }
    }
    build.compile("mrb_csrc");

    println!("cargo:rustc-link-search=native={}", lib.display());
    for name in ["torch_cpu", "c10", "gomp"] {
        println!("cargo:rustc-link-lib={name}");
    }
    if let Some(toolkit) = &toolkit {
        toolkit.link();
    }
    println!("cargo:rustc-check-cfg=cfg(mrb_nccl)");
    let architectures = toolkit.as_ref().map_or("", |toolkit| toolkit.architectures());
    println!("cargo:rustc-env=MRB_CUDA_ARCHITECTURES={architectures}");
    println!("cargo:rustc-env=MRB_LIBTORCH={}", libtorch.display());
    println!("cargo:rustc-env=MRB_LIBTORCH_VERSION={}", libtorch_version(libtorch));
    // The dispatch on the processor's features (target_clones) reads __cpu_model, which only the static libgcc exports.
    println!("cargo:rustc-link-lib=gcc");
    // Programs find libtorch where it was built against, or beside themselves when they are packed up with it.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    println!("cargo:rerun-if-changed=csrc");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
}

/// As the libtorch itself says it, such as `2.11.0+cu130`.
fn libtorch_version(libtorch: &Path) -> String {
    let read = |name: &str| std::fs::read_to_string(libtorch.join(name)).ok();
    let of_wheel = read("version.py").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("__version__"))?;
        line.split('\'').nth(1).map(String::from)
    });
    of_wheel.or_else(|| read("build-version")).map_or("unknown".into(), |version| version.trim().into())
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e == extension)
}

/// Sources between tensors and kernels, which exist only where the kernels do.
fn is_cuda_wrapper(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("_cuda"))
}

/// Every C++ and CUDA source below `folder`, but for what lets kernels be tested on the host and for the library of its
/// own that knows NCCL.
fn collect_sources(folder: &Path, sources: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("csrc can be listed") {
        let path = entry.expect("csrc can be listed").path();
        if path.is_dir() {
            if !path.ends_with("cuda/emulation") && !path.ends_with("distributed/nccl") {
                collect_sources(&path, sources);
            }
        } else if has_extension(&path, "cpp") || has_extension(&path, "cu") {
            sources.push(path);
        }
    }
}
