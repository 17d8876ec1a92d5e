//! Baseline JPEG files as libjpeg-turbo decodes them, to the last bit.
//!
//! Nearly every photograph of a data set is such a file: 8 bits, Huffman codes, one scan, gray or YCbCr with the usual
//! subsampling (4:4:4, 4:2:2, 4:4:0, 4:2:0). The inverse DCT is the accurate integer one, chroma is interpolated
//! ("fancy upsampling") and the color conversion is the fixed-point one: what Pillow asks libjpeg-turbo for. Anything
//! else (progressive, CMYK, several scans), and any file with a fault, is left to the general decoder, which also words
//! the error.
//!
//! ```text
//! bytes ─ headers ─► tables ─ entropy ─► coefficients ─ inverse_dct ─► planes ─ color ─► RGB
//! ```

mod color;
mod entropy;
mod headers;
mod inverse_dct;

use std::cell::RefCell;

use color::Chroma;
use entropy::{BitReader, EntropyCoded};
use headers::{Component, Headers};

/// A decoded file.
pub(crate) struct Decoded<'a> {
    /// Width in pixels.
    pub(crate) width: usize,
    /// Height in pixels.
    pub(crate) height: usize,
    /// (height, width, 3)
    pub(crate) pixels: Vec<u8>,
    /// The EXIF block, beginning with its TIFF header.
    pub(crate) exif: Option<&'a [u8]>,
}

/// Samples of one component, padded to whole blocks.
#[derive(Default)]
struct Plane {
    samples: Vec<u8>, // (rows, stride)
    stride: usize,
}

thread_local! {
    /// Planes of the last image of this thread; memory that was used once is faster than new memory.
    static PLANES: RefCell<[Plane; 3]> = RefCell::default();
}

/// Larger planes are given back after the image.
const KEPT_PLANE_BYTES: usize = 1 << 22;

/// Decodes a file of at most `max_pixels` pixels and `max_side` a side; `None` if it is not of this kind or damaged.
pub(crate) fn decode(bytes: &[u8], max_pixels: u64, max_side: usize) -> Option<Decoded<'_>> {
    let headers = Headers::read(bytes)?;
    let (width, height) = (headers.width, headers.height);
    if width.max(height) > max_side || width as u64 * height as u64 > max_pixels {
        return None;
    }
    let coded = EntropyCoded::new(&bytes[headers.scan_start..])?;
    let pixels = PLANES.with_borrow_mut(|planes| {
        let pixels = decode_planes(&headers, &coded, planes).map(|()| {
            let chroma = Chroma::of(&headers);
            let [luma, cb, cr] = &*planes;
            color::to_rgb(luma, (headers.components.len() == 3).then_some((cb, cr, chroma)), width, height)
        });
        planes.iter_mut().filter(|plane| plane.samples.capacity() > KEPT_PLANE_BYTES).for_each(|plane| {
            *plane = Plane::default();
        });
        pixels
    })?;
    Some(Decoded { width, height, pixels, exif: headers.exif })
}

/// Entropy decoding and inverse DCT, in the fastest version for this processor; all give the same samples.
fn decode_planes(headers: &Headers, coded: &EntropyCoded, planes: &mut [Plane; 3]) -> Option<()> {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,bmi1,bmi2")]
        fn decode(headers: &Headers, coded: &EntropyCoded, planes: &mut [Plane; 3]) -> Option<()> {
            decode_blocks(headers, coded, planes, |coefficients, divisors, output, stride| {
                inverse_dct::avx2::transform(coefficients, divisors, output, stride);
            })
        }
        let bits = is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2");
        if bits && is_x86_feature_detected!("avx2") {
            // SAFETY: the processor was just asked.
            return unsafe { decode(headers, coded, planes) };
        }
    }
    decode_blocks(headers, coded, planes, inverse_dct::plain)
}

/// `transform` takes coefficients, divisors, output and its stride.
#[inline(always)]
fn decode_blocks(
    headers: &Headers,
    coded: &EntropyCoded,
    planes: &mut [Plane; 3],
    transform: impl Fn(&[i16; 64], &[i16; 64], &mut [u8], usize),
) -> Option<()> {
    let (across, down) = (headers.components[0].across, headers.components[0].down);
    let mcus_across = headers.width.div_ceil(8 * across);
    let mcus_down = headers.height.div_ceil(8 * down);
    let mcus = mcus_across * mcus_down;
    let blocks: usize = headers.components.iter().map(|c| c.across * c.down).sum::<usize>() * mcus;
    // A block takes two bits at least, so that a short file cannot claim a large image.
    if coded.bytes() * 8 < blocks * 2 {
        return None;
    }
    let interval = if headers.restart_interval == 0 { mcus } else { headers.restart_interval };
    if coded.segments() != mcus.div_ceil(interval) {
        return None;
    }
    for (component, plane) in headers.components.iter().zip(planes.iter_mut()) {
        plane.stride = mcus_across * component.across * 8;
        // Every block is written, so what is left from the last image does not matter.
        plane.samples.resize(plane.stride * mcus_down * component.down * 8, 0);
    }
    for segment in 0..coded.segments() {
        let mut reader = coded.segment(segment);
        let mut last_dc = [0_i32; 3];
        for mcu in segment * interval..((segment + 1) * interval).min(mcus) {
            let (row, column) = (mcu / mcus_across, mcu % mcus_across);
            for ((component, plane), dc) in headers.components.iter().zip(planes.iter_mut()).zip(&mut last_dc)
            {
                decode_unit(&mut reader, component, dc, plane, (row, column), &transform)?;
            }
        }
        if reader.overran() {
            return None;
        }
    }
    Some(())
}

/// The blocks of one component in one minimum coded unit.
#[inline(always)]
fn decode_unit(
    reader: &mut BitReader<'_>,
    component: &Component,
    dc: &mut i32,
    plane: &mut Plane,
    (row, column): (usize, usize),
    transform: &impl Fn(&[i16; 64], &[i16; 64], &mut [u8], usize),
) -> Option<()> {
    for block_row in 0..component.down {
        for block_column in 0..component.across {
            let mut coefficients = [0_i16; 64];
            let last = reader.block(&component.dc_table, &component.ac_table, dc, &mut coefficients)?;
            let top = (row * component.down + block_row) * 8;
            let left = (column * component.across + block_column) * 8;
            let output = &mut plane.samples[top * plane.stride + left..];
            if last == 0 {
                inverse_dct::flat(coefficients[0], &component.quantization, output, plane.stride);
            } else {
                transform(&coefficients, &component.quantization, output, plane.stride);
            }
        }
    }
    Some(())
}
