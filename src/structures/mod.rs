//! Boxes, images, masks and keypoints.
//!
//! Pixel conventions, stated once: a box is `[x1, y1, x2, y2]` with inclusive corners, so its width is `x2 - x1 + 1`.
//! Sizes are `(width, height)` unless a name ends in `_hw`. The original is not consistent about the inclusive corner
//! (a crop has no +1, a top-bottom flip of boxes subtracts nothing); where it is not, the method says so.

pub mod bounding_box;
pub mod boxlist_ops;
pub mod field;
pub mod image_list;
pub mod keypoint;
pub mod mask_paste;
pub mod rle;
pub mod segmentation_mask;
mod transfer;

pub use bounding_box::{BoxList, Flip, Mode};
pub use boxlist_ops::{boxlist_iou, boxlist_nms, cat_boxlist, remove_small_boxes};
pub use field::Field;
pub use image_list::{to_image_list, ImageList};
pub use keypoint::{keypoints_to_heat_map, Keypoints, Skeleton, PERSON_KEYPOINTS};
pub use mask_paste::{paste_mask_in_image, paste_probabilities, Masker};
pub use segmentation_mask::{MaskMode, PolygonCrop, PolygonInstance, SegmentationMask};
pub use transfer::{boxlists_to_device, to_device};
