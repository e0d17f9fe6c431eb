//! Deformable convolution and deformable RoI pooling (the original's `layers/dcn`).

mod deform_conv;
mod deform_pool;

pub use deform_conv::{
    deform_conv, modulated_deform_conv, DeformConv, DeformConvGeometry, ModulatedDeformConv, ModulatedDeformConvPack,
};
pub use deform_pool::{
    deform_roi_pooling, DeformRoIPooling, DeformRoIPoolingConfig, DeformRoIPoolingPack, ModulatedDeformRoIPoolingPack,
};
