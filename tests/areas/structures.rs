//! Golden area `structures`.
