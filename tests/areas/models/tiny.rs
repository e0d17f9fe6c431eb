//! Small detectors: inference, losses, gradients and three steps of SGD.

/// Files of the area that are not compared, and why.
pub const NOT_YET: &[(&str, &str)] = &[("tiny/", "needs the detector"), ("rng.json", "needs the samplers")];
