//! Embeddings as rows of 16-bit floats, in memory or in a mapped file.

use std::path::Path;

use half::f16;
use memmap2::Mmap;
use otter_nn::backend::cpu::half::Stored;
use otter_nn::backend::cpu::simd;
use rayon::prelude::*;

use super::error::Result;
use super::row_file::map_rows;

/// Bytes of one element.
pub const ELEMENT: usize = 2;

/// Rows (items, width) of unit length, or zero where an item has no embedding.
pub struct Vectors {
    bytes: Bytes,
    width: usize,
}

enum Bytes {
    Owned(Vec<u8>),
    Mapped(Mmap),
}

impl Vectors {
    /// Rounds rows of f32 to 16 bits; a cosine moves by about 1e-4.
    pub fn from_rows(rows: &[f32], width: usize) -> Self {
        Self::from_bytes(to_f16_bytes(rows), width)
    }

    /// Takes rows that were rounded by [`to_f16_bytes`].
    pub fn from_bytes(bytes: Vec<u8>, width: usize) -> Self {
        Self { bytes: Bytes::Owned(bytes), width }
    }

    /// Maps a file of rows.
    ///
    /// # Errors
    /// When the file cannot be mapped or is no whole number of rows.
    pub fn map(path: &Path, width: usize) -> Result<Self> {
        let bytes = match map_rows(path, width * ELEMENT)? {
            Some(map) => Bytes::Mapped(map),
            None => Bytes::Owned(Vec::new()),
        };
        Ok(Self { bytes, width })
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.bytes().len() / (self.width * ELEMENT).max(1)
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Owned(bytes) => bytes,
            Bytes::Mapped(map) => map,
        }
    }

    /// Whether a row has a direction.
    pub fn is_usable(&self, item: usize) -> bool {
        // A negative zero has its sign bit set.
        self.row(item).as_chunks::<ELEMENT>().0.iter().any(|pair| u16::from_le_bytes(*pair) & 0x7fff != 0)
    }

    fn row(&self, item: usize) -> &[u8] {
        let bytes = self.width * ELEMENT;
        &self.bytes()[item * bytes..][..bytes]
    }

    /// Widens consecutive rows from `first` on into `out`, a whole number of rows, on all threads.
    pub fn read(&self, first: usize, out: &mut [f32]) {
        const ROWS: usize = 64;
        let width = self.width;
        let bytes = &self.bytes()[first * width * ELEMENT..][..out.len() * ELEMENT];
        out.par_chunks_mut(ROWS * width)
            .zip(bytes.par_chunks(ROWS * width * ELEMENT))
            .for_each(|(out, bytes)| widen(out, bytes));
    }

    /// Widens the rows of `items` one after the other into `out`, on this thread.
    pub fn gather(&self, items: &[u32], out: &mut Vec<f32>) {
        out.clear();
        out.resize(items.len() * self.width, 0.0);
        for (&item, out) in items.iter().zip(out.chunks_exact_mut(self.width)) {
            widen(out, self.row(item as usize));
        }
    }
}

fn widen(out: &mut [f32], bytes: &[u8]) {
    simd(
        #[inline(always)]
        || {
            for (out, pair) in out.iter_mut().zip(bytes.as_chunks::<ELEMENT>().0) {
                *out = f16::from_bits(u16::from_le_bytes(*pair)).widen();
            }
        },
    );
}

/// Rows as bytes of 16-bit floats, little-endian.
pub fn to_f16_bytes(rows: &[f32]) -> Vec<u8> {
    rows.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
}

/// Scales each row to length 1. A row of zeros stays.
pub fn normalize_rows(rows: &mut [f32], width: usize) {
    for row in rows.chunks_exact_mut(width.max(1)) {
        let squares: f64 = row.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
        if squares > 0.0 {
            let factor = (1.0 / squares.sqrt()) as f32;
            row.iter_mut().for_each(|value| *value *= factor);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_from_memory_and_from_a_file() {
        let mut rows: Vec<f32> = (0..12).map(|i| i as f32 - 3.0).collect();
        rows[4..8].fill(-0.0);
        normalize_rows(&mut rows, 4);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.f16");
        std::fs::write(&path, to_f16_bytes(&rows)).unwrap();
        for vectors in [Vectors::from_rows(&rows, 4), Vectors::map(&path, 4).unwrap()] {
            assert_eq!((vectors.len(), vectors.width()), (3, 4));
            assert_eq!([0, 1, 2].map(|item| vectors.is_usable(item)), [true, false, true]);
            let mut all = vec![0.0; 8];
            vectors.read(1, &mut all);
            let mut gathered = Vec::new();
            vectors.gather(&[2, 0], &mut gathered);
            assert_eq!(all[4..], gathered[..4]);
            for (found, expected) in gathered.iter().zip(rows[8..].iter().chain(&rows[..4])) {
                assert!((found - expected).abs() < 5e-4);
            }
        }
        let message = Vectors::map(&path, 5).err().unwrap().to_string();
        assert!(message.contains("24 bytes"), "{message}");
    }
}
