//! Asking for memory before it is used, where a processor does not guess it: what lies far apart, and what comes after the
//! end of a page.

/// Bytes that come at once.
const LINE: usize = 64;
/// How far ahead a stretch is asked for that is read from end to end.
const DISTANCE: usize = 4096;

/// Asks for all of a slice.
#[inline(always)]
pub(super) fn prefetch<T>(slice: &[T]) {
    let size = size_of_val(slice);
    for offset in (0..size).step_by(LINE).chain(size.checked_sub(1)) {
        ask(slice.as_ptr().cast::<u8>().wrapping_add(offset));
    }
}

/// Asks for what lies a page after these bytes, which are part of a longer stretch.
#[inline(always)]
pub(super) fn prefetch_after<const N: usize>(bytes: *const [u8; N]) {
    for offset in (0..N).step_by(LINE) {
        ask(bytes.cast::<u8>().wrapping_add(DISTANCE + offset));
    }
}

#[inline(always)]
fn ask(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, which reads nothing that the program could see: an address that
    // is not there is no error.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
