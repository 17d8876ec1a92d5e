//! Rotary position embedding: twin of [`otter_nn::Rotary`], which computes the angles.

use otter_nn::Rotary;

use crate::{Buffer, Gpu, Launch, Result};

/// Angles of the rows of a pass, for all layers that share them.
pub struct RotaryAngles {
    cosines: Buffer<f32>,
    sines: Buffer<f32>,
    rows: usize,
    pairs: usize,
    head_size: usize,
}

impl RotaryAngles {
    /// Angles of rows at `positions`.
    ///
    /// # Errors
    /// What the driver says; so for all functions here.
    pub fn new(gpu: &Gpu, rotary: &Rotary, positions: &[u32]) -> Result<Self> {
        let (cosines, sines) = rotary.angles(positions);
        let pairs = cosines.len() / positions.len().max(1);
        let (cosines, sines) = (gpu.upload(&cosines)?, gpu.upload(&sines)?);
        Ok(Self { cosines, sines, rows: positions.len(), pairs, head_size: rotary.head_size() })
    }

    /// Turns the heads of every row of `x` in place.
    ///
    /// # Panics
    /// When `x` is not as many rows of whole heads.
    pub fn rotate(&self, x: &mut Buffer<f32>) -> Result<()> {
        self.turn(x, 1.0)
    }

    /// Backward pass of [`RotaryAngles::rotate`]: turns gradients back.
    pub fn rotate_back(&self, x: &mut Buffer<f32>) -> Result<()> {
        self.turn(x, -1.0)
    }

    fn turn(&self, x: &mut Buffer<f32>, direction: f32) -> Result<()> {
        let row = self.rows * self.head_size;
        assert!(row > 0 && x.len().is_multiple_of(row), "{} elements in {} rows", x.len(), self.rows);
        let (heads, count) = (x.len() / row, x.len() / self.head_size * self.pairs);
        if count == 0 {
            return Ok(());
        }
        let arguments = vec![
            (&*x).into(),
            (&self.cosines).into(),
            (&self.sines).into(),
            (heads as u32).into(),
            (self.head_size as u32).into(),
            (self.pairs as u32).into(),
            direction.into(),
            count.into(),
        ];
        // SAFETY: every pair of every head of every row; there are angles for as many rows.
        unsafe { x.gpu().launch(&Launch::over("rotary_turn", count, arguments)) }
    }
}
