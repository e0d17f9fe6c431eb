// `TORCH_CUDA_ARCH_LIST`: the GPU architectures for which kernels are compiled. Used by build.rs; tested by
// tests/programs.rs, since a build script has no tests of its own.

/// What libtorch's own kernels are compiled for.
pub const DEFAULT: &str = "7.5;8.0;8.6;9.0;10.0;12.0+PTX";

/// nvcc's flags for a list such as `8.0;9.0+PTX`, separated by `;`, `,` or spaces. `+PTX` adds code that the driver
/// compiles for later GPUs.
///
/// # Errors
/// An entry that is no architecture, or one that CUDA 13 cannot compile for; an empty list.
pub fn nvcc_flags(list: &str) -> Result<Vec<String>, String> {
    let mut flags = Vec::new();
    for entry in list.split([';', ',', ' ']).filter(|entry| !entry.is_empty()) {
        let (number, ptx) = match entry.strip_suffix("+PTX") {
            Some(number) => (number, true),
            None => (entry, false),
        };
        let (major, minor) = parse(number).ok_or_else(|| {
            format!("TORCH_CUDA_ARCH_LIST: {entry:?} is no architecture; expected a list such as {DEFAULT:?}")
        })?;
        if (major, minor.trim_end_matches(char::is_alphabetic)) < (7, "5") {
            return Err(format!(
                "TORCH_CUDA_ARCH_LIST: {entry}: CUDA 13 compiles for 7.5 and later; Volta (7.0) and older GPUs need \
                 nvcc of CUDA 12 and a libtorch built with CUDA 12"
            ));
        }
        let code =
            if ptx { format!("[sm_{major}{minor},compute_{major}{minor}]") } else { format!("sm_{major}{minor}") };
        flags.push(format!("-gencode=arch=compute_{major}{minor},code={code}"));
    }
    if flags.is_empty() {
        return Err(format!("TORCH_CUDA_ARCH_LIST is empty; expected a list such as {DEFAULT:?}"));
    }
    Ok(flags)
}

/// Major and minor number; the minor one may end in the letter of a special variant (`9.0a`).
fn parse(number: &str) -> Option<(u32, &str)> {
    let (major, minor) = number.split_once('.')?;
    let digit = minor.strip_suffix(['a', 'f']).unwrap_or(minor);
    let is_digit = digit.len() == 1 && digit.bytes().all(|b| b.is_ascii_digit());
    Some((major.parse().ok()?, minor)).filter(|_| is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_become_flags() {
        let flags = nvcc_flags("7.5; 9.0a,12.0+PTX").unwrap();
        assert_eq!(
            flags,
            [
                "-gencode=arch=compute_75,code=sm_75",
                "-gencode=arch=compute_90a,code=sm_90a",
                "-gencode=arch=compute_120,code=[sm_120,compute_120]",
            ]
        );
        assert_eq!(nvcc_flags(DEFAULT).unwrap().len(), 6);
    }

    #[test]
    fn volta_needs_cuda_12() {
        for old in ["7.0", "8.0;7.2+PTX", "6.1"] {
            assert!(nvcc_flags(old).unwrap_err().contains("libtorch built with CUDA 12"), "{old}");
        }
    }

    #[test]
    fn what_is_no_architecture_is_named() {
        for wrong in ["Hopper", "9", "9.x", "9.0+ptx", "9.00"] {
            assert!(nvcc_flags(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
        assert!(nvcc_flags(" ;").unwrap_err().contains("empty"));
    }
}
