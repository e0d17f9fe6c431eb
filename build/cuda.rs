// The CUDA part of the build: finding nvcc, compiling csrc/**/*.cu, linking.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::architectures;

/// A CUDA toolkit: `bin/nvcc`, `include`, and `lib` or `lib64`.
pub struct Toolkit {
    root: PathBuf,
    /// Of `TORCH_CUDA_ARCH_LIST`, or the default.
    architectures: String,
}

/// The toolkit to build with; `None` leaves CUDA out.
///
/// `FORCE_CUDA=0` leaves it out, `FORCE_CUDA=1` makes its absence an error. nvcc is looked for in `CUDA_HOME`, on
/// `PATH`, and beside libtorch, where tools/setup_libtorch.sh --cuda puts it.
pub fn find(libtorch: &Path) -> Option<Toolkit> {
    for name in ["FORCE_CUDA", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    // The set-up writes it anew when it puts another libtorch there.
    let version_file = libtorch.join("build-version");
    if version_file.exists() {
        println!("cargo:rerun-if-changed={}", version_file.display());
    }
    let forced = match std::env::var("FORCE_CUDA").as_deref() {
        Ok("0") => return None,
        Ok("1") => true,
        Ok("") | Err(_) => false,
        Ok(other) => panic!("FORCE_CUDA must be 0 or 1, it is {other:?}"),
    };
    match usable(libtorch) {
        Ok(root) => {
            let architectures = std::env::var("TORCH_CUDA_ARCH_LIST").ok().filter(|list| !list.trim().is_empty());
            Some(Toolkit { root, architectures: architectures.unwrap_or(architectures::DEFAULT.into()) })
        }
        Err(Missing::Nvcc(why)) if forced => panic!("FORCE_CUDA=1, but {why}"),
        Err(Missing::Nvcc(_)) => None,
        Err(Missing::Fit(why)) if forced => panic!("FORCE_CUDA=1, but {why}"),
        Err(Missing::Fit(why)) => {
            println!("cargo:warning=CUDA kernels are left out: {why}");
            None
        }
    }
}

enum Missing {
    /// There is no nvcc: the CPU build is what is wanted.
    Nvcc(String),
    /// There is one, which does not go with this libtorch: worth a warning.
    Fit(String),
}

fn usable(libtorch: &Path) -> Result<PathBuf, Missing> {
    let root = toolkit_root(libtorch)?;
    let nvcc = root.join("bin/nvcc");
    println!("cargo:rerun-if-changed={}", nvcc.display());
    if !libtorch.join("lib/libc10_cuda.so").exists() {
        return Err(Missing::Fit(format!("{} is a libtorch without CUDA", libtorch.display())));
    }
    let output = Command::new(&nvcc).arg("--version").output();
    let output = output.map_err(|e| Missing::Fit(format!("{} does not run: {e}", nvcc.display())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let release = text.split("release ").nth(1).and_then(|rest| rest.split([',', '.']).next());
    let of_libtorch = std::fs::read_to_string(libtorch.join("version.py")).ok();
    let of_libtorch = of_libtorch.as_deref().and_then(cuda_major);
    match (release, of_libtorch) {
        (Some(ours), Some(theirs)) if ours != theirs => {
            Err(Missing::Fit(format!("{} is of CUDA {ours} and libtorch of CUDA {theirs}", nvcc.display())))
        }
        _ => Ok(root),
    }
}

/// The `13` of the line `cuda: Optional[str] = '13.0'` in libtorch's version.py.
fn cuda_major(version_py: &str) -> Option<&str> {
    let line = version_py.lines().find(|line| line.starts_with("cuda:"))?;
    line.split('\'').nth(1)?.split('.').next()
}

fn toolkit_root(libtorch: &Path) -> Result<PathBuf, Missing> {
    let has_nvcc = |root: &Path| root.join("bin/nvcc").is_file();
    if let Some(home) = std::env::var_os("CUDA_HOME").filter(|home| !home.is_empty()) {
        let home = PathBuf::from(home);
        if has_nvcc(&home) {
            return Ok(home);
        }
        return Err(Missing::Fit(format!("CUDA_HOME is {}, which has no bin/nvcc", home.display())));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for folder in std::env::split_paths(&path) {
        // Links lead to the toolkit itself.
        let nvcc = folder.join("nvcc").canonicalize().ok();
        if let Some(root) = nvcc.as_deref().and_then(Path::parent).and_then(Path::parent).filter(|root| has_nvcc(root))
        {
            return Ok(root.into());
        }
    }
    let fetched = libtorch.join("../nvidia/cu13");
    if has_nvcc(&fetched) {
        return Ok(fetched);
    }
    Err(Missing::Nvcc("there is no nvcc in CUDA_HOME or on PATH; tools/setup_libtorch.sh --cuda fetches it".into()))
}

impl Toolkit {
    /// The architectures as they were asked for.
    pub fn architectures(&self) -> &str {
        &self.architectures
    }

    /// The folder of `cuda_runtime_api.h`.
    pub fn include(&self) -> PathBuf {
        self.root.join("include")
    }

    /// Compiles each source to an object in `OUT_DIR`, as many at a time as cargo runs jobs.
    pub fn compile(&self, sources: &[PathBuf]) -> Vec<PathBuf> {
        let flags = architectures::nvcc_flags(&self.architectures).unwrap_or_else(|error| panic!("{error}"));
        let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        let objects: Vec<PathBuf> = sources
            .iter()
            .map(|source| out.join(source.file_name().expect("a source has a name")).with_extension("cu.o"))
            .collect();
        let jobs = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..jobs.min(sources.len()) {
                scope.spawn(|| {
                    while let Some((source, object)) = {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        sources.get(index).zip(objects.get(index))
                    } {
                        self.compile_one(source, object, &flags);
                    }
                });
            }
        });
        objects
    }

    fn compile_one(&self, source: &Path, object: &Path, flags: &[String]) {
        let mut command = Command::new(self.root.join("bin/nvcc"));
        command.args(["-c", "-O3", "-std=c++17", "-lineinfo", "-Xcompiler=-fPIC", "-Icsrc", "-DNDEBUG"]);
        command.args(flags).args([source.as_os_str(), OsStr::new("-o"), object.as_os_str()]);
        if let Some(compiler) = std::env::var_os("CXX").filter(|compiler| !compiler.is_empty()) {
            command.arg("-ccbin").arg(compiler);
        }
        let status = command.status().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        assert!(status.success(), "nvcc failed on {} ({status}): {command:?}", source.display());
    }

    /// Compiles csrc/distributed/nccl to `libmrb_nccl.so`, where the headers of NCCL and of the libraries that
    /// libtorch's own headers name are there, and returns its folder. Its symbols are found when libtorch_cuda has been
    /// opened.
    pub fn compile_nccl(&self, libtorch: &Path) -> Option<PathBuf> {
        // Only that of libtorch's own NCCL: c10d's options hold NCCL's settings by value, whose size changes with the
        // version.
        let nccl = &libtorch.join("../nvidia/nccl/include");
        if !nccl.join("nccl.h").exists() {
            return None;
        }
        let needed = ["cublas_v2.h", "cusolverDn.h", "cusparse.h"];
        if !needed.iter().all(|header| self.include().join(header).exists()) {
            return None;
        }
        let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        let include = libtorch.join("include");
        let mut command = cc::Build::new().cpp(true).std("c++17").opt_level(2).debug(false).get_compiler().to_command();
        command.args(["-shared", "-fPIC", "-D_GLIBCXX_USE_CXX11_ABI=1", "-DNDEBUG", "-DMRB_WITH_CUDA", "-Icsrc"]);
        for folder in [&include, &include.join("torch/csrc/api/include"), &self.include(), nccl] {
            command.arg("-isystem").arg(folder);
        }
        command.arg("csrc/distributed/nccl/backend.cpp").arg("-o").arg(out.join("libmrb_nccl.so"));
        let status = command.status().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        assert!(status.success(), "the library for NCCL does not compile ({status}): {command:?}");
        Some(out)
    }

    /// Links what goes into every program: the static runtime and libtorch's thin CUDA library. libtorch_cuda itself is
    /// opened when CUDA is asked for (csrc/runtime/cuda.cpp), so that programs start where it cannot be.
    pub fn link(&self) {
        let folders = ["lib64", "lib", "targets/x86_64-linux/lib"].map(|folder| self.root.join(folder));
        let folder = folders.iter().find(|folder| folder.join("libcudart_static.a").exists());
        let folder = folder.unwrap_or_else(|| panic!("{} has no libcudart_static.a", self.root.display()));
        println!("cargo:rustc-link-search=native={}", folder.display());
        println!("cargo:rustc-link-lib=static=cudart_static");
        for name in ["c10_cuda", "dl", "rt", "pthread"] {
            println!("cargo:rustc-link-lib={name}");
        }
    }
}
