//! Probabilities as colours.

use super::Color;

/// OpenCV's colour map `JET`, from dark blue over green to dark red.
pub fn color_map_jet(value: u8) -> Color {
    let x = f32::from(value) / 255.0;
    let ramp = |middle: f32| ((1.5 - (4.0 * x - middle).abs()).clamp(0.0, 1.0) * 255.0).round() as u8;
    [ramp(3.0), ramp(2.0), ramp(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jet_is_opencvs() {
        assert_eq!(color_map_jet(0), [0, 0, 128]);
        assert_eq!(color_map_jet(255), [128, 0, 0]);
        let [red, green, blue] = color_map_jet(128);
        assert!(green == 255 && red.abs_diff(128) < 6 && blue.abs_diff(128) < 6);
    }
}
