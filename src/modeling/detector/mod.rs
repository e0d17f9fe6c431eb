//! The detector: backbone, RPN and heads together.
