//! A convolution, the norm after it and the ReLU after that, as one step.
//!
//! The three are kept together, so that inference can fold a frozen norm into the convolution and fuse the ReLU
//! without the models knowing. Each part keeps the name that the original gives it.

use tch::Tensor;

use super::{Conv2d, Norm};

/// Convolution, optional norm, optional ReLU.
#[derive(Debug)]
pub struct ConvNorm {
    /// The convolution.
    pub conv: Conv2d,
    /// The norm after it.
    pub norm: Option<Norm>,
    /// Whether a ReLU comes last.
    pub relu: bool,
}

impl ConvNorm {
    /// Puts the three together.
    pub fn new(conv: Conv2d, norm: Option<Norm>, relu: bool) -> Self {
        Self { conv, norm, relu }
    }

    /// `train` only matters to batch norm.
    ///
    /// # Shapes
    /// `[N, in, H, W]` to `[N, out, H', W']`.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let mut y = self.linear_part(x, train);
        if self.relu {
            y.relu_()
        } else {
            y
        }
    }

    /// The end of a residual block: convolution and norm, plus `identity`, then ReLU (whatever `relu` says).
    ///
    /// # Shapes
    /// `[N, in, H, W]` and `[N, out, H', W']` to `[N, out, H', W']`.
    pub fn forward_residual(&self, x: &Tensor, identity: &Tensor, train: bool) -> Tensor {
        let mut y = self.linear_part(x, train);
        let mut y = y.g_add_(identity);
        y.relu_()
    }

    fn linear_part(&self, x: &Tensor, train: bool) -> Tensor {
        let y = self.conv.forward(x);
        match &self.norm {
            Some(norm) => norm.forward(&y, train),
            None => y,
        }
    }
}
