//! The order in which images are visited.
