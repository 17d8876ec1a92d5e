//! Memory of the host that a GPU reads by itself: a copy to the GPU takes place while the host goes on, and behind the work
//! that was asked for before.

use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::{DriverError, result, sys};

use crate::driver::ring::Ring;

/// Bytes of the memory.
const SIZE: usize = 32 << 20;
/// Bytes of a piece: so that the host fills the next one while the GPU reads this one.
const PIECE: usize = 4 << 20;

/// The memory, when it was needed.
pub(crate) struct Staging(Mutex<Option<Pinned>>);

struct Pinned {
    start: *mut u8,
    ring: Ring<sys::CUevent>,
}

// SAFETY: the memory and the events belong to the context, which whoever calls has made its own; the lock lets one at them.
unsafe impl Send for Pinned {}

impl Staging {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Copies bytes to `address`, in the order of the stream.
    ///
    /// # Safety
    /// The context of the stream must be the thread's own; at `address` there must be as many bytes, and nobody may free them
    /// but in the order of the stream.
    pub(crate) unsafe fn upload(
        &self,
        stream: sys::CUstream,
        address: u64,
        bytes: &[u8],
    ) -> Result<(), DriverError> {
        let mut pinned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pinned = match &mut *pinned {
            Some(pinned) => pinned,
            none => {
                // SAFETY: the context is the thread's own.
                let start = unsafe { result::malloc_host(SIZE, 0) }?;
                none.insert(Pinned { start: start.cast(), ring: Ring::new(SIZE) })
            }
        };
        for (number, piece) in bytes.chunks(PIECE).enumerate() {
            let (place, ended) = pinned.ring.place(piece.len());
            for event in ended {
                // SAFETY: the event was made and recorded below, once.
                unsafe {
                    result::event::synchronize(event)?;
                    result::event::destroy(event)?;
                }
            }
            let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
            // SAFETY: the place lies inside the memory, and its last use has ended; the copy is done before the event, which is
            // waited for before the place is written again.
            unsafe {
                let start = pinned.start.add(place.start);
                std::ptr::copy_nonoverlapping(piece.as_ptr(), start, piece.len());
                let there = std::slice::from_raw_parts(start, piece.len());
                result::memcpy_htod_async(address + (number * PIECE) as u64, there, stream)?;
                result::event::record(event, stream)?;
            }
            pinned.ring.take(place, event);
        }
        Ok(())
    }

    /// Frees everything.
    ///
    /// # Safety
    /// The context must be the thread's own, and everything asked of the stream must be done.
    pub(crate) unsafe fn free(&self) {
        let pinned = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Pinned { start, ring }) = pinned {
            // SAFETY: nothing uses memory and events any more.
            unsafe {
                ring.into_ends().for_each(|event| {
                    let _ = result::event::destroy(event);
                });
                let _ = result::free_host(start.cast::<c_void>());
            }
        }
    }
}
