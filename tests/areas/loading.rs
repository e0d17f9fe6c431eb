//! Golden area `loading`.
