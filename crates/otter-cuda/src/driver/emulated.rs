//! The host in place of a GPU: memory of its own kind, kernels thread by thread (`emulation/`).

use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::{Mutex, PoisonError};

use crate::driver::gpu::{Argument, Driver, Launch};
use crate::{GpuError, Result};

unsafe extern "C" {
    fn otter_emulation_launch(
        name: *const c_char,
        grid: *const c_uint,
        block: *const c_uint,
        shared: usize,
        arguments: *mut *mut c_void,
    ) -> c_int;
}

/// Bytes around every allocation that nobody may write.
const GUARD: usize = 256;
/// What is in memory that was never written: as f32 a NaN.
const POISON: u8 = 0xff;
/// What is in the guards, by address: as f32 a signaling NaN, which arithmetic changes, so that adding to it is noticed too.
const SIGNALING: [u8; 4] = [0xff, 0xff, 0xbf, 0xff];

/// A GPU that is not there.
#[derive(Default)]
pub(crate) struct Emulated {
    /// Bytes of each allocation, by address.
    allocations: Mutex<HashMap<u64, usize>>,
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes + 2 * GUARD, GUARD).expect("a size that memory can have")
}

/// Addresses before and behind an allocation.
fn guards(address: usize, bytes: usize) -> impl Iterator<Item = usize> {
    (address - GUARD..address).chain(address + bytes..address + bytes + GUARD)
}

impl Emulated {
    fn check_guards(address: u64, bytes: usize) {
        for at in guards(address as usize, bytes) {
            // SAFETY: the guards of an allocation belong to it.
            let byte = unsafe { (at as *const u8).read() };
            assert!(byte == SIGNALING[at % 4], "a kernel wrote outside a buffer of {bytes} bytes");
        }
    }
}

impl Driver for Emulated {
    fn name(&self) -> String {
        "host (emulated)".to_owned()
    }

    fn memory(&self) -> u64 {
        1 << 34
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        // SAFETY: the layout is not empty; all of it is written at once.
        let start = unsafe {
            let start = alloc(layout(bytes));
            assert!(!start.is_null(), "the host has {bytes} bytes");
            start.write_bytes(POISON, bytes + 2 * GUARD);
            start
        };
        let address = start as u64 + GUARD as u64;
        for at in guards(address as usize, bytes) {
            // SAFETY: the guards belong to the allocation.
            unsafe { (at as *mut u8).write(SIGNALING[at % 4]) };
        }
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner).insert(address, bytes);
        Ok(address)
    }

    fn free(&self, address: u64) {
        let bytes = self.allocations.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
        let bytes = bytes.expect("freed once");
        if !std::thread::panicking() {
            Self::check_guards(address, bytes);
        }
        // SAFETY: allocated by `allocate` with this layout.
        unsafe { dealloc((address as usize - GUARD) as *mut u8, layout(bytes)) };
    }

    fn clear(&self, address: u64, bytes: usize) -> Result<()> {
        // SAFETY: `Buffer` asks for no more than it has; nothing else runs meanwhile.
        unsafe { (address as *mut u8).write_bytes(0, bytes) };
        Ok(())
    }

    fn upload(&self, address: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: as above.
        unsafe { (address as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn download(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: as above.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(address as *const u8, bytes.len()) };
        Ok(())
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        // SAFETY: as above; two buffers do not overlap.
        unsafe { (to as *mut u8).copy_from_nonoverlapping(from as *const u8, bytes) };
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let name = CString::new(launch.kernel).map_err(|_| GpuError::NoKernel(launch.kernel.to_owned()))?;
        let mut values = launch.arguments.clone();
        let mut arguments: Vec<*mut c_void> = values.iter_mut().map(Argument::value).collect();
        // SAFETY: the arguments are the kernel's, by the contract of this function.
        let result = unsafe {
            otter_emulation_launch(
                name.as_ptr(),
                launch.grid.as_ptr(),
                launch.block.as_ptr(),
                launch.shared as usize,
                arguments.as_mut_ptr(),
            )
        };
        match result {
            0 => {
                let allocations = self.allocations.lock().unwrap_or_else(PoisonError::into_inner);
                allocations.iter().for_each(|(&address, &bytes)| Self::check_guards(address, bytes));
                Ok(())
            }
            1 => Err(GpuError::NoKernel(launch.kernel.to_owned())),
            _ => Err(GpuError::Driver {
                what: format!("kernel {}", launch.kernel),
                error: format!("no GPU takes blocks of {:?} with {} bytes", launch.block, launch.shared),
            }),
        }
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "tests")]
mod tests {
    use crate::{Gpu, Launch};

    /// A kernel that is told of more elements than its buffers have.
    #[test]
    #[should_panic(expected = "a kernel wrote outside a buffer of 40 bytes")]
    fn writing_outside_a_buffer_is_noticed() {
        let gpu = Gpu::emulated();
        let (y, x) = (gpu.zeros::<f32>(10).expect("memory"), gpu.zeros::<f32>(11).expect("memory"));
        let arguments = vec![(&y).into(), (&x).into(), 1f32.into(), 11u64.into()];
        // SAFETY: the eleventh element lies in the guard, which is there to be found out.
        let _ = unsafe { gpu.launch(&Launch::over("add_scaled", 11, arguments)) };
    }

    #[test]
    fn unwritten_memory_is_not_a_number() {
        let gpu = Gpu::emulated();
        let buffer = gpu.allocate::<f32>(3).expect("memory");
        assert!(buffer.download().expect("a download").into_iter().all(f32::is_nan));
    }

    #[test]
    fn kernels_have_names_and_blocks_limits() {
        let gpu = Gpu::emulated();
        let launch = |kernel, block| Launch { block, ..Launch::blocks(kernel, 1, Vec::new()) };
        // SAFETY: neither is started.
        let [missing, large] = [("no_such_kernel", [32, 1, 1]), ("scale", [2048, 1, 1])]
            .map(|(kernel, block)| unsafe { gpu.launch(&launch(kernel, block)) });
        assert_eq!(
            missing.err().map(|e| e.to_string()).as_deref(),
            Some("there is no kernel `no_such_kernel` in this build")
        );
        assert!(large.is_err_and(|error| error.to_string().contains("no GPU takes blocks of [2048, 1, 1]")));
    }

    /// Runs this test program again for one kernel; gives what it said before it ended.
    fn end_of(kernel: &str) -> String {
        if std::env::var("OTTER_FAULTY_KERNEL").is_ok_and(|name| name == kernel) {
            let gpu = Gpu::emulated();
            let x = gpu.zeros::<f32>(64).expect("memory");
            let launch = Launch { block: [64, 1, 1], ..Launch::blocks(kernel, 1, vec![(&x).into()]) };
            // SAFETY: two warps write to 64 elements at most.
            let _ = unsafe { gpu.launch(&launch) };
            return String::new();
        }
        let test = std::thread::current().name().expect("tests have names").to_owned();
        let program = std::env::current_exe().expect("this program");
        let run = std::process::Command::new(program)
            .args(["--exact", &test, "--nocapture"])
            .env("OTTER_FAULTY_KERNEL", kernel)
            .output()
            .expect("it starts");
        assert!(!run.status.success(), "kernel {kernel} was run as if it were right");
        String::from_utf8_lossy(&run.stderr).into_owned()
    }

    #[test]
    fn a_barrier_that_not_all_reach_ends_the_program() {
        let said = end_of("half_a_block_waits");
        assert!(said.contains("some threads of a block ended while others wait at a barrier"), "{said}");
    }

    #[test]
    fn a_shuffle_that_not_all_take_part_in_ends_the_program() {
        let said = end_of("half_a_warp_shuffles");
        assert!(said.contains("only some threads of a warp take part"), "{said}");
    }
}
