//! Outlines of masks.

use super::{scale_of, Color, Painter};
use crate::data::transforms::RgbImage;

/// Draws the outline of a mask, inner borders included, as `cv2.findContours` and `cv2.drawContours` with a thickness
/// of 3 do: around the pixels of the mask that touch one outside of it or the edge of the image.
///
/// # Shapes
/// `mask`: one value a pixel of the image, row by row.
///
/// # Panics
/// If the mask has not the image's size.
pub fn draw_mask_outline(image: &mut RgbImage, mask: &[bool], color: Color) {
    let (width, height) = (image.width, image.height);
    assert_eq!(mask.len(), width * height, "a mask of {width}x{height} pixels");
    let radius = 1.5 * scale_of(image);
    let reach = radius.floor() as i64;
    let disc: Vec<(i64, i64)> = (-reach..=reach)
        .flat_map(|dy| (-reach..=reach).map(move |dx| (dx, dy)))
        .filter(|(dx, dy)| (dx * dx + dy * dy) as f32 <= radius * radius)
        .collect();
    let mut painter = Painter(image);
    for y in 0..height {
        for x in 0..width {
            let at = y * width + x;
            if !mask[at] {
                continue;
            }
            let at_edge = x == 0 || y == 0 || x + 1 == width || y + 1 == height;
            if at_edge || !(mask[at - 1] && mask[at + 1] && mask[at - width] && mask[at + width]) {
                for (dx, dy) in &disc {
                    painter.blend(x as i64 + dx, y as i64 + dy, color, 1.0);
                }
            }
        }
    }
}
