//! Boxes, images, masks and keypoints.
//!
//! Pixel conventions, stated once: a box is `[x1, y1, x2, y2]` with inclusive corners, so its width is `x2 - x1 + 1`.
//! Sizes are `(width, height)` unless a name ends in `_hw`.
