//! Golden tests: the original's values, one module per area of the golden folder.
//!
//! The folder is `MRB_GOLDEN`, else `../shared/golden`, else the subset in `tests/golden` (never with `CI=true`).

#[path = "areas/support.rs"]
mod support;

#[path = "areas/configs.rs"]
mod configs;
#[path = "areas/cuda/mod.rs"]
mod cuda;
#[path = "areas/cuda_emulated/mod.rs"]
mod cuda_emulated;
#[path = "areas/data.rs"]
mod data;
#[path = "areas/evaluation.rs"]
mod evaluation;
#[path = "areas/loading/mod.rs"]
mod loading;
#[path = "areas/models/mod.rs"]
mod models;
#[path = "areas/operators.rs"]
mod operators;
#[path = "areas/ops.rs"]
mod ops;
#[path = "areas/ops_layers.rs"]
mod ops_layers;
#[path = "areas/ops_modeling.rs"]
mod ops_modeling;
#[path = "areas/solver.rs"]
mod solver;
#[path = "areas/structures.rs"]
mod structures;
