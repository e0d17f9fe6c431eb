use tch::Tensor;

use crate::ffi;
use crate::layers::{full_precision, Init, Linear, LinearConfig, ParamPath};

/// The numbers of a deformable RoI pooling; the defaults are the original's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeformRoIPoolingConfig {
    /// Feature cells per image pixel.
    pub spatial_scale: f64,
    /// Bins along each side.
    pub out_size: i64,
    /// Channels of the output.
    pub out_channels: i64,
    /// The input has `out_channels · group_size²` channels; each bin reads one of the groups.
    pub group_size: i64,
    /// Offsets along each side; `None`: one for each bin.
    pub part_size: Option<i64>,
    /// Samples along each side of a bin.
    pub sample_per_part: i64,
    /// What offsets are multiplied with, beside the RoI's size.
    pub trans_std: f64,
}

impl Default for DeformRoIPoolingConfig {
    fn default() -> Self {
        Self {
            spatial_scale: 1.0,
            out_size: 7,
            out_channels: 256,
            group_size: 1,
            part_size: None,
            sample_per_part: 4,
            trans_std: 0.0,
        }
    }
}

impl DeformRoIPoolingConfig {
    fn part_size(&self) -> i64 {
        self.part_size.unwrap_or(self.out_size)
    }
}

/// Deformable position-sensitive RoI pooling (Dai et al., *Deformable Convolutional Networks*, 2017; the original's
/// `csrc/cuda/deform_pool_kernel_cuda.cu`), differentiable in `data` and `offset`.
///
/// A RoI of an image that is not in the batch is an error on the CPU. On CUDA it gives nan and no gradient, as one that
/// is not finite does: to know of it, the program would have to wait for the GPU in every call.
///
/// # Shapes
/// - `data`: `[N, out_channels · group_size², H, W]`
/// - `rois`: `[R, 5]`: batch index, x1, y1, x2, y2 in image pixels
/// - `offset`: `[R, 2 · classes, part_size, part_size]`: for each class along x, then along y
/// - output: `[R, out_channels, out_size, out_size]`, in the type of `data`; half and bfloat16 are computed in float32
pub fn deform_roi_pooling(
    data: &Tensor,
    rois: &Tensor,
    offset: Option<&Tensor>,
    config: &DeformRoIPoolingConfig,
) -> Tensor {
    let geometry = ffi::DeformRoiPoolGeometry {
        spatial_scale: config.spatial_scale,
        pooled_size: config.out_size,
        output_dim: config.out_channels,
        group_size: config.group_size,
        part_size: config.part_size(),
        samples_per_part: config.sample_per_part,
        trans_std: config.trans_std,
    };
    let offset = offset.map(full_precision);
    let pooled = ffi::deform_roi_pool(&full_precision(data), rois, offset.as_ref(), &geometry);
    pooled.expect("deform_roi_pooling").to_kind(data.kind())
}

/// Pooling whose offsets come from elsewhere; no parameters.
pub struct DeformRoIPooling {
    /// Sizes and scales.
    pub config: DeformRoIPoolingConfig,
}

impl DeformRoIPooling {
    /// See [`deform_roi_pooling`].
    pub fn forward(&self, data: &Tensor, rois: &Tensor, offset: Option<&Tensor>) -> Tensor {
        deform_roi_pooling(data, rois, offset, &self.config)
    }
}

/// Fully connected layers with ReLU between them, named as in `nn.Sequential`; the last one starts at zero.
struct Predictor(Vec<Linear>);

impl Predictor {
    fn new(path: &ParamPath, features: &[i64]) -> Self {
        let last = features.len() - 2;
        let layer = |(i, pair): (usize, &[i64])| {
            let zero = Init::Const(0.0);
            let config = if i == last {
                LinearConfig { weight_init: zero, bias_init: Some(zero), ..Default::default() }
            } else {
                LinearConfig::default()
            };
            Linear::new(&path.sub(2 * i), pair[0], pair[1], config)
        };
        Self(features.windows(2).enumerate().map(layer).collect())
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let (last, hidden) = self.0.split_last().expect("a predictor has layers");
        let features = hidden.iter().fold(x.shallow_clone(), |x, layer| layer.forward(&x).relu());
        last.forward(&features)
    }
}

/// Pooling that predicts its own offsets from a first pooling without them; parameters `offset_fc.{0,2,4}`.
pub struct DeformRoIPoolingPack {
    config: DeformRoIPoolingConfig,
    offset_fc: Predictor,
}

impl DeformRoIPoolingPack {
    /// Offsets come from two hidden layers of `deform_fc_channels`.
    pub fn new(path: &ParamPath, config: DeformRoIPoolingConfig, deform_fc_channels: i64) -> Self {
        let bins = config.out_size * config.out_size;
        let offset_fc = Predictor::new(
            &path.sub("offset_fc"),
            &[bins * config.out_channels, deform_fc_channels, deform_fc_channels, bins * 2],
        );
        Self { config, offset_fc }
    }

    /// `data` and `rois` as for [`deform_roi_pooling`].
    pub fn forward(&self, data: &Tensor, rois: &Tensor) -> Tensor {
        let plain = deform_roi_pooling(data, rois, None, &self.config);
        let side = self.config.out_size;
        let offset = self.offset_fc.forward(&plain.flatten(1, -1)).view([-1, 2, side, side]);
        deform_roi_pooling(data, rois, Some(&offset), &self.config)
    }
}

/// [`DeformRoIPoolingPack`] that also predicts a factor between 0 and 1 for every bin; parameters `offset_fc.{0,2,4}`
/// and `mask_fc.{0,2}`.
pub struct ModulatedDeformRoIPoolingPack {
    config: DeformRoIPoolingConfig,
    offset_fc: Predictor,
    mask_fc: Predictor,
}

impl ModulatedDeformRoIPoolingPack {
    /// Offsets come from two hidden layers of `deform_fc_channels`, factors from one.
    pub fn new(path: &ParamPath, config: DeformRoIPoolingConfig, deform_fc_channels: i64) -> Self {
        let bins = config.out_size * config.out_size;
        let inputs = bins * config.out_channels;
        let offset_fc =
            Predictor::new(&path.sub("offset_fc"), &[inputs, deform_fc_channels, deform_fc_channels, bins * 2]);
        let mask_fc = Predictor::new(&path.sub("mask_fc"), &[inputs, deform_fc_channels, bins]);
        Self { config, offset_fc, mask_fc }
    }

    /// `data` and `rois` as for [`deform_roi_pooling`].
    pub fn forward(&self, data: &Tensor, rois: &Tensor) -> Tensor {
        let plain = deform_roi_pooling(data, rois, None, &self.config).flatten(1, -1);
        let side = self.config.out_size;
        let offset = self.offset_fc.forward(&plain).view([-1, 2, side, side]);
        let mask = self.mask_fc.forward(&plain).sigmoid().view([-1, 1, side, side]);
        deform_roi_pooling(data, rois, Some(&offset), &self.config) * mask
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::layers::gradcheck::{gradcheck, random};
    use crate::layers::Parameters;
    use crate::utils::testing::generator;

    fn rois(list: &[[f64; 5]]) -> Tensor {
        Tensor::from_slice2(list)
    }

    /// The definition, one number after the other.
    fn reference(data: &Tensor, rois: &Tensor, offset: Option<&Tensor>, c: &DeformRoIPoolingConfig) -> Tensor {
        let (_, _, height, width) = data.size4().unwrap();
        let (size, count) = (c.out_size, rois.size()[0]);
        let classes = offset.map_or(1, |o| o.size()[1] / 2);
        let output = Tensor::zeros([count, c.out_channels, size, size], (Kind::Double, Device::Cpu));
        for i in 0..count * c.out_channels * size * size {
            let (r, channel) = (i / (c.out_channels * size * size), i / (size * size) % c.out_channels);
            let (ph, pw) = (i / size % size, i % size);
            let at = |k: i64| rois.double_value(&[r, k]);
            let (x1, y1) = (at(1).round() * c.spatial_scale - 0.5, at(2).round() * c.spatial_scale - 0.5);
            let roi_width = ((at(3).round() + 1.0) * c.spatial_scale - 0.5 - x1).max(0.1);
            let roi_height = ((at(4).round() + 1.0) * c.spatial_scale - 0.5 - y1).max(0.1);
            let part = |p: i64| p * c.part_size() / size;
            let klass = channel / (c.out_channels / classes);
            let moved = |axis: i64| {
                offset.map_or(0.0, |o| o.double_value(&[r, 2 * klass + axis, part(ph), part(pw)]) * c.trans_std)
            };
            let (bin_w, bin_h) = (roi_width / size as f64, roi_height / size as f64);
            let left = pw as f64 * bin_w + x1 + moved(0) * roi_width;
            let top = ph as f64 * bin_h + y1 + moved(1) * roi_height;
            let cell = (channel * c.group_size + ph * c.group_size / size) * c.group_size + pw * c.group_size / size;
            let (mut sum, mut samples) = (0.0, 0);
            for s in 0..c.sample_per_part * c.sample_per_part {
                let step = |k: i64, bin: f64| k as f64 * bin / c.sample_per_part as f64;
                let x = left + step(s % c.sample_per_part, bin_w);
                let y = top + step(s / c.sample_per_part, bin_h);
                if x < -0.5 || x > width as f64 - 0.5 || y < -0.5 || y > height as f64 - 0.5 {
                    continue;
                }
                let (x, y) = (x.clamp(0.0, width as f64 - 1.0), y.clamp(0.0, height as f64 - 1.0));
                let pixel = |y: f64, x: f64| data.double_value(&[at(0) as i64, cell, y as i64, x as i64]);
                let (px, py) = (x - x.floor(), y - y.floor());
                sum += (1.0 - py) * ((1.0 - px) * pixel(y.floor(), x.floor()) + px * pixel(y.floor(), x.ceil()))
                    + py * ((1.0 - px) * pixel(y.ceil(), x.floor()) + px * pixel(y.ceil(), x.ceil()));
                samples += 1;
            }
            if samples > 0 {
                let _ = output.view(-1).get(i).fill_(sum / f64::from(samples));
            }
        }
        output
    }

    #[test]
    fn equals_its_definition_and_its_finite_differences() {
        let boxes = rois(&[
            [0.0, 3.3, 2.1, 40.2, 33.0],
            [1.0, -8.0, 20.0, 30.0, 70.0],
            [0.0, 10.0, 10.0, 10.0, 10.0],
            [1.0, 100.0, 100.0, 120.0, 130.0],
        ]);
        for (group_size, part_size, classes) in [(1, None, 1), (2, None, 2), (3, Some(2), 1), (1, Some(1), 4)] {
            let config = DeformRoIPoolingConfig {
                spatial_scale: 0.25,
                out_size: 3,
                out_channels: 4,
                group_size,
                part_size,
                sample_per_part: 2,
                trans_std: 0.13,
            };
            let data = random(&[2, 4 * group_size * group_size, 12, 11], 7);
            let part = config.part_size();
            let offset = random(&[4, 2 * classes, part, part], 8);
            let plain = deform_roi_pooling(&data, &boxes, None, &config);
            let want = reference(&data, &boxes, None, &config);
            assert!((plain - want).abs().max().double_value(&[]) < 1e-10);
            let moved = deform_roi_pooling(&data, &boxes, Some(&offset), &config);
            let want = reference(&data, &boxes, Some(&offset), &config);
            assert!((moved - want).abs().max().double_value(&[]) < 1e-10);
            gradcheck(|t| deform_roi_pooling(&t[0], &boxes, None, &config), &[&data]);
            gradcheck(|t| deform_roi_pooling(&t[0], &boxes, Some(&t[1]), &config), &[&data, &offset]);
        }
    }

    #[test]
    fn packs_start_without_offsets_and_with_half_the_values() {
        let _generator = generator();
        let config = DeformRoIPoolingConfig { out_size: 2, out_channels: 3, trans_std: 0.1, ..Default::default() };
        let data = random(&[1, 3, 8, 8], 1).to_kind(Kind::Float);
        let boxes = rois(&[[0.0, 1.0, 1.0, 6.0, 5.0]]).to_kind(Kind::Float);
        let plain = DeformRoIPooling { config }.forward(&data, &boxes, None);
        let parameters = Parameters::new(Device::Cpu);
        let pack = DeformRoIPoolingPack::new(&parameters.root().sub("a"), config, 5);
        let modulated = ModulatedDeformRoIPoolingPack::new(&parameters.root().sub("b"), config, 5);
        assert!((pack.forward(&data, &boxes) - &plain).abs().max().double_value(&[]) < 1e-6);
        assert!((modulated.forward(&data, &boxes) - &plain * 0.5).abs().max().double_value(&[]) < 1e-6);
        let names: Vec<String> = parameters.state().into_iter().map(|e| e.name).collect();
        assert_eq!(names[..2], ["a.offset_fc.0.weight", "a.offset_fc.0.bias"]);
        assert!(names.contains(&"b.mask_fc.2.bias".to_string()));
    }
}
