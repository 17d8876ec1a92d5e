//! Frozen matrices in blocks of 8 or 4 bits, as GGML stores them: the same bytes in memory and in a GGUF file, so that a
//! mapped file needs no copy. Kernels are in `backend/cpu/quantized`; here are the formats and what holds them.

mod lanes;
pub mod q4_k;
pub mod q8_0;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::backend::GpuBuffer;
use crate::{Device, Tensor, vectorized};

/// How the rows of a matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum QuantizedFormat {
    /// 8 bits an element and an f16 scale for each 32: 8.5 bits.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 4 bits an element, scales and minima of 6 bits for each 32 of 256, f16 units of both: 4.5 bits.
    #[serde(rename = "q4_k")]
    Q4K,
}

/// A number that a block's half-precision scale cannot hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutOfRange(pub f32);

impl QuantizedFormat {
    /// Both, the more exact one first.
    pub const ALL: [Self; 2] = [Self::Q8_0, Self::Q4K];

    /// Elements of a block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::Q8_0 => q8_0::ELEMENTS,
            Self::Q4K => q4_k::ELEMENTS,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Q8_0 => q8_0::BYTES,
            Self::Q4K => q4_k::BYTES,
        }
    }

    /// Name in options and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
        }
    }

    /// Whether rows of this many elements are whole blocks.
    pub const fn fits(self, width: usize) -> bool {
        width > 0 && width.is_multiple_of(self.block_len())
    }

    /// This format, or the more exact one whose blocks fit rows of `width` elements; `None` when neither does.
    pub fn for_width(self, width: usize) -> Option<Self> {
        [self, Self::Q8_0].into_iter().find(|format| format.fits(width))
    }

    /// Bytes of a row of `width` elements, which must be whole blocks.
    pub const fn row_bytes(self, width: usize) -> usize {
        width / self.block_len() * self.block_bytes()
    }

    /// Writes the blocks of `values`, whole blocks, to `bytes`.
    ///
    /// # Errors
    /// A value that is not finite, or so large that the scale overflows half precision.
    ///
    /// # Panics
    /// When `bytes` is not as long as the blocks.
    pub fn encode(self, values: &[f32], bytes: &mut [u8]) -> Result<(), OutOfRange> {
        assert_eq!(bytes.len(), self.row_bytes(values.len()), "blocks of {} elements", values.len());
        encode_blocks(self, values, bytes)
    }

    /// [`QuantizedFormat::encode`] on all threads.
    ///
    /// # Errors
    /// As [`QuantizedFormat::encode`].
    ///
    /// # Panics
    /// As [`QuantizedFormat::encode`].
    pub fn encode_parallel(self, values: &[f32], bytes: &mut [u8]) -> Result<(), OutOfRange> {
        assert_eq!(bytes.len(), self.row_bytes(values.len()), "blocks of {} elements", values.len());
        let blocks = PART / self.block_len();
        bytes
            .par_chunks_mut(blocks * self.block_bytes())
            .zip(values.par_chunks(PART))
            .try_for_each(|(bytes, values)| encode_blocks(self, values, bytes))
    }

    /// Dequantizes one block.
    #[inline(always)]
    pub(crate) fn decode_block(self, block: &[u8], out: &mut [f32]) {
        match self {
            Self::Q8_0 => q8_0::decode(block, out),
            Self::Q4K => q4_k::decode(block, out),
        }
    }
}

/// Elements that a thread quantizes at a time.
const PART: usize = 1 << 14;

vectorized! {
    fn encode_blocks<>(format: QuantizedFormat, values: &[f32], bytes: &mut [u8]) -> Result<(), OutOfRange> {
        // One pass that the processor does many at a time; the culprit is looked for only when there is one.
        let finite = values.iter().fold(true, |all, value| all & (value.to_bits() & 0x7f80_0000 != 0x7f80_0000));
        if !finite {
            return Err(OutOfRange(values.iter().copied().find(|value| !value.is_finite()).unwrap_or(f32::NAN)));
        }
        let blocks = values.chunks_exact(format.block_len()).zip(bytes.chunks_exact_mut(format.block_bytes()));
        for (values, block) in blocks {
            match format {
                QuantizedFormat::Q8_0 => q8_0::encode(values, block)?,
                QuantizedFormat::Q4K => q4_k::encode(values, block)?,
            }
        }
        Ok(())
    }
}

/// The half-precision number at a byte of a block.
#[inline(always)]
pub(crate) fn scale(block: &[u8], at: usize) -> f32 {
    crate::backend::cpu::half::f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// Writes a scale in half precision and gives back its rounded value.
fn put_scale(scale: f32, to: &mut [u8]) -> Result<f32, OutOfRange> {
    let narrow = half::f16::from_f32(scale);
    if narrow.is_infinite() {
        return Err(OutOfRange(scale));
    }
    to.copy_from_slice(&narrow.to_le_bytes());
    Ok(narrow.to_f32())
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// A matrix in blocks, its bytes owned or borrowed from a mapped file.
#[derive(Clone)]
pub struct QuantizedMatrix {
    format: QuantizedFormat,
    /// (rows, bytes of a row)
    bytes: Tensor<u8>,
    /// (rows, elements of a row)
    shape: [usize; 2],
}

impl QuantizedMatrix {
    /// Takes `bytes`, (rows, bytes of a row), as a matrix of `shape` (rows, elements of a row).
    ///
    /// # Panics
    /// When rows are not whole blocks, or `bytes` is not as long as they are; readers of files check this before.
    pub fn new(format: QuantizedFormat, bytes: Tensor<u8>, shape: [usize; 2]) -> Self {
        assert!(
            format.fits(shape[1]),
            "rows of {} elements are no whole blocks of {}",
            shape[1],
            format.name()
        );
        assert_eq!(
            bytes.len(),
            shape[0] * format.row_bytes(shape[1]),
            "bytes of a matrix of shape {shape:?}"
        );
        Self { format, bytes, shape }
    }

    /// Quantizes rows on all threads.
    ///
    /// # Errors
    /// A value that the format cannot hold.
    ///
    /// # Panics
    /// When `values` does not fill `shape`, or rows are no whole blocks.
    pub fn from_values(
        format: QuantizedFormat,
        values: &[f32],
        shape: [usize; 2],
        device: Device,
    ) -> Result<Self, OutOfRange> {
        assert_eq!(values.len(), shape[0] * shape[1], "elements do not fill {shape:?}");
        let row_bytes = format.row_bytes(shape[1]);
        let mut bytes = vec![0u8; shape[0] * row_bytes];
        format.encode_parallel(values, &mut bytes)?;
        Ok(Self::new(format, Tensor::from_vec(bytes, &[shape[0], row_bytes], device), shape))
    }

    /// The format.
    pub fn format(&self) -> QuantizedFormat {
        self.format
    }

    /// Rows and elements of a row.
    pub fn shape(&self) -> &[usize; 2] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.shape[1]
    }

    /// The blocks, of a matrix of the host.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.data()
    }

    /// Bytes of all blocks.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The blocks on a GPU.
    pub fn on_gpu(&self) -> &GpuBuffer {
        self.bytes.on_gpu()
    }

    /// The same blocks on another device.
    pub fn to_device(&self, device: Device) -> Self {
        let shape = self.bytes.shape();
        let bytes = match (device, self.device()) {
            (Device::Cpu, Device::Gpu(gpu)) => {
                let mut bytes = vec![0; self.byte_len()];
                gpu.download_blocks(self.on_gpu(), &mut bytes);
                Tensor::from_vec(bytes, shape, device)
            }
            (Device::Gpu(gpu), Device::Cpu) => Tensor::from_gpu(gpu.upload_blocks(self.view()), shape, gpu),
            _ => self.bytes.clone(),
        };
        Self { bytes, ..*self }
    }

    /// Whether the blocks are borrowed from a mapped file.
    pub fn is_shared(&self) -> bool {
        self.bytes.is_shared()
    }

    /// Gives the pages of blocks that are borrowed from a mapped file back; they stay readable.
    pub fn give_back(&self) {
        self.bytes.give_back();
    }

    /// Where the blocks live.
    pub fn device(&self) -> Device {
        self.bytes.device()
    }

    /// The matrix for a kernel.
    pub fn view(&self) -> QuantizedView<'_> {
        QuantizedView { format: self.format, bytes: self.bytes.data(), width: self.shape[1] }
    }
}

/// Consecutive whole rows of a [`QuantizedMatrix`].
#[derive(Clone, Copy, Debug)]
pub struct QuantizedView<'a> {
    format: QuantizedFormat,
    bytes: &'a [u8],
    width: usize,
}

impl<'a> QuantizedView<'a> {
    /// The format.
    pub fn format(self) -> QuantizedFormat {
        self.format
    }

    /// Elements of a row.
    pub fn width(self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn rows(self) -> usize {
        self.bytes.len() / self.row_bytes().max(1)
    }

    /// Number of elements.
    pub fn len(self) -> usize {
        self.rows() * self.width
    }

    /// Whether there are no elements.
    pub fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    /// All blocks.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes of a row.
    pub fn row_bytes(self) -> usize {
        self.format.row_bytes(self.width)
    }

    /// The first `at` elements, whole rows, and the rest.
    ///
    /// # Panics
    /// When `at` is inside a row or past the end.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        assert!(at.is_multiple_of(self.width.max(1)), "element {at} is inside a row of {}", self.width);
        let (head, tail) = self.bytes.split_at(at / self.width.max(1) * self.row_bytes());
        (Self { bytes: head, ..self }, Self { bytes: tail, ..self })
    }

    /// Writes the dequantized elements from `start` on to `out`.
    ///
    /// # Panics
    /// When there are fewer than `out` takes.
    pub fn read(self, start: usize, out: &mut [f32]) {
        crate::backend::cpu::quantized::dequantize(self.format, self.bytes, start, out);
    }
}
