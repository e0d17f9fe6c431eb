//! Golden area `ops`.
