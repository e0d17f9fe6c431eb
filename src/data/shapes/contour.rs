//! Outlines of a set of pixels, along the edges between pixels, simplified.

use std::collections::BTreeMap;

type Point = (i32, i32);

/// How far (pixels) a simplified outline may run beside the exact one.
const TOLERANCE: f64 = 0.6;

/// Closed outlines: the outer ones run clockwise (as seen in an image), those of holes the other way.
pub(super) struct Contours {
    loops: Vec<Vec<Point>>,
}

impl Contours {
    /// Outlines of the pixels of `x0..x1`, `y0..y1` for which `inside` is true.
    pub(super) fn trace(bounds: (usize, usize, usize, usize), inside: impl Fn(usize, usize) -> bool) -> Self {
        let (x0, y0, x1, y1) = bounds;
        let at = |x: i32, y: i32| {
            let within = x >= x0 as i32 && y >= y0 as i32 && x < x1 as i32 && y < y1 as i32;
            within && inside(x as usize, y as usize)
        };
        // Every edge between a pixel inside and one outside, with the inside on its right.
        let mut edges: BTreeMap<Point, Vec<Point>> = BTreeMap::new();
        let mut add = |from: Point, to: Point| edges.entry(from).or_default().push(to);
        for y in y0 as i32..y1 as i32 {
            for x in x0 as i32..x1 as i32 {
                if !at(x, y) {
                    continue;
                }
                if !at(x, y - 1) {
                    add((x, y), (x + 1, y));
                }
                if !at(x + 1, y) {
                    add((x + 1, y), (x + 1, y + 1));
                }
                if !at(x, y + 1) {
                    add((x + 1, y + 1), (x, y + 1));
                }
                if !at(x - 1, y) {
                    add((x, y + 1), (x, y));
                }
            }
        }
        let mut loops = Vec::new();
        while let Some((&start, _)) = edges.first_key_value() {
            loops.push(follow(&mut edges, start));
        }
        Self { loops }
    }

    pub(super) fn has_holes(&self) -> bool {
        self.loops.iter().any(|l| doubled_area(l) < 0)
    }

    /// The outer outlines that enclose at least `min_area` pixels, simplified; the largest whatever its size.
    pub(super) fn polygons(&self, min_area: f64) -> Vec<Vec<f64>> {
        let largest = self.loops.iter().map(|l| doubled_area(l)).max().unwrap_or(0);
        let keep = |l: &&Vec<Point>| {
            let doubled = doubled_area(l);
            doubled > 0 && (doubled as f64 >= 2.0 * min_area || doubled == largest)
        };
        let flat = |l: &Vec<Point>| simplify(l).into_iter().flat_map(|(x, y)| [f64::from(x), f64::from(y)]).collect();
        self.loops.iter().filter(keep).map(flat).collect()
    }
}

/// Takes one closed walk out of `edges`. Where two outlines touch in a corner it turns right, so that pixels which only
/// touch diagonally belong to different outlines.
fn follow(edges: &mut BTreeMap<Point, Vec<Point>>, start: Point) -> Vec<Point> {
    let mut points = Vec::new();
    let (mut at, mut direction) = (start, (0, 0));
    loop {
        let Some(ends) = edges.get_mut(&at) else {
            return points;
        };
        let right = (at.0 - direction.1, at.1 + direction.0);
        let choice = ends.iter().position(|&end| end == right).unwrap_or(0);
        let next = ends.swap_remove(choice);
        if ends.is_empty() {
            edges.remove(&at);
        }
        let step = (next.0 - at.0, next.1 - at.1);
        if step != direction {
            points.push(at);
        }
        (at, direction) = (next, step);
        if at == start {
            return points;
        }
    }
}

/// Twice the enclosed area; positive for outer outlines.
fn doubled_area(points: &[Point]) -> i64 {
    let next = points.iter().cycle().skip(1);
    points.iter().zip(next).map(|(a, b)| i64::from(a.0) * i64::from(b.1) - i64::from(b.0) * i64::from(a.1)).sum()
}

/// Douglas–Peucker on a closed outline, split at its first point and the one farthest from it.
fn simplify(points: &[Point]) -> Vec<Point> {
    let squared = |p: &Point| (p.0 - points[0].0).pow(2) + (p.1 - points[0].1).pow(2);
    let Some(far) = (0..points.len()).max_by_key(|&i| squared(&points[i])) else {
        return Vec::new();
    };
    let mut result = Vec::new();
    peucker(&points[..=far], &mut result);
    let back: Vec<Point> = points[far..].iter().chain(&points[..1]).copied().collect();
    peucker(&back, &mut result);
    // A sliver can lose all but two of its points.
    if result.len() < 3 {
        points.to_vec()
    } else {
        result
    }
}

/// Appends the simplified open line without its last point.
fn peucker(line: &[Point], result: &mut Vec<Point>) {
    let (Some(&first), Some(&last)) = (line.first(), line.last()) else {
        return;
    };
    let (dx, dy) = (f64::from(last.0 - first.0), f64::from(last.1 - first.1));
    let length = dx.hypot(dy);
    let distance = |p: &Point| {
        let (px, py) = (f64::from(p.0 - first.0), f64::from(p.1 - first.1));
        if length > 0.0 {
            (px * dy - py * dx).abs() / length
        } else {
            px.hypot(py)
        }
    };
    let farthest = (1..line.len().saturating_sub(1)).max_by(|&a, &b| distance(&line[a]).total_cmp(&distance(&line[b])));
    match farthest {
        Some(middle) if distance(&line[middle]) > TOLERANCE => {
            peucker(&line[..=middle], result);
            peucker(&line[middle..], result);
        }
        _ => result.push(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(rows: &[&str]) -> Contours {
        let inside = |x: usize, y: usize| rows[y].as_bytes()[x] == b'#';
        Contours::trace((0, 0, rows[0].len(), rows.len()), inside)
    }

    #[test]
    fn a_rectangle_has_four_corners() {
        let contours = trace(&["....", ".##.", ".##.", "...."]);
        assert!(!contours.has_holes());
        assert_eq!(contours.polygons(0.0), vec![vec![1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0]]);
    }

    #[test]
    fn a_ring_has_a_hole() {
        assert!(trace(&["###", "#.#", "###"]).has_holes());
    }

    #[test]
    fn pixels_that_touch_diagonally_are_two_parts() {
        let contours = trace(&["##..", "##..", "..##", "..##"]);
        assert!(!contours.has_holes());
        assert_eq!(contours.polygons(0.0).len(), 2);
    }

    #[test]
    fn specks_are_dropped_but_never_everything() {
        let contours = trace(&["####.#", "####..", "####.."]);
        assert_eq!(contours.polygons(0.0).len(), 2);
        assert_eq!(contours.polygons(8.0).len(), 1);
        assert_eq!(trace(&["#"]).polygons(8.0).len(), 1);
    }
}
