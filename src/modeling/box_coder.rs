//! Boxes as offsets from reference boxes, the form that the box regressors learn (R-CNN, appendix C).

use tch::Tensor;

/// Encodes and decodes boxes relative to reference boxes. Widths and heights count inclusive corners (`x2 - x1 + 1`).
#[derive(Clone, Debug, PartialEq)]
pub struct BoxCoder {
    weights: [f64; 4],
    bbox_xform_clip: f64,
}

/// Centres and sizes of boxes, each `[N]`.
struct Centred {
    x: Tensor,
    y: Tensor,
    width: Tensor,
    height: Tensor,
}

impl Centred {
    fn of(boxes: &Tensor) -> Self {
        let corners = boxes.unbind(1);
        let width = &corners[2] - &corners[0] + 1.0;
        let height = &corners[3] - &corners[1] + 1.0;
        Self { x: &corners[0] + 0.5 * &width, y: &corners[1] + 0.5 * &height, width, height }
    }
}

impl BoxCoder {
    /// `weights` scale dx, dy, dw and dh. Decoded sizes grow at most by 1000/16, the original's limit.
    pub fn new(weights: [f64; 4]) -> Self {
        Self::with_clip(weights, (1000.0_f64 / 16.0).ln())
    }

    /// As [`new`](Self::new), with another upper limit of dw and dh (there is no lower one): the original's
    /// `bbox_xform_clip`, which its models leave alone.
    pub fn with_clip(weights: [f64; 4], bbox_xform_clip: f64) -> Self {
        Self { weights, bbox_xform_clip }
    }

    /// The offsets that turn `proposals` into `reference_boxes`.
    ///
    /// # Shapes
    /// Both `[N, 4]` (xyxy) → `[N, 4]` (dx, dy, dw, dh).
    pub fn encode(&self, reference_boxes: &Tensor, proposals: &Tensor) -> Tensor {
        let [wx, wy, ww, wh] = self.weights;
        let (gt, ex) = (Centred::of(reference_boxes), Centred::of(proposals));
        Tensor::stack(
            &[
                wx * (gt.x - ex.x) / &ex.width,
                wy * (gt.y - ex.y) / &ex.height,
                ww * (gt.width / ex.width).log(),
                wh * (gt.height / ex.height).log(),
            ],
            1,
        )
    }

    /// The boxes that `codes` describe relative to `boxes`; each row may hold the codes of several classes.
    ///
    /// # Shapes
    /// `codes` `[N, 4·C]`, `boxes` `[N, 4]` → `[N, 4·C]` (xyxy).
    pub fn decode(&self, codes: &Tensor, boxes: &Tensor) -> Tensor {
        let [wx, wy, ww, wh] = self.weights;
        let anchors = Centred::of(&boxes.to_kind(codes.kind()));
        let column = |t: Tensor| t.unsqueeze(1);
        let (x, y) = (column(anchors.x), column(anchors.y));
        let (width, height) = (column(anchors.width), column(anchors.height));

        let rows = codes.size()[0];
        let offsets = codes.reshape([rows, codes.size()[1] / 4, 4]).unbind(2);
        // Limited before the exponential, which would overflow for an untrained network.
        let dw = (&offsets[2] / ww).clamp_max(self.bbox_xform_clip);
        let dh = (&offsets[3] / wh).clamp_max(self.bbox_xform_clip);
        let x = &offsets[0] / wx * &width + x;
        let y = &offsets[1] / wy * &height + y;
        let half_width = dw.exp() * width * 0.5;
        let half_height = dh.exp() * height * 0.5;

        // The inverse of `encode`, which measures inclusive corners: hence - 1 on one side only.
        let decoded = [&x - &half_width, &y - &half_height, x + half_width - 1.0, y + half_height - 1.0];
        Tensor::stack(&decoded, 2).reshape(codes.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decoding_inverts_encoding(
            a in prop::array::uniform4(0.0_f32..500.0), b in prop::array::uniform4(0.0_f32..500.0),
        ) {
            let to_box = |v: [f32; 4]| [v[0], v[1], v[0] + 4.0 + v[2] / 4.0, v[1] + 4.0 + v[3] / 4.0];
            let target = Tensor::from_slice(&to_box(a)).reshape([1, 4]);
            let proposal = Tensor::from_slice(&to_box(b)).reshape([1, 4]);
            let coder = BoxCoder::new([10.0, 10.0, 5.0, 5.0]);
            let back = coder.decode(&coder.encode(&target, &proposal), &proposal);
            let worst = (back - target).abs().max().double_value(&[]);
            prop_assert!(worst < 2e-3, "off by {worst}");
        }
    }

    #[test]
    fn empty_lists_stay_empty() {
        let none = Tensor::zeros([0, 4], (tch::Kind::Float, tch::Device::Cpu));
        let coder = BoxCoder::new([1.0; 4]);
        assert_eq!(coder.encode(&none, &none).size(), [0, 4]);
        let codes = Tensor::zeros([0, 12], (tch::Kind::Float, tch::Device::Cpu));
        assert_eq!(coder.decode(&codes, &none).size(), [0, 12]);
    }
}
