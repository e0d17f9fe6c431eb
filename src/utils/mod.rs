//! Logging, metrics, timing.

pub mod atomic_file;
pub mod collect_env;
pub mod comm;
pub mod fault;
pub mod logger;
pub mod metric_logger;
pub mod miscellaneous;
pub mod out_of_memory;
pub mod progress;
pub mod rendezvous;
pub mod termination;
#[cfg(test)]
pub(crate) mod testing;
pub mod timer;
