use anyhow::Result;
use tch::Tensor;

use crate::ffi;
use crate::layers::{full_precision, Init, ParamPath};

/// Strides and the like of a deformable convolution; pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeformConvGeometry {
    /// Pixels from one position of the kernel to the next.
    pub stride: (i64, i64),
    /// Zeros on each side.
    pub padding: (i64, i64),
    /// Pixels from one weight of the kernel to the next.
    pub dilation: (i64, i64),
    /// Parts of the channels that are convolved separately.
    pub groups: i64,
    /// Parts of the channels that have offsets (and masks) of their own.
    pub deformable_groups: i64,
}

impl Default for DeformConvGeometry {
    fn default() -> Self {
        Self { stride: (1, 1), padding: (0, 0), dilation: (1, 1), groups: 1, deformable_groups: 1 }
    }
}

impl From<DeformConvGeometry> for ffi::DeformConvGeometry {
    fn from(geometry: DeformConvGeometry) -> Self {
        Self {
            stride_h: geometry.stride.0,
            stride_w: geometry.stride.1,
            pad_h: geometry.padding.0,
            pad_w: geometry.padding.1,
            dilation_h: geometry.dilation.0,
            dilation_w: geometry.dilation.1,
            groups: geometry.groups,
            deformable_groups: geometry.deformable_groups,
        }
    }
}

/// Deformable convolution (Dai et al., *Deformable Convolutional Networks*, 2017), differentiable in every tensor.
///
/// # Shapes
/// D deformable groups, K = kh · kw kernel positions row by row:
/// - `input`: `[N, C, H, W]`, `weight`: `[O, C / groups, kh, kw]`
/// - `offset`: `[N, D · 2K, Ho, Wo]`: for each group and position dy, dx in pixels
/// - output: `[N, O, Ho, Wo]`, in the type and memory format of `input`; half and bfloat16 are computed in float32
pub fn deform_conv(input: &Tensor, offset: &Tensor, weight: &Tensor, geometry: DeformConvGeometry) -> Tensor {
    in_full_precision(input, offset, None, weight, geometry).expect("deform_conv").to_kind(input.kind())
}

/// Positions between pixels do not bear 16 bits.
fn in_full_precision(
    input: &Tensor,
    offset: &Tensor,
    mask: Option<&Tensor>,
    weight: &Tensor,
    geometry: DeformConvGeometry,
) -> Result<Tensor> {
    let mask = mask.map(full_precision);
    ffi::deform_conv(
        &full_precision(input),
        &full_precision(offset),
        mask.as_ref(),
        &full_precision(weight),
        &geometry.into(),
    )
}

/// Modulated deformable convolution (Zhu et al., *Deformable ConvNets v2*, 2019), differentiable in every tensor.
///
/// # Shapes
/// As [`deform_conv`]; `mask`: `[N, D · K, Ho, Wo]`, a factor for each sample; `bias`: `[O]`
pub fn modulated_deform_conv(
    input: &Tensor,
    offset: &Tensor,
    mask: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    geometry: DeformConvGeometry,
) -> Tensor {
    let output = in_full_precision(input, offset, Some(mask), weight, geometry).expect("modulated_deform_conv");
    let output = match bias {
        Some(bias) => output + bias.view([1, -1, 1, 1]),
        None => output,
    };
    output.to_kind(input.kind())
}

/// The initialisation of both versions: uniform within one over the root of the *whole* input's fan, whatever the
/// groups.
fn weight(path: &ParamPath, in_channels: i64, out_channels: i64, kernel_size: (i64, i64), groups: i64) -> Tensor {
    let bound = 1.0 / ((in_channels * kernel_size.0 * kernel_size.1) as f64).sqrt();
    let shape = [out_channels, in_channels / groups, kernel_size.0, kernel_size.1];
    path.parameter("weight", &shape, Init::Uniform { low: -bound, high: bound })
}

/// A deformable convolution whose offsets come from elsewhere; parameter `weight`.
pub struct DeformConv {
    weight: Tensor,
    geometry: DeformConvGeometry,
}

impl DeformConv {
    /// Parameter `weight` `[out, in / groups, kh, kw]`.
    pub fn new(
        path: &ParamPath,
        in_channels: i64,
        out_channels: i64,
        kernel_size: (i64, i64),
        geometry: DeformConvGeometry,
    ) -> Self {
        Self { weight: weight(path, in_channels, out_channels, kernel_size, geometry.groups), geometry }
    }

    /// See [`deform_conv`].
    pub fn forward(&self, input: &Tensor, offset: &Tensor) -> Tensor {
        deform_conv(input, offset, &self.weight, self.geometry)
    }
}

/// A modulated deformable convolution whose offsets and masks come from elsewhere; parameters `weight` and, if wanted,
/// `bias`.
pub struct ModulatedDeformConv {
    weight: Tensor,
    bias: Option<Tensor>,
    geometry: DeformConvGeometry,
}

impl ModulatedDeformConv {
    /// Parameters `weight` `[out, in / groups, kh, kw]` and, with `bias`, `bias` `[out]`.
    pub fn new(
        path: &ParamPath,
        in_channels: i64,
        out_channels: i64,
        kernel_size: (i64, i64),
        geometry: DeformConvGeometry,
        bias: bool,
    ) -> Self {
        Self {
            weight: weight(path, in_channels, out_channels, kernel_size, geometry.groups),
            bias: bias.then(|| path.parameter("bias", &[out_channels], Init::Const(0.0))),
            geometry,
        }
    }

    /// See [`modulated_deform_conv`].
    pub fn forward(&self, input: &Tensor, offset: &Tensor, mask: &Tensor) -> Tensor {
        modulated_deform_conv(input, offset, mask, &self.weight, self.bias.as_ref(), self.geometry)
    }
}

/// A modulated deformable convolution that predicts its own offsets and masks, at first 0 and 1/2, with the plain
/// convolution `conv_offset_mask` of the same kernel.
pub struct ModulatedDeformConvPack {
    conv: ModulatedDeformConv,
    offset_mask_weight: Tensor,
    offset_mask_bias: Tensor,
}

impl ModulatedDeformConvPack {
    /// Parameters `weight`, `bias`, `conv_offset_mask.weight` and `conv_offset_mask.bias`.
    pub fn new(
        path: &ParamPath,
        in_channels: i64,
        out_channels: i64,
        kernel_size: (i64, i64),
        geometry: DeformConvGeometry,
    ) -> Self {
        let conv = ModulatedDeformConv::new(path, in_channels, out_channels, kernel_size, geometry, true);
        let path = path.sub("conv_offset_mask");
        let channels = geometry.deformable_groups * 3 * kernel_size.0 * kernel_size.1;
        let shape = [channels, in_channels, kernel_size.0, kernel_size.1];
        Self {
            conv,
            offset_mask_weight: path.parameter("weight", &shape, Init::Const(0.0)),
            offset_mask_bias: path.parameter("bias", &[channels], Init::Const(0.0)),
        }
    }

    /// `[N, C, H, W]` to `[N, O, Ho, Wo]`.
    pub fn forward(&self, input: &Tensor) -> Tensor {
        let DeformConvGeometry { stride, padding, dilation, .. } = self.conv.geometry;
        let pair = |(vertical, horizontal): (i64, i64)| [vertical, horizontal];
        let predicted = input.conv2d(
            &self.offset_mask_weight,
            Some(&self.offset_mask_bias),
            pair(stride),
            pair(padding),
            pair(dilation),
            1,
        );
        let mask_channels = predicted.size()[1] / 3;
        let offset = predicted.narrow(1, 0, 2 * mask_channels);
        let mask = predicted.narrow(1, 2 * mask_channels, mask_channels).sigmoid();
        self.conv.forward(input, &offset, &mask)
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::layers::gradcheck::{gradcheck, random};
    use crate::layers::Parameters;
    use crate::utils::testing::{generator, with_one_and_two_threads};

    /// Offsets between pixels, where the gradient exists, some of them far outside the map.
    fn offsets(shape: &[i64], seed: u64) -> Tensor {
        let whole = (random(shape, seed) * 4.0).floor();
        whole + random(shape, seed + 1) * 0.3 + 0.35
    }

    /// The definition, one number after the other.
    fn reference(
        input: &Tensor,
        offset: &Tensor,
        mask: Option<&Tensor>,
        weight: &Tensor,
        g: DeformConvGeometry,
    ) -> Tensor {
        let (_, channels, height, width) = input.size4().unwrap();
        let (outputs, group_channels, kh, kw) = weight.size4().unwrap();
        let (images, _, oh, ow) = offset.size4().unwrap();
        let pixel = |n: i64, c: i64, y: i64, x: i64| match (0..height).contains(&y) && (0..width).contains(&x) {
            true => input.double_value(&[n, c, y, x]),
            false => 0.0,
        };
        let output = Tensor::zeros([images, outputs, oh, ow], (Kind::Double, Device::Cpu));
        for (n, o, i, j) in itertools4(images, outputs, oh, ow) {
            let mut sum = 0.0;
            for (c, ky, kx, _) in itertools4(group_channels, kh, kw, 1) {
                let channel = o / (outputs / g.groups) * group_channels + c;
                let plane = channel / (channels / g.deformable_groups) * kh * kw + ky * kw + kx;
                let at = |axis: i64| offset.double_value(&[n, 2 * plane + axis, i, j]);
                let y = (i * g.stride.0 - g.padding.0 + ky * g.dilation.0) as f64 + at(0);
                let x = (j * g.stride.1 - g.padding.1 + kx * g.dilation.1) as f64 + at(1);
                let (y0, x0) = (y.floor(), x.floor());
                let mut value = 0.0;
                for (dy, dx) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let share = (1.0 - (y - y0 - dy as f64).abs()) * (1.0 - (x - x0 - dx as f64).abs());
                    value += share * pixel(n, channel, y0 as i64 + dy, x0 as i64 + dx);
                }
                let factor = mask.map_or(1.0, |m| m.double_value(&[n, plane, i, j]));
                sum += value * factor * weight.double_value(&[o, c, ky, kx]);
            }
            let _ = output.get(n).get(o).get(i).get(j).fill_(sum);
        }
        output
    }

    fn itertools4(a: i64, b: i64, c: i64, d: i64) -> impl Iterator<Item = (i64, i64, i64, i64)> {
        (0..a * b * c * d).map(move |i| (i / (b * c * d), i / (c * d) % b, i / d % c, i % d))
    }

    #[test]
    fn equals_its_definition_and_its_finite_differences() {
        let cases = [
            DeformConvGeometry { padding: (1, 1), ..Default::default() },
            DeformConvGeometry { stride: (2, 1), padding: (0, 2), dilation: (1, 2), ..Default::default() },
            DeformConvGeometry { groups: 2, deformable_groups: 2, padding: (1, 1), ..Default::default() },
            DeformConvGeometry { groups: 2, deformable_groups: 4, stride: (2, 2), ..Default::default() },
            DeformConvGeometry { groups: 4, deformable_groups: 2, ..Default::default() },
        ];
        for (seed, g) in (1..).step_by(10).zip(cases) {
            let input = random(&[2, 4, 5, 6], seed);
            let weight = random(&[4, 4 / g.groups, 3, 2], seed + 1);
            let size = |n: i64, p: i64, d: i64, k: i64, s: i64| (n + 2 * p - d * (k - 1) - 1) / s + 1;
            let oh = size(5, g.padding.0, g.dilation.0, 3, g.stride.0);
            let ow = size(6, g.padding.1, g.dilation.1, 2, g.stride.1);
            let offset = offsets(&[2, g.deformable_groups * 12, oh, ow], seed + 2);
            let mask = random(&[2, g.deformable_groups * 6, oh, ow], seed + 4);

            let output = deform_conv(&input, &offset, &weight, g);
            let want = reference(&input, &offset, None, &weight, g);
            assert!((&output - want).abs().max().double_value(&[]) < 1e-12, "{g:?}");
            gradcheck(|t| deform_conv(&t[0], &t[1], &t[2], g), &[&input, &offset, &weight]);

            let output = modulated_deform_conv(&input, &offset, &mask, &weight, None, g);
            let want = reference(&input, &offset, Some(&mask), &weight, g);
            assert!((&output - want).abs().max().double_value(&[]) < 1e-12, "{g:?}");
            gradcheck(
                |t| modulated_deform_conv(&t[0], &t[1], &t[2], &t[3], None, g),
                &[&input, &offset, &mask, &weight],
            );
        }
    }

    #[test]
    fn memory_format_and_threads_do_not_change_the_values() {
        let g = DeformConvGeometry { padding: (1, 1), deformable_groups: 2, ..Default::default() };
        let (input, weight) = (random(&[1, 48, 20, 17], 3).to_kind(Kind::Float), random(&[8, 48, 3, 3], 4));
        let (offset, weight) = (offsets(&[1, 36, 20, 17], 5).to_kind(Kind::Float), weight.to_kind(Kind::Float));
        let run = |input: &Tensor| {
            let input = input.detach().set_requires_grad(true);
            let offset = offset.detach().set_requires_grad(true);
            let output = deform_conv(&input, &offset, &weight, g);
            let grads = Tensor::run_backward(&[output.square().sum(Kind::Float)], &[&input, &offset], false, false);
            [output.detach(), grads[0].shallow_clone(), grads[1].shallow_clone()]
        };
        let plain = run(&input);
        for (got, want) in run(&ffi::channels_last(&input)).iter().zip(&plain) {
            assert!((got - want).abs().max().double_value(&[]) < 1e-4);
        }
        let (one, two) = with_one_and_two_threads(|| run(&input));
        for (got, want) in two.iter().zip(&one) {
            assert!((got - want).abs().max().double_value(&[]) < 1e-4);
        }
    }

    #[test]
    fn an_empty_batch_and_an_input_without_channels_are_fine() {
        let g = DeformConvGeometry { padding: (1, 1), ..Default::default() };
        let empty = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let output = deform_conv(&empty(&[0, 4, 5, 5]), &empty(&[0, 18, 5, 5]), &empty(&[6, 4, 3, 3]), g);
        assert_eq!(output.size(), [0, 6, 5, 5]);
        let output = deform_conv(&empty(&[2, 0, 5, 5]), &empty(&[2, 18, 5, 5]), &empty(&[6, 0, 3, 3]), g);
        assert_eq!(output.size(), [2, 6, 5, 5]);
    }

    #[test]
    fn the_pack_starts_as_a_convolution_of_half_the_values() {
        let _generator = generator();
        let parameters = Parameters::new(Device::Cpu);
        let g = DeformConvGeometry { padding: (1, 1), deformable_groups: 2, ..Default::default() };
        let pack = ModulatedDeformConvPack::new(&parameters.root(), 4, 6, (3, 3), g);
        let names: Vec<String> = parameters.state().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["weight", "bias", "conv_offset_mask.weight", "conv_offset_mask.bias"]);
        let input = random(&[1, 4, 7, 8], 1).to_kind(Kind::Float);
        let want = input.conv2d(&pack.conv.weight, None::<Tensor>, [1, 1], [1, 1], [1, 1], 1) * 0.5;
        assert!((pack.forward(&input) - want).abs().max().double_value(&[]) < 1e-5);
    }
}
