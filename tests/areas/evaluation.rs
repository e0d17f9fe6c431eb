//! Golden area `evaluation`.
