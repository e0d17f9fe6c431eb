//! Golden area `solver`.
