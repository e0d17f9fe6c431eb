//! Keypoints of people.

use super::{draw_thick_line, scale_of, Color};
use crate::data::transforms::RgbImage;
use crate::structures::Skeleton;

/// Keypoints whose score (a logit) is not above it are not drawn.
const SCORE_THRESHOLD: f32 = 2.0;
/// How much the drawing covers the image.
const ALPHA: f32 = 0.7;

/// Draws the keypoints of one instance, `(x, y, logit)` each, joined as the skeleton says, and the middle of the
/// shoulders joined with the nose and the middle of the hips (the original's `vis_keypoints`).
pub fn draw_keypoints(image: &mut RgbImage, keypoints: &[(f32, f32, f32)], skeleton: &Skeleton) {
    let scale = scale_of(image);
    let lines = skeleton.connection_indices();
    let colors = rainbow(lines.len() + 2);
    let before = image.data.clone();
    let line = |image: &mut RgbImage, from: (f32, f32), to: (f32, f32), color| {
        draw_thick_line(image, from, to, 2.0 * scale, color);
    };
    let point = |image: &mut RgbImage, at: (f32, f32), color| draw_thick_line(image, at, at, 6.0 * scale, color);

    let named = |name: &str| skeleton.position(name).and_then(|i| keypoints.get(i)).copied();
    let middle = |a: &str, b: &str| {
        let ((ax, ay, a_score), (bx, by, b_score)) = (named(a)?, named(b)?);
        Some(((ax + bx) / 2.0, (ay + by) / 2.0, a_score.min(b_score)))
    };
    let shoulders = middle("right_shoulder", "left_shoulder");
    let ends = [named("nose"), middle("right_hip", "left_hip")];
    for (end, color) in ends.into_iter().zip(&colors[lines.len()..]) {
        if let (Some((x1, y1, score1)), Some((x2, y2, score2))) = (shoulders, end) {
            if score1 > SCORE_THRESHOLD && score2 > SCORE_THRESHOLD {
                line(image, (x1, y1), (x2, y2), *color);
            }
        }
    }
    for ((i, j), color) in lines.into_iter().zip(&colors) {
        let (Some(&(x1, y1, score1)), Some(&(x2, y2, score2))) = (keypoints.get(i), keypoints.get(j)) else { continue };
        if score1 > SCORE_THRESHOLD && score2 > SCORE_THRESHOLD {
            line(image, (x1, y1), (x2, y2), *color);
        }
        if score1 > SCORE_THRESHOLD {
            point(image, (x1, y1), *color);
        }
        if score2 > SCORE_THRESHOLD {
            point(image, (x2, y2), *color);
        }
    }
    for (value, before) in image.data.iter_mut().zip(before) {
        *value = (f32::from(before) * (1.0 - ALPHA) + f32::from(*value) * ALPHA).round() as u8;
    }
}

/// `n` colours of matplotlib's map `rainbow`, from violet to red.
fn rainbow(n: usize) -> Vec<Color> {
    let color = |i: usize| {
        let x = i as f32 / (n - 1) as f32;
        let channels =
            [(2.0 * x - 0.5).abs(), (std::f32::consts::PI * x).sin(), (std::f32::consts::FRAC_PI_2 * x).cos()];
        channels.map(|c| (c.clamp(0.0, 1.0) * 255.0).round() as u8)
    };
    (0..n).map(color).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rainbow_goes_from_violet_to_red() {
        let colors = rainbow(17);
        assert_eq!(colors[0], [128, 0, 255]);
        assert_eq!(colors[8], [128, 255, 180]);
        assert_eq!(colors[16], [255, 0, 0]);
    }
}
