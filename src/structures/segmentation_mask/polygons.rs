//! One instance as a set of polygons. Arithmetic is in float32, as the original's tensors.

use anyhow::{ensure, Result};

use super::PolygonCrop;
use crate::structures::rle;

/// The polygons of one instance, each `x0, y0, x1, y1, ..` with at least three points.
#[derive(Clone, Debug, PartialEq)]
pub struct PolygonInstance {
    polygons: Vec<Vec<f32>>,
}

impl PolygonInstance {
    /// Drops polygons with fewer than three points.
    pub fn new(polygons: Vec<Vec<f64>>) -> PolygonInstance {
        let long_enough = polygons.into_iter().filter(|p| p.len() >= 6);
        PolygonInstance { polygons: long_enough.map(|p| p.into_iter().map(|c| c as f32).collect()).collect() }
    }

    /// The polygons.
    pub fn polygons(&self) -> &[Vec<f32>] {
        &self.polygons
    }

    /// Whether no polygon is left.
    pub fn is_empty(&self) -> bool {
        self.polygons.is_empty()
    }

    fn map(&self, change: impl Fn(usize, f32) -> f32) -> PolygonInstance {
        let changed = |p: &Vec<f32>| p.iter().enumerate().map(|(i, &c)| change(i % 2, c)).collect();
        PolygonInstance { polygons: self.polygons.iter().map(changed).collect() }
    }

    /// `side - coordinate - 1` along one axis (0: x, 1: y).
    pub(super) fn mirrored(&self, axis: usize, side: f64) -> PolygonInstance {
        self.map(|i, c| if i == axis { side as f32 - c - 1.0 } else { c })
    }

    pub(super) fn shifted(&self, shift: (f64, f64)) -> PolygonInstance {
        let shift = [shift.0 as f32, shift.1 as f32];
        self.map(|i, c| c - shift[i])
    }

    pub(super) fn scaled(&self, ratio: (f64, f64)) -> PolygonInstance {
        let ratio = [ratio.0 as f32, ratio.1 as f32];
        self.map(|i, c| c * ratio[i])
    }

    /// Draws the union of the polygons as 1 over zeros, row by row.
    pub(super) fn draw(&self, size: (i64, i64), pixels: &mut [u8]) -> Result<()> {
        draw(&self.polygons, |_, c| c, size, pixels)
    }
}

/// Draws the union of polygons whose coordinates (on axis 0, x, or 1, y) are changed before.
fn draw(
    polygons: &[Vec<f32>],
    change: impl Fn(usize, f32) -> f32,
    (width, height): (i64, i64),
    pixels: &mut [u8],
) -> Result<()> {
    let changed = |p: &Vec<f32>| p.iter().enumerate().map(|(i, &c)| change(i % 2, c).into()).collect();
    let polygons: Vec<Vec<f64>> = polygons.iter().map(changed).collect();
    rle::set_rows(&rle::from_polygons(&polygons, (height, width))?, pixels);
    Ok(())
}

/// The shift and the resulting size of a crop.
pub(super) fn crop_shift(r#box: [f64; 4], size: (f64, f64), rule: PolygonCrop) -> Result<((f64, f64), (f64, f64))> {
    let [x1, y1, x2, y2] = r#box;
    let given = (x2 - x1, y2 - y1);
    match rule {
        PolygonCrop::Clamped => {
            ensure!(x1 <= x2 && y1 <= y2, "a crop needs x1 <= x2 and y1 <= y2, not {:?}", r#box);
            // min after max, as Python's min(max(x, 0), side - 1): for an image without width the shift is -1.
            let clamped = |corner: f64, side: f64| corner.max(0.0).min(side - 1.0);
            Ok(((clamped(x1, size.0), clamped(y1, size.1)), given))
        }
        PolygonCrop::Unclamped => Ok(((x1, y1), (given.0.max(1.0), given.1.max(1.0)))),
    }
}

/// Draws the mask of one instance within a box, at a fixed size, as 1 over zeros. The sides of the box are taken in
/// float32, as in the original's mask loss, where the box is a row of the proposals' tensor.
pub(super) fn target(
    instance: &PolygonInstance,
    r#box: [f32; 4],
    size: (f64, f64),
    target_size: (i64, i64),
    rule: PolygonCrop,
    pixels: &mut [u8],
) -> Result<()> {
    let [x1, y1, x2, y2] = r#box;
    let (shift, _) = crop_shift(r#box.map(f64::from), size, rule)?;
    let mut sides = (x2 - x1, y2 - y1);
    if rule == PolygonCrop::Unclamped {
        sides = (sides.0.max(1.0), sides.1.max(1.0));
    }
    ensure!(sides.0 != 0.0 && sides.1 != 0.0, "box {:?} has zero size: no mask within it", r#box);
    let ratio = (target_size.0 as f64 / f64::from(sides.0), target_size.1 as f64 / f64::from(sides.1));
    let (shift, ratio) = ([shift.0 as f32, shift.1 as f32], [ratio.0 as f32, ratio.1 as f32]);
    draw(&instance.polygons, |axis, c| (c - shift[axis]) * ratio[axis], target_size, pixels)
}
