//! The region proposal network.
