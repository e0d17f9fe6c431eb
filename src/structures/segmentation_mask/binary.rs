//! Masks as pixels, `[N, H, W]`.

use anyhow::{ensure, Result};
use image::GrayImage;
use imageproc::contours::{find_contours, BorderType};
use tch::{Device, Kind, Tensor};

use super::PolygonInstance;

/// The pixels between the rounded corners, moved into the image, at least one in each direction.
pub(super) fn crop(masks: &Tensor, r#box: [f64; 4]) -> Result<Tensor> {
    let shape = masks.size();
    let (height, width) = (shape[1], shape[2]);
    let [x1, y1, x2, y2] = r#box.map(|c| c.round_ties_even() as i64);
    ensure!(x1 <= x2 && y1 <= y2, "a crop needs x1 <= x2 and y1 <= y2, not {:?}", r#box);
    ensure!(width > 0 && height > 0, "no crop of masks of {width} x {height} pixels");
    let (x1, y1) = (x1.clamp(0, width - 1), y1.clamp(0, height - 1));
    let (x2, y2) = (x2.clamp(x1 + 1, width), y2.clamp(y1 + 1, height));
    Ok(masks.narrow(1, y1, y2 - y1).narrow(2, x1, x2 - x1))
}

/// Bilinear, without aligned corners, back to the kind of the input.
pub(super) fn resize(masks: &Tensor, size: (i64, i64)) -> Tensor {
    if masks.size()[0] == 0 {
        return Tensor::zeros([0, size.1, size.0], (masks.kind(), masks.device()));
    }
    let float = masks.unsqueeze(0).to_kind(Kind::Float);
    let resized = float.upsample_bilinear2d([size.1, size.0], false, None, None);
    resized.squeeze_dim(0).to_kind(masks.kind())
}

/// The outermost contours of every mask. A contour runs through the centres of the border pixels.
pub(super) fn contours(masks: &Tensor) -> Result<Vec<PolygonInstance>> {
    let shape = masks.size();
    let (height, width) = (shape[1], shape[2]);
    let bytes = masks.ne(0.0).to_kind(Kind::Uint8).to_device(Device::Cpu);
    let mut instances = Vec::with_capacity(shape[0] as usize);
    for i in 0..shape[0] {
        let pixels = Vec::<u8>::try_from(bytes.get(i).contiguous().view(-1))?;
        let picture = GrayImage::from_raw(width as u32, height as u32, pixels);
        let picture = picture.expect("as many bytes as pixels");
        let outer = find_contours::<u32>(&picture);
        let outer = outer.iter().filter(|c| c.border_type == BorderType::Outer && c.parent.is_none());
        let polygon = |points: &[imageproc::point::Point<u32>]| {
            points.iter().flat_map(|p| [f64::from(p.x), f64::from(p.y)]).collect()
        };
        instances.push(PolygonInstance::new(outer.map(|c| polygon(&c.points)).collect()));
    }
    Ok(instances)
}
