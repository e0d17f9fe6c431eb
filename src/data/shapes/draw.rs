//! The outlines and colours of the shapes.

use super::{Draws, TILT};

/// Corners of the polygon that stands for a circle.
const CIRCLE_CORNERS: usize = 40;

/// A convex shape.
pub(super) enum Outline {
    Circle { center: (f64, f64), radius: f64 },
    Polygon { center: (f64, f64), radius: f64, corners: Vec<(f64, f64)> },
}

impl Outline {
    pub(super) fn circle(center: (f64, f64), radius: f64) -> Self {
        Self::Circle { center, radius }
    }

    /// A rectangle whose corners lie `radius` from its center; `aspect` is the ratio of its sides.
    pub(super) fn rectangle(center: (f64, f64), radius: f64, aspect: f64, angle: f64) -> Self {
        let half = aspect.atan();
        let angles = [half, -half, half + std::f64::consts::PI, std::f64::consts::PI - half];
        let mut sorted = angles.map(|a| a.rem_euclid(std::f64::consts::TAU));
        sorted.sort_by(f64::total_cmp);
        Self::corners_at(center, radius, sorted.iter().map(|a| a + angle))
    }

    /// A triangle, roughly equilateral and pointing up, whose corners lie `radius` from its center.
    pub(super) fn triangle(center: (f64, f64), radius: f64, draws: &mut Draws) -> Self {
        let turn = draws.uniform(-TILT, TILT) - std::f64::consts::FRAC_PI_2;
        let angles: Vec<f64> =
            (0..3).map(|i| turn + f64::from(i) * std::f64::consts::TAU / 3.0 + draws.uniform(-0.3, 0.3)).collect();
        Self::corners_at(center, radius, angles.into_iter())
    }

    fn corners_at(center: (f64, f64), radius: f64, angles: impl Iterator<Item = f64>) -> Self {
        let corners = angles.map(|a| (center.0 + radius * a.cos(), center.1 + radius * a.sin())).collect();
        Self::Polygon { center, radius, corners }
    }

    pub(super) fn center(&self) -> (f64, f64) {
        match self {
            Self::Circle { center, .. } | Self::Polygon { center, .. } => *center,
        }
    }

    pub(super) fn radius(&self) -> f64 {
        match self {
            Self::Circle { radius, .. } | Self::Polygon { radius, .. } => *radius,
        }
    }

    /// `x0, y0, x1, y1` (ends excluded) of a box that holds the shape, within the image.
    pub(super) fn bounds(&self, width: usize, height: usize) -> (usize, usize, usize, usize) {
        let ((x, y), r) = (self.center(), self.radius());
        let low = |v: f64| v.floor().max(0.0) as usize;
        let high = |v: f64, limit: usize| (v.ceil().max(0.0) as usize).min(limit);
        (low(x - r), low(y - r), high(x + r, width), high(y + r, height))
    }

    /// Indices (`y * width + x`) of the pixels whose centers lie inside.
    pub(super) fn pixels(&self, width: usize, height: usize) -> Vec<usize> {
        let (x0, y0, x1, y1) = self.bounds(width, height);
        let inside = |&(x, y): &(usize, usize)| self.contains(x as f64 + 0.5, y as f64 + 0.5);
        (y0..y1).flat_map(|y| (x0..x1).map(move |x| (x, y))).filter(inside).map(|(x, y)| y * width + x).collect()
    }

    fn contains(&self, x: f64, y: f64) -> bool {
        match self {
            Self::Circle { center, radius } => (x - center.0).powi(2) + (y - center.1).powi(2) <= radius * radius,
            Self::Polygon { corners, .. } => {
                let next = corners.iter().cycle().skip(1);
                corners.iter().zip(next).all(|(a, b)| (b.0 - a.0) * (y - a.1) - (b.1 - a.1) * (x - a.0) >= 0.0)
            }
        }
    }

    /// The outline as `[x0, y0, x1, y1, …]`, to a tenth of a pixel.
    pub(super) fn polygon(&self) -> Vec<f64> {
        let tenths = |v: f64| (v * 10.0).round() / 10.0;
        let flat = |(x, y): (f64, f64)| [tenths(x), tenths(y)];
        match self {
            Self::Circle { center, radius } => {
                let angle = |i: usize| i as f64 * std::f64::consts::TAU / CIRCLE_CORNERS as f64;
                let corner = |a: f64| (center.0 + radius * a.cos(), center.1 + radius * a.sin());
                (0..CIRCLE_CORNERS).flat_map(|i| flat(corner(angle(i)))).collect()
            }
            Self::Polygon { corners, .. } => corners.iter().flat_map(|&c| flat(c)).collect(),
        }
    }
}

/// A wave over the plane, `amplitude * sin(fx * x + fy * y + phase)`.
struct Wave {
    fx: f64,
    fy: f64,
    phase: f64,
    amplitude: f64,
}

impl Wave {
    fn new(draws: &mut Draws, periods: (f64, f64), amplitude: f64) -> Self {
        let (angle, frequency) = (draws.angle(), std::f64::consts::TAU / draws.uniform(periods.0, periods.1));
        Self { fx: frequency * angle.cos(), fy: frequency * angle.sin(), phase: draws.angle(), amplitude }
    }

    fn at(&self, x: usize, y: usize) -> f64 {
        self.amplitude * (self.fx * x as f64 + self.fy * y as f64 + self.phase).sin()
    }
}

/// A dull colour with waves of two lengths.
pub(super) struct Background {
    base: [f64; 3],
    tint: [f64; 3],
    width: usize,
    waves: Vec<f64>,
}

impl Background {
    pub(super) fn new(draws: &mut Draws, width: usize, height: usize) -> Self {
        let gray = draws.uniform(60.0, 190.0);
        let base = std::array::from_fn(|_| gray + draws.uniform(-20.0, 20.0));
        let tint = std::array::from_fn(|_| draws.uniform(0.6, 1.0));
        let (long, short) = (Wave::new(draws, (60.0, 200.0), 18.0), Wave::new(draws, (6.0, 24.0), 10.0));
        let waves = (0..width * height).map(|p| long.at(p % width, p / width) + short.at(p % width, p / width));
        Self { base, tint, width, waves: waves.collect() }
    }

    pub(super) fn color(&self, x: usize, y: usize) -> [f64; 3] {
        let wave = self.waves[y * self.width + x];
        std::array::from_fn(|c| self.base[c] + self.tint[c] * wave)
    }
}

/// A bright colour with stripes.
pub(super) struct Paint {
    color: [f64; 3],
    stripes: Wave,
}

impl Paint {
    pub(super) fn new(draws: &mut Draws) -> Self {
        // One channel high, one low, one anywhere: never gray like the background.
        let high = draws.below(3);
        let low = (high + 1 + draws.below(2)) % 3;
        let color = std::array::from_fn(|c| match c {
            c if c == high => draws.uniform(190.0, 250.0),
            c if c == low => draws.uniform(5.0, 70.0),
            _ => draws.uniform(20.0, 240.0),
        });
        Self { color, stripes: Wave::new(draws, (8.0, 30.0), 12.0) }
    }

    pub(super) fn color(&self, x: usize, y: usize) -> [f64; 3] {
        let wave = self.stripes.at(x, y);
        self.color.map(|c| c + wave)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_of_a_circle_fill_its_area() {
        let circle = Outline::circle((50.0, 40.0), 20.0);
        let expected = std::f64::consts::PI * 400.0;
        assert!((circle.pixels(100, 80).len() as f64 - expected).abs() < 0.02 * expected);
        assert_eq!(circle.bounds(100, 80), (30, 20, 70, 60));
    }

    #[test]
    fn corners_run_clockwise_and_enclose_the_center() {
        let rectangle = Outline::rectangle((50.0, 50.0), 30.0, 0.5, 1.0);
        assert!(rectangle.contains(50.0, 50.0));
        assert!(!rectangle.contains(50.0, 81.0));
        let area = rectangle.pixels(100, 100).len() as f64;
        // Sides a and a/2 with diagonal 60.
        let expected = 0.5 * (3600.0 / 1.25);
        assert!((area - expected).abs() < 0.03 * expected, "{area} pixels, expected {expected}");
        assert_eq!(rectangle.polygon().len(), 8);
    }
}
