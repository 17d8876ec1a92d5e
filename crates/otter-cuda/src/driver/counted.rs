//! A GPU that computes nothing and only counts its memory, of any size: how much a step takes at shapes that the host could
//! never run kernel by kernel. What is brought back from it is zero.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Result;
use crate::driver::gpu::{Driver, Launch};

/// The next address that is given out: none twice.
pub(crate) struct Counted(AtomicU64);

impl Counted {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(1 << 12))
    }
}

impl Driver for Counted {
    fn name(&self) -> String {
        "memory alone".to_owned()
    }

    fn memory(&self) -> u64 {
        1 << 50
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        Ok(self.0.fetch_add(bytes.next_multiple_of(256) as u64, Ordering::Relaxed))
    }

    fn free(&self, _address: u64) {}

    fn clear(&self, _address: u64, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn upload(&self, _address: u64, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download(&self, _address: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }

    fn copy(&self, _to: u64, _from: u64, _bytes: usize) -> Result<()> {
        Ok(())
    }

    unsafe fn launch(&self, _launch: &Launch<'_>) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}
