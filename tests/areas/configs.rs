//! Golden area `configs`.
