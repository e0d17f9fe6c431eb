//! The feature pyramid (Lin et al. 2017), as `modeling/backbone/fpn.py` of the original.

use anyhow::Result;
use tch::Tensor;

use crate::ffi;
use crate::layers::{Conv2d, ConvConfig, ConvNorm, Init, ParamPath};
use crate::modeling::make_layers::{conv_with_kaiming_uniform, ConvKaimingUniform, GroupNormSettings};

/// The levels above the pyramid.
pub enum TopBlocks {
    /// No more levels.
    None,
    /// Every other pixel of the coarsest map (a 1×1 maximum of stride 2), for proposals only.
    LastLevelMaxPool,
    /// Two more levels for RetinaNet.
    LastLevelP6P7(Box<LastLevelP6P7>),
}

/// P6 and P7 of RetinaNet (Lin et al. 2017): two 3×3 convolutions of stride 2.
pub struct LastLevelP6P7 {
    p6: Conv2d,
    p7: Conv2d,
    use_p5: bool,
}

impl LastLevelP6P7 {
    /// P6 is made from P5 when `in_channels` equals `out_channels`, otherwise from C5: the original's rule, whatever
    /// `MODEL.RETINANET.USE_C5` says.
    pub fn new(path: &ParamPath, in_channels: i64, out_channels: i64) -> Self {
        let config = ConvConfig {
            stride: 2,
            padding: 1,
            weight_init: Init::KaimingUniform { a: 1.0 },
            bias_init: Some(Init::Const(0.0)),
            ..ConvConfig::default()
        };
        Self {
            p6: Conv2d::new(&path.sub("p6"), in_channels, out_channels, 3, config),
            p7: Conv2d::new(&path.sub("p7"), out_channels, out_channels, 3, config),
            use_p5: in_channels == out_channels,
        }
    }

    fn forward(&self, c5: &Tensor, p5: &Tensor) -> [Tensor; 2] {
        let p6 = self.p6.forward(if self.use_p5 { p5 } else { c5 });
        let p7 = self.p7.forward(&p6.relu());
        [p6, p7]
    }
}

/// The choices of [`Fpn`] that concern all its convolutions.
#[derive(Clone, Copy, Debug, Default)]
pub struct FpnConfig {
    /// `MODEL.FPN.USE_GN`: a norm after each convolution.
    pub group_norm: Option<GroupNormSettings>,
    /// `MODEL.FPN.USE_RELU`: a ReLU after each convolution.
    pub relu: bool,
}

/// One level: `fpn_inner{i}` and `fpn_layer{i}`.
struct Level {
    inner: ConvNorm,
    layer: ConvNorm,
}

/// A pyramid over the maps of a body, all levels with the same number of channels.
pub struct Fpn {
    levels: Vec<Level>,
    top_blocks: TopBlocks,
}

impl Fpn {
    /// `in_channels` are those of the maps of the body, finest first; 0 leaves a map out. `top_blocks` is made last,
    /// from its own path, so that the order of names is the original's.
    ///
    /// # Errors
    /// Group norm does not fit the number of channels.
    pub fn new(
        path: &ParamPath,
        in_channels: &[i64],
        out_channels: i64,
        config: FpnConfig,
        top_blocks: impl FnOnce(&ParamPath) -> TopBlocks,
    ) -> Result<Self> {
        let options = |kernel_size| ConvKaimingUniform {
            kernel_size,
            group_norm: config.group_norm,
            relu: config.relu,
            ..ConvKaimingUniform::default()
        };
        let mut levels = Vec::new();
        for (i, &channels) in in_channels.iter().enumerate().filter(|(_, &channels)| channels > 0) {
            let inner = path.sub(format!("fpn_inner{}", i + 1));
            let layer = path.sub(format!("fpn_layer{}", i + 1));
            levels.push(Level {
                inner: conv_with_kaiming_uniform(&inner, channels, out_channels, options(1))?,
                layer: conv_with_kaiming_uniform(&layer, out_channels, out_channels, options(3))?,
            });
        }
        let top_blocks = top_blocks(&path.sub("top_blocks"));
        Ok(Self { levels, top_blocks })
    }

    /// The number of levels above those of the body's maps, each half as wide and high as the one before it.
    pub fn levels_on_top(&self) -> usize {
        match self.top_blocks {
            TopBlocks::None => 0,
            TopBlocks::LastLevelMaxPool => 1,
            TopBlocks::LastLevelP6P7(_) => 2,
        }
    }

    /// The maps of a body, finest first, to the levels of the pyramid, finest first. Maps finer than the finest level
    /// are not looked at.
    ///
    /// The coarser map is doubled in size by repeating pixels. Where a side of the finer one is odd, the doubled map is
    /// one pixel larger and its last row or column is left out (the original fails there), so images of any size work.
    ///
    /// # Shapes
    /// `[N, C_i, H_i, W_i]` to `[N, out_channels, H_i, W_i]`, then the levels on top.
    pub fn forward(&self, x: &[Tensor], train: bool) -> Vec<Tensor> {
        let x = &x[x.len() - self.levels.len()..];
        let mut results = Vec::with_capacity(x.len() + 2);
        let mut above: Option<Tensor> = None;
        for (feature, level) in x.iter().zip(&self.levels).rev() {
            let inner = match above {
                Some(above) => {
                    // The lateral convolutions, 1×1, keep the size.
                    let (_, _, height, width) = feature.size4().expect("feature maps are [N, C, H, W]");
                    let doubled = ffi::upsample_nearest(&above, (height, width), 2.0).expect("maps of some size");
                    level.inner.forward_plus(feature, &doubled, train)
                }
                None => level.inner.forward(feature, train),
            };
            results.push(level.layer.forward(&inner, train));
            above = Some(inner);
        }
        results.reverse();
        match (&self.top_blocks, x.last(), results.last()) {
            (TopBlocks::LastLevelMaxPool, _, Some(p5)) => {
                let p6 = p5.max_pool2d([1, 1], [2, 2], [0, 0], [1, 1], false);
                results.push(p6);
            }
            (TopBlocks::LastLevelP6P7(top), Some(c5), Some(p5)) => {
                let top = top.forward(c5, p5);
                results.extend(top);
            }
            _ => {}
        }
        results
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::Parameters;
    use crate::utils::testing::generator;
    use tch::{Device, Kind};

    #[test]
    fn odd_sizes_leave_out_the_last_row_and_column() {
        let _generator = generator();
        let parameters = Parameters::new(Device::Cpu);
        let fpn = Fpn::new(&parameters.root(), &[2, 2], 3, FpnConfig::default(), |_| TopBlocks::None).unwrap();
        let random = |shape: [i64; 4]| {
            Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, Device::Cpu)).sin().reshape(shape)
        };
        let coarse = random([1, 2, 3, 4]);
        let even = random([1, 2, 6, 8]);
        let odd = even.narrow(2, 0, 5).narrow(3, 0, 7).contiguous();
        let full = fpn.forward(&[even, coarse.shallow_clone()], false);
        let cut = fpn.forward(&[odd, coarse], false);
        assert_eq!(cut[0].size(), [1, 3, 5, 7]);
        // Away from the cut (the 3×3 convolution looks one pixel further) nothing changes.
        let inside = |t: &Tensor| t.narrow(2, 0, 4).narrow(3, 0, 6).contiguous();
        assert!(inside(&cut[0]).allclose(&inside(&full[0]), 1e-6, 1e-6, false));
        assert!(cut[1].equal(&full[1]));
    }
}
