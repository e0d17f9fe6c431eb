//! Probabilities of masks as colours.

use anyhow::{ensure, Result};
use tch::{Device, Kind, Tensor};

use super::Color;

/// OpenCV's colour map `JET`, from dark blue over green to dark red.
pub fn color_map_jet(value: u8) -> Color {
    let x = f32::from(value) / 255.0;
    let ramp = |middle: f32| ((1.5 - (4.0 * x - middle).abs()).clamp(0.0, 1.0) * 255.0).round() as u8;
    [ramp(3.0), ramp(2.0), ramp(1.0)]
}

/// The probabilities of one detection in the whole image, 255 being certain: what the original's `Masker` gives for a
/// negative threshold in the Res2Net fork (upstream turns every value into 0 or 1, which leaves the heat maps blank).
///
/// # Shapes
/// `mask`: `[M, M]`; `box`: corners in the image; returns `[height, width]`, u8.
///
/// # Errors
/// If the mask is not square.
pub fn paste_probabilities(mask: &Tensor, r#box: [f32; 4], (height, width): (i64, i64)) -> Result<Tensor> {
    const PADDING: i64 = 1;
    let shape = mask.size();
    ensure!(shape.len() == 2 && shape[0] == shape[1] && shape[0] > 0, "a mask to paste is [M, M], not {shape:?}");
    let image = Tensor::zeros([height, width], (Kind::Uint8, Device::Cpu));
    let mask = mask.to_device(Device::Cpu).to_kind(Kind::Float).constant_pad_nd([PADDING; 4]);
    let scale = (shape[0] + 2 * PADDING) as f32 / shape[0] as f32;
    let [x1, y1, x2, y2] = r#box;
    let (half_width, half_height) = ((x2 - x1) * 0.5 * scale, (y2 - y1) * 0.5 * scale);
    let (x, y) = ((x2 + x1) * 0.5, (y2 + y1) * 0.5);
    let corners = [x - half_width, y - half_height, x + half_width, y + half_height];
    let [x1, y1, x2, y2] = corners.map(|c| i64::from(c as i32));
    let (box_width, box_height) = ((x2 - x1 + 1).max(1), (y2 - y1 + 1).max(1));
    let (left, right) = (x1.max(0), (x2 + 1).min(width));
    let (top, bottom) = (y1.max(0), (y2 + 1).min(height));
    if right <= left || bottom <= top {
        return Ok(image);
    }
    let resized = mask.unsqueeze(0).unsqueeze(0).upsample_bilinear2d([box_height, box_width], false, None, None);
    let resized = (resized.squeeze_dim(0).squeeze_dim(0) * 255.0).to_kind(Kind::Uint8);
    let part = resized.narrow(0, top - y1, bottom - top).narrow(1, left - x1, right - left);
    image.narrow(0, top, bottom - top).narrow(1, left, right - left).copy_(&part);
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::utils::testing::generator;

    #[test]
    fn jet_is_opencvs() {
        assert_eq!(color_map_jet(0), [0, 0, 128]);
        assert_eq!(color_map_jet(255), [128, 0, 0]);
        let [red, green, blue] = color_map_jet(128);
        assert!(green == 255 && red.abs_diff(128) < 6 && blue.abs_diff(128) < 6);
    }

    #[test]
    fn probabilities_are_pasted_at_the_box() {
        let mask = Tensor::full([28, 28], 0.8, (Kind::Float, Device::Cpu));
        let pasted = paste_probabilities(&mask, [10.0, 20.0, 49.0, 39.0], (60, 70)).expect("square");
        assert_eq!(pasted.size(), [60, 70]);
        assert_eq!(pasted.int64_value(&[30, 30]), 204);
        assert_eq!(pasted.int64_value(&[10, 30]), 0);
        assert_eq!(pasted.int64_value(&[30, 60]), 0);
        let outside = paste_probabilities(&mask, [-50.0, 0.0, -20.0, 30.0], (60, 70)).expect("square");
        assert_eq!(outside.max().int64_value(&[]), 0);
    }

    #[test]
    fn agrees_with_the_masker_at_its_threshold() {
        let _generator = generator();
        let mask = Tensor::rand([14, 14], (Kind::Float, Device::Cpu));
        let corners = [-3.5, 7.25, 33.0, 41.0];
        let pasted = paste_probabilities(&mask, corners, (40, 30)).expect("square");
        let masker =
            crate::structures::paste_mask_in_image(&mask, corners, (40, 30), 127.9 / 255.0, 1).expect("pasted");
        let different = pasted.ge(128).not_equal_tensor(&masker).sum(Kind::Int64).int64_value(&[]);
        // rounding at the threshold
        assert!(different <= 3, "{different} pixels differ");
    }
}
