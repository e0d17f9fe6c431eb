//! The synthetic "shapes" scenes of the quickstart: coloured circles, boxes and triangles that hide parts of each other
//! on a textured background, with polygons and boxes of what is visible.
//!
//! A scene is a pure function of its seed and index.

mod contour;
mod draw;

use rand_mt::Mt64;

use contour::Contours;
use draw::{Background, Outline, Paint};

/// Class names; the category id is the position plus one.
pub const CLASSES: [&str; 3] = ["circle", "box", "triangle"];

/// Shortest and longest side of an image in pixels.
const SIDES: (f64, f64) = (192.0, 256.0);
/// Smallest and largest diameter of an object in pixels.
const DIAMETERS: (f64, f64) = (32.0, 110.0);
/// How far boxes and triangles lean, in radians.
const TILT: f64 = 0.4;
/// Objects per image.
const OBJECTS: (usize, usize) = (3, 6);
/// An object stays only while at least this part of it is visible.
const MIN_VISIBLE: f64 = 0.4;
/// Parts of an object that hide behind others leave specks; smaller ones than this are not outlined.
const MIN_PART_AREA: f64 = 8.0;

/// One generated image with its objects.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// RGB, row by row.
    pub pixels: Vec<u8>,
    /// From the farthest to the nearest.
    pub objects: Vec<SceneObject>,
}

/// One object as COCO annotates it.
#[derive(Clone, Debug, PartialEq)]
pub struct SceneObject {
    /// Index into [`CLASSES`].
    pub class: usize,
    /// Outlines of the visible parts, `[x0, y0, x1, y1, …]` in pixels; pixel `i` covers `i` to `i + 1`.
    pub polygons: Vec<Vec<f64>>,
    /// Box of the visible part: x, y, width, height.
    pub bbox: [f64; 4],
    /// Visible pixels.
    pub area: usize,
}

/// Random numbers of one scene.
struct Draws(Mt64);

impl Draws {
    /// Uniform in `low..high`.
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of `0..n`.
    fn below(&mut self, n: usize) -> usize {
        (self.uniform(0.0, n as f64) as usize).min(n - 1)
    }

    fn angle(&mut self) -> f64 {
        self.uniform(0.0, std::f64::consts::TAU)
    }
}

/// Scene number `index` of the data set with this `seed`: at least three objects, at least two of which overlap.
pub fn scene(seed: u64, index: u64) -> Scene {
    let mut mixed = Mt64::new(seed);
    let base = mixed.next_u64();
    let mut draws = Draws(Mt64::new(base.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))));
    loop {
        if let Some(scene) = try_scene(&mut draws) {
            return scene;
        }
    }
}

/// What has been placed: per pixel the number of the object on top (from 1, 0 is background).
struct Canvas {
    width: usize,
    height: usize,
    top: Vec<u8>,
    placed: Vec<Placed>,
}

struct Placed {
    class: usize,
    outline: Outline,
    /// Pixels inside the outline.
    full: usize,
    /// Pixels not covered by later objects.
    visible: usize,
}

fn try_scene(draws: &mut Draws) -> Option<Scene> {
    let (width, height) =
        (draws.uniform(SIDES.0, SIDES.1 + 1.0) as usize, draws.uniform(SIDES.0, SIDES.1 + 1.0) as usize);
    let mut canvas = Canvas { width, height, top: vec![0; width * height], placed: Vec::new() };
    let wanted = OBJECTS.0 + draws.below(OBJECTS.1 - OBJECTS.0 + 1);
    for number in 0..wanted {
        for _ in 0..20 {
            if canvas.place(draws, number == 1) {
                break;
            }
        }
    }
    let overlap = canvas.placed.iter().any(|p| p.visible < p.full);
    if canvas.placed.len() < OBJECTS.0 || !overlap {
        return None;
    }
    let objects = (0..canvas.placed.len()).map(|i| canvas.annotate(i)).collect();
    Some(Scene { width, height, pixels: canvas.paint(draws), objects })
}

impl Canvas {
    /// Draws a shape and its place; puts it on top unless that would hide another object too much or pierce it.
    fn place(&mut self, draws: &mut Draws, overlapping: bool) -> bool {
        let class = draws.below(CLASSES.len());
        let diameter = DIAMETERS.0 * (DIAMETERS.1 / DIAMETERS.0).powf(draws.uniform(0.0, 1.0));
        let radius = diameter / 2.0;
        let (w, h) = (self.width as f64, self.height as f64);
        let mut center = (draws.uniform(radius, w - radius), draws.uniform(radius, h - radius));
        if let (true, Some(first)) = (overlapping, self.placed.first()) {
            let (angle, (x, y), reach) = (draws.angle(), first.outline.center(), first.outline.radius());
            let distance = draws.uniform(0.6, 0.95) * reach.max(radius);
            center = (x + distance * angle.cos(), y + distance * angle.sin());
        }
        let inside = |c: f64, limit: f64| c >= radius && c <= limit - radius;
        if !inside(center.0, w) || !inside(center.1, h) {
            return false;
        }
        let outline = match class {
            0 => Outline::circle(center, radius),
            1 => {
                let upright = draws.below(2) as f64 * std::f64::consts::FRAC_PI_2;
                Outline::rectangle(center, radius, draws.uniform(0.5, 1.0), upright + draws.uniform(-TILT, TILT))
            }
            _ => Outline::triangle(center, radius, draws),
        };
        self.put(class, outline)
    }

    fn put(&mut self, class: usize, outline: Outline) -> bool {
        let pixels: Vec<usize> = outline.pixels(self.width, self.height);
        let mut hidden = vec![0usize; self.placed.len()];
        for &p in &pixels {
            if self.top[p] > 0 {
                hidden[self.top[p] as usize - 1] += 1;
            }
        }
        let still_seen = |p: &Placed, h: usize| (p.visible - h) as f64 >= MIN_VISIBLE * p.full as f64;
        if pixels.is_empty() || self.placed.iter().zip(&hidden).any(|(p, &h)| !still_seen(p, h)) {
            return false;
        }
        let number = self.placed.len() as u8 + 1;
        let before: Vec<u8> = pixels.iter().map(|&p| std::mem::replace(&mut self.top[p], number)).collect();
        let pierced = |i: &usize| hidden[*i] > 0 && self.contours(*i).has_holes();
        if (0..self.placed.len()).any(|i| pierced(&i)) {
            for (&p, top) in pixels.iter().zip(before) {
                self.top[p] = top;
            }
            return false;
        }
        for (placed, h) in self.placed.iter_mut().zip(hidden) {
            placed.visible -= h;
        }
        self.placed.push(Placed { class, outline, full: pixels.len(), visible: pixels.len() });
        true
    }

    fn contours(&self, i: usize) -> Contours {
        let bounds = self.placed[i].outline.bounds(self.width, self.height);
        Contours::trace(bounds, |x, y| self.top[y * self.width + x] as usize == i + 1)
    }

    fn annotate(&self, i: usize) -> SceneObject {
        let placed = &self.placed[i];
        let (mut left, mut top, mut right, mut bottom) = (self.width, self.height, 0, 0);
        let (x0, y0, x1, y1) = placed.outline.bounds(self.width, self.height);
        for y in y0..y1 {
            for x in x0..x1 {
                if self.top[y * self.width + x] as usize == i + 1 {
                    (left, top) = (left.min(x), top.min(y));
                    (right, bottom) = (right.max(x + 1), bottom.max(y + 1));
                }
            }
        }
        let polygons = if placed.visible == placed.full {
            vec![placed.outline.polygon()]
        } else {
            self.contours(i).polygons(MIN_PART_AREA)
        };
        SceneObject {
            class: placed.class,
            polygons,
            bbox: [left as f64, top as f64, (right - left) as f64, (bottom - top) as f64],
            area: placed.visible,
        }
    }

    fn paint(&self, draws: &mut Draws) -> Vec<u8> {
        let background = Background::new(draws, self.width, self.height);
        let paints: Vec<Paint> = self.placed.iter().map(|_| Paint::new(draws)).collect();
        let mut pixels = Vec::with_capacity(self.top.len() * 3);
        for (p, &top) in self.top.iter().enumerate() {
            let (x, y) = (p % self.width, p / self.width);
            let color = match top {
                0 => background.color(x, y),
                n => paints[n as usize - 1].color(x, y),
            };
            // Three independent values of noise from one draw.
            let noise = draws.0.next_u64();
            for (channel, value) in color.into_iter().enumerate() {
                let noise = ((noise >> (channel * 16)) & 0xff) as f64 / 255.0 - 0.5;
                pixels.push((value + 14.0 * noise).clamp(0.0, 255.0) as u8);
            }
        }
        pixels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenes_depend_on_seed_and_index_only() {
        assert_eq!(scene(1, 5), scene(1, 5));
        assert_ne!(scene(1, 5).pixels, scene(1, 6).pixels);
        assert_ne!(scene(1, 5).pixels, scene(2, 5).pixels);
    }

    #[test]
    fn every_scene_keeps_its_promises() {
        for index in 0..40 {
            let scene = scene(3, index);
            assert!((192..=256).contains(&scene.width) && (192..=256).contains(&scene.height));
            assert_eq!(scene.pixels.len(), scene.width * scene.height * 3);
            assert!(scene.objects.len() >= 3, "scene {index}: {} objects", scene.objects.len());
            for object in &scene.objects {
                let [x, y, w, h] = object.bbox;
                assert!(x >= 0.0 && y >= 0.0 && x + w <= scene.width as f64 && y + h <= scene.height as f64);
                assert!(object.area as f64 <= w * h);
                assert!(object.class < CLASSES.len());
                assert!(!object.polygons.is_empty() && object.polygons.iter().all(|p| p.len() >= 6));
            }
        }
    }

    /// Area inside a polygon (shoelace formula).
    fn area(polygon: &[f64]) -> f64 {
        let points: Vec<(f64, f64)> = polygon.chunks_exact(2).map(|c| (c[0], c[1])).collect();
        let next = points.iter().cycle().skip(1);
        (points.iter().zip(next).map(|(a, b)| a.0 * b.1 - b.0 * a.1).sum::<f64>() / 2.0).abs()
    }

    #[test]
    fn polygons_enclose_the_visible_pixels() {
        for index in 0..20 {
            for object in scene(9, index).objects {
                let enclosed: f64 = object.polygons.iter().map(|p| area(p)).sum();
                let off = (enclosed - object.area as f64).abs() / object.area as f64;
                assert!(off < 0.05, "scene {index}: polygons enclose {enclosed}, {} pixels are visible", object.area);
            }
        }
    }
}
