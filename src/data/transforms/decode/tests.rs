use image::{DynamicImage, ImageBuffer, ImageEncoder, Luma, LumaA, Rgb, Rgba};
use mozjpeg::Compress;

use super::*;

fn jpeg(space: ColorSpace, channels: usize, progressive: bool) -> Vec<u8> {
    let (width, height) = (37, 29);
    let mut encoder = Compress::new(space);
    encoder.set_size(width, height);
    if progressive {
        encoder.set_progressive_mode();
    } else {
        encoder.set_fastest_defaults();
    }
    let mut started = encoder.start_compress(Vec::new()).unwrap();
    let pixels: Vec<u8> = (0..width * height * channels).map(|at| (at * at % 251) as u8).collect();
    started.write_scanlines(&pixels).unwrap();
    started.finish().unwrap()
}

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn message(bytes: &[u8]) -> String {
    format!("{:#}", decode_image(bytes).unwrap_err())
}

#[test]
fn a_truncated_jpeg_is_refused_wherever_it_ends() {
    for (space, channels) in [(ColorSpace::JCS_RGB, 3), (ColorSpace::JCS_GRAYSCALE, 1), (ColorSpace::JCS_CMYK, 4)] {
        for progressive in [false, true] {
            let whole = jpeg(space, channels, progressive);
            assert!(decode_image(&whole).is_ok());
            for cut in (3..whole.len()).step_by(11).chain(whole.len() - 12..whole.len()) {
                assert!(message(&whole[..cut]).contains("truncated"), "{cut} of {}", whole.len());
            }
            assert!(decode_image(&[&whole[..], b"trailing bytes"].concat()).is_ok());
        }
    }
}

#[test]
fn an_unknown_marker_after_the_rows_is_an_error() {
    let mut whole = jpeg(ColorSpace::JCS_RGB, 3, false);
    let end = whole.len() - 1;
    whole[end] = 0x05;
    assert!(message(&whole).contains("damaged"), "{}", message(&whole));
}

#[test]
fn a_damaged_jpeg_never_panics() {
    let whole = jpeg(ColorSpace::JCS_RGB, 3, false);
    for at in 2..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x5a;
        if let Ok(image) = decode_image(&damaged) {
            assert_eq!(image.data.len(), image.width * image.height * 3);
        }
    }
}

#[test]
fn cmyk_is_read_as_inverted() {
    // White paper is 255 in Adobe's inverted form; ink takes from it in proportion.
    assert_eq!(inverted_cmyk_to_rgb(&[255, 255, 255, 255]), [255, 255, 255]);
    assert_eq!(inverted_cmyk_to_rgb(&[0, 255, 255, 255]), [0, 255, 255]);
    assert_eq!(inverted_cmyk_to_rgb(&[255, 0, 128, 100]), [100, 0, 50]);
    assert_eq!(inverted_cmyk_to_rgb(&[255, 255, 255, 0]), [0, 0, 0]);
}

#[test]
fn sixteen_bits_as_pillow_reads_them() {
    let values = [0u16, 200, 256, 40_000, 65_535, 255];
    let gray = ImageBuffer::<Luma<u16>, _>::from_raw(6, 1, values.to_vec()).unwrap();
    let triple = |values: [u8; 6]| values.iter().flat_map(|&v| [v; 3]).collect::<Vec<u8>>();
    assert_eq!(decode_image(&png(gray)).unwrap().data, triple([0, 200, 255, 255, 255, 255]));
    let rgb = ImageBuffer::<Rgb<u16>, _>::from_raw(2, 1, values.to_vec()).unwrap();
    assert_eq!(decode_image(&png(rgb)).unwrap().data, [0, 0, 1, 156, 255, 0]);
    let with_alpha = ImageBuffer::<LumaA<u16>, _>::from_raw(3, 1, values.to_vec()).unwrap();
    assert_eq!(decode_image(&png(with_alpha)).unwrap().data, [0, 0, 0, 1, 1, 1, 255, 255, 255]);
    let rgba = ImageBuffer::<Rgba<u16>, _>::from_raw(1, 1, values[2..].to_vec()).unwrap();
    assert_eq!(decode_image(&png(rgba)).unwrap().data, [1, 156, 255]);
}

#[test]
fn alpha_is_dropped() {
    let rgba = image::RgbaImage::from_raw(1, 1, vec![10, 20, 30, 0]).unwrap();
    assert_eq!(decode_image(&png(rgba)).unwrap().data, [10, 20, 30]);
    let gray = image::GrayAlphaImage::from_raw(1, 1, vec![10, 0]).unwrap();
    assert_eq!(decode_image(&png(gray)).unwrap().data, [10, 10, 10]);
}

#[test]
fn bitmaps_are_read() {
    let mut bytes = Vec::new();
    let pixels: Vec<u8> = (0..18).collect();
    let encoder = image::codecs::bmp::BmpEncoder::new(&mut bytes);
    encoder.write_image(&pixels, 3, 2, ExtendedColorType::Rgb8).unwrap();
    assert_eq!(decode_image(&bytes).unwrap(), RgbImage::new(3, 2, pixels));
    assert!(message(&bytes[..40]).contains("BMP"));
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let image = image.into();
    if format == ImageFormat::Pnm {
        // The encoder would write a PAM, which Pillow refuses.
        let kind = if image.color().has_color() { "P6" } else { "P5" };
        let limit = if image.color().bits_per_pixel() == 16 { 65_535 } else { 255 };
        let header = format!("{kind}\n{} {}\n{}\n", image.width(), image.height(), limit);
        let wide = image.as_luma16().map(|wide| wide.as_raw().iter().flat_map(|value| value.to_be_bytes()).collect());
        return [header.as_bytes(), &wide.unwrap_or_else(|| image.as_bytes().to_vec())].concat();
    }
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[test]
fn tiff_webp_gif_and_pnm_are_read() {
    // Few colours, since a GIF has at most 256.
    let picture = image::RgbImage::from_fn(23, 17, |x, y| Rgb([(x / 8 * 60) as u8, (y / 6 * 80) as u8, 7]));
    let pixels = RgbImage::new(23, 17, picture.as_raw().clone());
    for format in [ImageFormat::Tiff, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Pnm] {
        let whole = encoded(picture.clone(), format);
        assert_eq!(decode_image(&whole).unwrap(), pixels, "{format:?}");
        for part in [7, 12, whole.len() / 2, whole.len() * 9 / 10] {
            assert!(decode_image(&whole[..part]).is_err(), "{part} bytes of {format:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        // Found by content.
        let path = folder.path().join("image.jpg");
        fs::write(&path, whole).unwrap();
        assert_eq!((read_image(&path).unwrap(), image_size(&path).unwrap()), (pixels.clone(), (23, 17)));
    }
}

#[test]
fn other_pixels_of_tiff_and_pnm_are_read_as_by_pillow() {
    let gray: Vec<u8> = (0..12).map(|at| at * 20).collect();
    let tripled: Vec<u8> = gray.iter().flat_map(|&value| [value; 3]).collect();
    let gray = image::GrayImage::from_raw(4, 3, gray).unwrap();
    let alpha = image::RgbaImage::from_raw(1, 1, vec![10, 20, 30, 0]).unwrap();
    let wide = ImageBuffer::<Luma<u16>, _>::from_raw(3, 1, vec![7u16, 300, 65_535]).unwrap();
    for format in [ImageFormat::Tiff, ImageFormat::Pnm] {
        assert_eq!(decode_image(&encoded(gray.clone(), format)).unwrap().data, tripled, "{format:?}");
        let bytes = encoded(wide.clone(), format);
        assert_eq!(decode_image(&bytes).unwrap().data, [7, 7, 7, 255, 255, 255, 255, 255, 255], "{format:?}");
    }
    for format in [ImageFormat::Tiff, ImageFormat::WebP] {
        assert_eq!(decode_image(&encoded(alpha.clone(), format)).unwrap().data, [10, 20, 30], "{format:?}");
    }
    // Bits of a PBM: 1 is black.
    assert_eq!(decode_image(b"P4\n3 1\n\x40").unwrap().data, [255, 255, 255, 0, 0, 0, 255, 255, 255]);
    assert_eq!(decode_image(b"P2\n# grey\n2 1\n255\n0 9\n").unwrap().data, [0, 0, 0, 9, 9, 9]);
}

#[test]
fn a_truncated_png_is_refused() {
    let picture = image::RgbImage::from_fn(40, 30, |x, y| Rgb([(x * y) as u8, x as u8, (y * 7) as u8]));
    let whole = png(picture);
    for tenth in 1..10 {
        assert!(message(&whole[..whole.len() * tenth / 10]).contains("PNG"));
    }
}

#[test]
fn too_many_pixels_are_refused_before_decoding() {
    let mut whole = jpeg(ColorSpace::JCS_RGB, 3, false);
    let frame = whole.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    whole[frame + 5..frame + 9].copy_from_slice(&[0xff, 0x00, 0xff, 0x00]);
    assert!(message(&whole).contains("more than the limit"), "{}", message(&whole));
}

#[test]
fn files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content, reason) in [
        ("empty.jpg", &b""[..], "the file is empty"),
        ("text.jpg", b"not an image", "no JPEG, PNG, BMP"),
        ("short.jpg", b"\xff\xd8\xff", "truncated"),
        ("short.png", b"\x89PNG\r\n\x1a\n\0\0", "PNG"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        let error = format!("{:#}", read_image(&path).unwrap_err());
        assert!(error.contains(name) && error.contains(reason), "{error}");
    }
    for (name, bytes) in
        [("whole.jpg", jpeg(ColorSpace::JCS_RGB, 3, false)), ("whole.png", png(DynamicImage::new_rgb8(37, 29)))]
    {
        fs::write(folder.path().join(name), bytes).unwrap();
        assert_eq!(image_size(&folder.path().join(name)).unwrap(), (37, 29));
    }
    assert!(format!("{:#}", image_size(&folder.path().join("text.jpg")).unwrap_err()).contains("text.jpg"));
    let error = format!("{:#}", read_image(&folder.path().join("missing.jpg")).unwrap_err());
    assert!(error.contains("missing.jpg") && error.contains("cannot read"), "{error}");
}
