//! Golden area `models`.
