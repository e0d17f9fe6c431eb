//! Decoding, resizing, flips, colours: from an image file to the network's input, equal to the original's pixels
//! (Pillow 9.5 and torchvision).

mod build;
mod color;
mod decode;
mod normalize;
mod resize;
mod rgb_image;
mod rng;
#[allow(clippy::module_inception)]
mod transforms;

pub use build::{build_transforms, BuildTransform, TransformRegistry};
pub use color::{adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation};
pub use decode::{decode_image, image_size, read_image};
pub use normalize::Normalize;
pub use resize::resize;
pub use rgb_image::RgbImage;
pub use rng::TransformRng;
pub use transforms::{ColorJitter, Compose, RandomFlip, Resize, Transform};
