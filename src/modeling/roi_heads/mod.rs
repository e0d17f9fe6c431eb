//! The heads that look at regions of interest.
