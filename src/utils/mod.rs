//! Logging, metrics, timing.
