//! Image files to pixels, exactly as Pillow's `Image.open(path).convert("RGB")` gives them.
//!
//! JPEG goes through libjpeg-turbo's decoder (by `mozjpeg`), which Pillow uses too, so the pixels are the same. What
//! Pillow refuses is refused here: above all a file that ends before the last row is decoded, for which libjpeg alone
//! would invent grey rows. A PNG must be whole, checksums included, where Pillow is content with complete rows. EXIF
//! orientation is not applied and alpha is dropped, as in the original. Of several frames or pages the first is read.
//!
//! TIFF, WebP, GIF and PNM are read by the `image` crate. JPEG inside TIFF can differ from Pillow by a few levels.

use std::cell::Cell;
use std::fs;
use std::io::{self, BufRead, Cursor, Read};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;

use anyhow::{bail, Context, Result};
use image::codecs::png::PngDecoder;
use image::{ColorType, ExtendedColorType, ImageDecoder, ImageFormat};
use mozjpeg::{ColorSpace, Decompress};

use super::RgbImage;

/// Pillow's limit against decompression bombs: twice `Image.MAX_IMAGE_PIXELS`.
const MAX_PIXELS: u64 = 2 * 89_478_485;

/// Reads an image file: JPEG, PNG, BMP, TIFF, WebP, GIF or PNM.
///
/// # Errors
/// Every error names the file and says what is wrong: missing, empty, truncated, not an image, damaged.
pub fn read_image(path: &Path) -> Result<RgbImage> {
    let bytes = fs::read(path).with_context(|| format!("cannot read image {}", path.display()))?;
    decode_image(&bytes).with_context(|| format!("cannot decode image {}", path.display()))
}

/// The (width, height) of an image file, without decoding it.
///
/// # Errors
/// If the file cannot be read or is no image; it is named.
pub fn image_size(path: &Path) -> Result<(i64, i64)> {
    let dimensions =
        || -> Result<(u32, u32)> { Ok(image::ImageReader::open(path)?.with_guessed_format()?.into_dimensions()?) };
    let (width, height) = dimensions().with_context(|| format!("cannot read the size of image {}", path.display()))?;
    Ok((width.into(), height.into()))
}

/// Decodes an image file held in memory; the format is told by the content, not by a name.
///
/// # Errors
/// The reason why Pillow would refuse it.
pub fn decode_image(bytes: &[u8]) -> Result<RgbImage> {
    if bytes.is_empty() {
        bail!("the file is empty");
    }
    if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        decode_jpeg(bytes)
    } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        decode_png(bytes)
    } else if bytes.starts_with(b"BM") {
        decode_bmp(bytes)
    } else if let Some(format) = other_format(bytes) {
        decode_other(bytes, format)
    } else {
        bail!("it is no JPEG, PNG, BMP, TIFF, WebP, GIF or PNM file")
    }
}

/// The formats without code of their own here, by their first bytes.
fn other_format(bytes: &[u8]) -> Option<ImageFormat> {
    match bytes {
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(ImageFormat::Tiff),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(ImageFormat::WebP),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(ImageFormat::Gif),
        [b'P', b'1'..=b'6', space, ..] if space.is_ascii_whitespace() || *space == b'#' => Some(ImageFormat::Pnm),
        _ => None,
    }
}

/// Hands libjpeg the whole file; a request for more than there is fails, where libjpeg's own sources pretend that the
/// image ended there. Pillow's source asks for more data in the same situation and finds none.
struct WholeFile<'a> {
    rest: &'a [u8],
    ran_out: &'a Cell<bool>,
}

impl Read for WholeFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.rest.read(buffer)
    }
}

impl BufRead for WholeFile<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.ran_out.set(true);
            return Err(io::Error::other("no more data"));
        }
        Ok(self.rest)
    }

    fn consume(&mut self, amount: usize) {
        self.rest = &self.rest[amount..];
    }
}

fn decode_jpeg(bytes: &[u8]) -> Result<RgbImage> {
    let ran_out = Cell::new(false);
    let mut complete = None;
    // libjpeg reports fatal errors by unwinding with a message.
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        decode_jpeg_rows(WholeFile { rest: bytes, ran_out: &ran_out }, &mut complete)
    }));
    match (decoded, complete, ran_out.get()) {
        // The end of the file may be missing once every row is there.
        (Ok(Ok(())), Some(image), _) | (_, Some(image), true) => Ok(image),
        (_, None, true) => bail!("the JPEG file is truncated after {} bytes", bytes.len()),
        (Ok(Err(error)), ..) => Err(error),
        (Err(panic), ..) => match panic.downcast::<String>() {
            Ok(message) => bail!("damaged JPEG: {message}"),
            Err(_) => bail!("damaged JPEG"),
        },
        (Ok(Ok(())), None, false) => bail!("damaged JPEG: it has no rows"),
    }
}

/// Reads the rows into `complete`, then what follows them, where another fatal error may be found.
fn decode_jpeg_rows(file: WholeFile<'_>, complete: &mut Option<RgbImage>) -> Result<()> {
    let decoder = Decompress::new_reader(file)?;
    let (width, height) = decoder.size();
    check_size(width as u64, height as u64)?;
    let layers = decoder.components().len();
    let space = match layers {
        1 | 3 => ColorSpace::JCS_RGB,
        4 => ColorSpace::JCS_CMYK,
        _ => bail!("JPEG files with {layers} components are not supported"),
    };
    let mut started = decoder.to_colorspace(space)?;
    let rows = started.read_scanlines::<u8>()?;
    let data = if layers == 4 { inverted_cmyk_to_rgb(&rows) } else { rows };
    *complete = Some(RgbImage::new(width, height, data));
    Ok(started.finish()?)
}

/// Pillow's reading of four-component JPEGs: always Adobe's inverted CMYK, then its plain conversion to RGB.
fn inverted_cmyk_to_rgb(cmyk: &[u8]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(cmyk.len() / 4 * 3);
    for pixel in cmyk.chunks_exact(4) {
        let white = u32::from(pixel[3]);
        for &colour in &pixel[..3] {
            let product = (255 - u32::from(colour)) * white + 128;
            rgb.push(white.saturating_sub(((product >> 8) + product) >> 8) as u8);
        }
    }
    rgb
}

fn decode_png(bytes: &[u8]) -> Result<RgbImage> {
    let damaged = "damaged or truncated PNG";
    decode_pixels(PngDecoder::new(Cursor::new(bytes)).context(damaged)?, damaged)
}

fn decode_other(bytes: &[u8], format: ImageFormat) -> Result<RgbImage> {
    let damaged = format!("damaged, truncated or unsupported {format:?} file");
    let reader = image::ImageReader::with_format(Cursor::new(bytes), format);
    decode_pixels(reader.into_decoder().with_context(|| damaged.clone())?, &damaged)
}

/// `damaged` is what is said of a file whose pixels cannot be read.
fn decode_pixels(decoder: impl ImageDecoder, damaged: &str) -> Result<RgbImage> {
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into())?;
    let (color, stored) = (decoder.color_type(), decoder.original_color_type());
    let mut raw = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut raw).with_context(|| damaged.to_owned())?;
    let data = to_rgb(raw, color, stored).with_context(|| damaged.to_owned())?;
    Ok(RgbImage::new(width as usize, height as usize, data))
}

/// Pixels as a decoder gives them to RGB; `stored` is what the file has.
fn to_rgb(raw: Vec<u8>, color: ColorType, stored: ExtendedColorType) -> Result<Vec<u8>> {
    let wide = || raw.chunks_exact(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]]));
    let high = || wide().map(|value| (value >> 8) as u8).collect::<Vec<u8>>();
    Ok(match color {
        ColorType::Rgb8 => raw,
        ColorType::L8 => keep_gray(&raw, 1),
        ColorType::La8 => keep_gray(&raw, 2),
        ColorType::Rgba8 => drop_alpha(&raw),
        // Pillow reads 16-bit grey as 32-bit integers and clips them; other 16-bit images keep their high bytes.
        ColorType::L16 => keep_gray(&wide().map(|value| value.min(255) as u8).collect::<Vec<u8>>(), 1),
        ColorType::La16 if stored == ExtendedColorType::L16 => {
            keep_gray(&wide().map(|value| value.min(255) as u8).collect::<Vec<u8>>(), 2)
        }
        ColorType::La16 => keep_gray(&high(), 2),
        ColorType::Rgb16 => high(),
        ColorType::Rgba16 => drop_alpha(&high()),
        other => bail!("pixels of type {other:?} are not supported"),
    })
}

/// The first of `channels` values of a pixel, three times.
fn keep_gray(pixels: &[u8], channels: usize) -> Vec<u8> {
    pixels.chunks_exact(channels).flat_map(|pixel| [pixel[0]; 3]).collect()
}

fn drop_alpha(pixels: &[u8]) -> Vec<u8> {
    pixels.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
}

fn decode_bmp(bytes: &[u8]) -> Result<RgbImage> {
    let damaged = || "damaged or truncated BMP";
    let reader = image::ImageReader::with_format(Cursor::new(bytes), ImageFormat::Bmp);
    let decoder = reader.into_decoder().with_context(damaged)?;
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into())?;
    let image = image::DynamicImage::from_decoder(decoder).with_context(damaged)?.into_rgb8();
    Ok(RgbImage::new(width as usize, height as usize, image.into_raw()))
}

fn check_size(width: u64, height: u64) -> Result<()> {
    if width == 0 || height == 0 {
        bail!("the image has no pixels ({width}x{height})");
    }
    if width * height > MAX_PIXELS {
        bail!("the image has {width}x{height} pixels, more than the limit of {MAX_PIXELS}");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
