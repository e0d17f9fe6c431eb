//! The programs, run as a user runs them: a tiny detector on a few generated images.

// Functions of the build script, which has no tests of its own.
#[path = "../build/architectures.rs"]
mod architectures;

#[path = "programs/jobs.rs"]
mod jobs;
#[path = "programs/support.rs"]
mod support;

#[path = "programs/averaging.rs"]
mod averaging;
#[path = "programs/bad_input.rs"]
mod bad_input;
#[path = "programs/benchmark.rs"]
mod benchmark;
#[path = "programs/custom_dataset.rs"]
mod custom_dataset;
#[path = "programs/demo.rs"]
mod demo;
#[path = "programs/distributed.rs"]
mod distributed;
#[path = "programs/errors.rs"]
mod errors;
#[path = "programs/faults.rs"]
mod faults;
#[path = "programs/precision.rs"]
mod precision;
#[path = "programs/recipes.rs"]
mod recipes;
#[path = "programs/resume.rs"]
mod resume;
#[path = "programs/testing.rs"]
mod testing;
#[path = "programs/training.rs"]
mod training;
#[path = "programs/usage.rs"]
mod usage;
#[path = "programs/weights.rs"]
mod weights;
