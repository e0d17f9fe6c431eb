//! Detections drawn on images: boxes, outlines of masks, keypoints, names, heat maps (the original's
//! `demo/predictor.py`, which draws with OpenCV).
//!
//! Images are RGB. Lines and letters have the original's sizes on images whose shorter side has up to 600 pixels, and
//! grow with larger ones.

mod heat_map;
mod keypoints;
mod mask;

use ab_glyph::{Font, FontRef, PxScale, ScaleFont};
use image::Rgb;
use imageproc::drawing::{draw_hollow_rect_mut, draw_text_mut, text_size, Canvas};
use imageproc::rect::Rect;

use crate::data::transforms::RgbImage;

pub use heat_map::color_map_jet;
pub use keypoints::draw_keypoints;
pub use mask::draw_mask_outline;

/// An RGB colour.
pub type Color = [u8; 3];

/// The original's palette; its images are BGR, so that the first number is blue.
const PALETTE_BGR: [i64; 3] = [(1 << 25) - 1, (1 << 15) - 1, (1 << 21) - 1];

/// Height of the letters on a small image, in pixels from the highest to the lowest.
const FONT_SIZE: f32 = 18.0;

/// The fixed colour of every label: the palette times the label, modulo 255.
pub fn compute_colors_for_labels(labels: &[i64]) -> Vec<Color> {
    let channel = |label: i64, c: usize| (label.wrapping_mul(PALETTE_BGR[c])).rem_euclid(255) as u8;
    labels.iter().map(|&label| [channel(label, 2), channel(label, 1), channel(label, 0)]).collect()
}

/// Lets imageproc draw on an image.
struct Painter<'a>(&'a mut RgbImage);

impl Painter<'_> {
    fn offset(&self, x: u32, y: u32) -> usize {
        (y as usize * self.0.width + x as usize) * 3
    }

    /// Mixes `color` into a pixel; outside of the image nothing happens.
    fn blend(&mut self, x: i64, y: i64, color: Color, weight: f32) {
        if x < 0 || y < 0 || x >= self.0.width as i64 || y >= self.0.height as i64 {
            return;
        }
        let at = self.offset(x as u32, y as u32);
        for (value, color) in self.0.data[at..at + 3].iter_mut().zip(color) {
            *value = (f32::from(*value) * (1.0 - weight) + f32::from(color) * weight).round() as u8;
        }
    }
}

impl Canvas for Painter<'_> {
    type Pixel = Rgb<u8>;

    fn dimensions(&self) -> (u32, u32) {
        (self.0.width as u32, self.0.height as u32)
    }

    fn get_pixel(&self, x: u32, y: u32) -> Rgb<u8> {
        let at = self.offset(x, y);
        Rgb([self.0.data[at], self.0.data[at + 1], self.0.data[at + 2]])
    }

    fn draw_pixel(&mut self, x: u32, y: u32, color: Rgb<u8>) {
        let at = self.offset(x, y);
        self.0.data[at..at + 3].copy_from_slice(&color.0);
    }
}

/// How much larger lines and letters are than on a small image.
fn scale_of(image: &RgbImage) -> f32 {
    (image.width.min(image.height) as f32 / 600.0).max(1.0)
}

/// Draws the border of a box, whose corners `[x1, y1, x2, y2]` are truncated to whole pixels and belong to it.
pub fn draw_box(image: &mut RgbImage, corners: [f32; 4], color: Color) {
    let thickness = scale_of(image).round() as i32;
    let [x1, y1, x2, y2] = corners.map(|c| c as i32);
    let mut painter = Painter(image);
    for inset in 0..thickness {
        let (left, top) = (x1 + inset, y1 + inset);
        let (width, height) = (x2 - x1 + 1 - 2 * inset, y2 - y1 + 1 - 2 * inset);
        if width > 0 && height > 0 {
            let rect = Rect::at(left, top).of_size(width as u32, height as u32);
            draw_hollow_rect_mut(&mut painter, rect, Rgb(color));
        }
    }
}

/// Writes white text with a dark rim just above the point `(x, y)`; where there is no room, below it, and further left.
pub fn draw_label(image: &mut RgbImage, (x, y): (f32, f32), text: &str) {
    let scale = scale_of(image);
    // Very small images have smaller letters, which can still be read.
    let smaller = (image.width.min(image.height) as f32 / 300.0).clamp(0.75, 1.0);
    let size = PxScale::from(FONT_SIZE * scale * smaller);
    let font = FontRef::try_from_slice(notosans::REGULAR_TTF).expect("the embedded font is valid");
    let scaled = font.as_scaled(size);
    let rim = scale.round().max(1.0) as i32;
    let (image_width, image_height) = (image.width as i32, image.height as i32);
    let width = text_size(size, &font, text).0 as i32;
    let (ascent, descent) = (scaled.ascent().ceil() as i32, -scaled.descent().floor() as i32);
    // The upper part of a line is room for accents: letters take about three quarters of it.
    let capitals = (0.75 * ascent as f32).ceil() as i32;

    let mut baseline = y as i32 - 2 * rim - 1;
    if baseline - capitals - rim < 0 {
        baseline = y as i32 + capitals + 3 * rim;
    }
    baseline = baseline.min(image_height - descent / 2 - rim).max(capitals + rim);
    let left = (x as i32).min(image_width - width - rim).max(rim);
    let top = baseline - ascent;

    let mut painter = Painter(image);
    for (dx, dy) in [(-1, -1), (0, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (0, 1), (1, 1)] {
        draw_text_mut(&mut painter, Rgb([0, 0, 0]), left + dx * rim, top + dy * rim, size, &font, text);
    }
    draw_text_mut(&mut painter, Rgb([255, 255, 255]), left, top, size, &font, text);
}

/// Paints a line of the given width with round ends and smooth edges; a point is a line to itself.
fn draw_thick_line(image: &mut RgbImage, from: (f32, f32), to: (f32, f32), width: f32, color: Color) {
    let radius = width / 2.0;
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length2 = dx * dx + dy * dy;
    let reach = radius + 1.0;
    let columns = (from.0.min(to.0) - reach).floor() as i64..=(from.0.max(to.0) + reach).ceil() as i64;
    let rows = (from.1.min(to.1) - reach).floor() as i64..=(from.1.max(to.1) + reach).ceil() as i64;
    let columns = (*columns.start()).max(0)..=(*columns.end()).min(image.width as i64 - 1);
    let rows = (*rows.start()).max(0)..=(*rows.end()).min(image.height as i64 - 1);
    let mut painter = Painter(image);
    for y in rows {
        for x in columns.clone() {
            let (px, py) = (x as f32 - from.0, y as f32 - from.1);
            let along = if length2 > 0.0 { ((px * dx + py * dy) / length2).clamp(0.0, 1.0) } else { 0.0 };
            let distance = (px - along * dx).hypot(py - along * dy);
            let cover = (radius + 0.5 - distance).clamp(0.0, 1.0);
            if cover > 0.0 {
                painter.blend(x, y, color, cover);
            }
        }
    }
}

#[cfg(test)]
mod tests;
