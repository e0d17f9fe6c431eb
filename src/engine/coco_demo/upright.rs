//! Images as they are meant to be looked at.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader};

use crate::data::transforms::{decode_image, RgbImage};

/// Reads an image and turns it as its EXIF orientation says, as OpenCV's `imread` does. (Data sets ignore the
/// orientation, as Pillow's `Image.open` does.)
///
/// # Errors
/// If the file cannot be read as an image; names it.
pub fn read_upright_image(path: &Path) -> Result<RgbImage> {
    let read = || -> Result<RgbImage> {
        let bytes = std::fs::read(path)?;
        let image = decode_image(&bytes)?;
        Ok(turned(image, orientation(&bytes)))
    };
    read().with_context(|| format!("cannot read the image {}", path.display()))
}

/// What the image's metadata say; an image without, or with broken ones, is upright.
fn orientation(bytes: &[u8]) -> Orientation {
    let read = || {
        let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?;
        reader.into_decoder().ok()?.orientation().ok()
    };
    read().unwrap_or(Orientation::NoTransforms)
}

fn turned(image: RgbImage, orientation: Orientation) -> RgbImage {
    if orientation == Orientation::NoTransforms {
        return image;
    }
    let (width, height) = (image.width as u32, image.height as u32);
    let pixels = image::RgbImage::from_raw(width, height, image.data).expect("three bytes a pixel");
    let mut turned = DynamicImage::ImageRgb8(pixels);
    turned.apply_orientation(orientation);
    let turned = turned.into_rgb8();
    let (width, height) = turned.dimensions();
    RgbImage::new(width as usize, height as usize, turned.into_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::jpeg::JpegEncoder;
    use image::{ExtendedColorType, ImageEncoder};

    /// A JPEG that is red on the left and blue on the right, with the given EXIF orientation.
    fn jpeg(orientation: u8) -> Vec<u8> {
        let pixels: Vec<u8> = (0..16 * 32).flat_map(|i| if i % 32 < 16 { [255, 0, 0] } else { [0, 0, 255] }).collect();
        let mut bytes = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
        // A TIFF header and one entry: tag 0x0112 (orientation), type 3 (short), count 1.
        let exif = [b'M', b'M', 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0, 0, 0, 0, 0];
        encoder.set_exif_metadata(exif.to_vec()).expect("JPEG takes EXIF");
        encoder.write_image(&pixels, 32, 16, ExtendedColorType::Rgb8).expect("encoded");
        bytes
    }

    #[test]
    fn exif_orientations_are_applied() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("image.jpg");
        // orientation, size, place of the red half: (x, y) of a pixel in it
        for (orientation, size, (x, y)) in [
            (1, (32, 16), (4, 8)),
            (2, (32, 16), (28, 8)),
            (3, (32, 16), (28, 8)),
            (4, (32, 16), (4, 8)),
            (6, (16, 32), (8, 4)),
            (8, (16, 32), (8, 28)),
            (9, (32, 16), (4, 8)),
        ] {
            std::fs::write(&path, jpeg(orientation)).expect("written");
            let image = read_upright_image(&path).expect("an image");
            assert_eq!(image.size(), size, "orientation {orientation}");
            let at = (y * image.width + x) * 3;
            assert!(image.data[at] > 200 && image.data[at + 2] < 60, "orientation {orientation}");
        }
    }

    #[test]
    fn files_that_are_no_images_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("text.jpg");
        std::fs::write(&path, "not an image").expect("written");
        for path in [path, folder.path().join("missing.png")] {
            let error = format!("{:#}", read_upright_image(&path).expect_err("no image"));
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }
}
