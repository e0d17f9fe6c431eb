//! Golden area `data`.
