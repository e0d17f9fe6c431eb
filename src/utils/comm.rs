//! Processes of one job (the original's `utils/comm.py`). A job is one process so far; what asks for rank and number
//! of processes asks here.

use anyhow::{bail, Context, Result};

/// Reads the job's layout from the environment that `torchrun` and `torch.distributed.launch` set.
///
/// # Errors
/// `WORLD_SIZE` is no number, or names more than one process.
pub fn init_process_group() -> Result<()> {
    let Ok(text) = std::env::var("WORLD_SIZE") else {
        return Ok(());
    };
    let world_size: usize =
        text.parse().with_context(|| format!("WORLD_SIZE must be a number of processes, it is {text:?}"))?;
    if world_size > 1 {
        bail!(
            "WORLD_SIZE={world_size}: training with several processes is not supported yet; \
             start one process (unset WORLD_SIZE, or launch with one process)"
        );
    }
    Ok(())
}

/// Number of processes of the job.
pub fn get_world_size() -> usize {
    1
}

/// This process's number, from 0.
pub fn get_rank() -> usize {
    0
}

/// True in the process that writes logs and files.
pub fn is_main_process() -> bool {
    get_rank() == 0
}
