//! Decoding, resizing, flips, colours.
