//! A GPU through its driver.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Mutex, PoisonError};

use cudarc::driver::{DriverError, result, sys};

use crate::driver::gpu::{Argument, Driver, Launch};
use crate::driver::staging::Staging;
use crate::{GpuError, Result};

/// Where a driver may read whole words.
#[repr(align(16))]
struct Aligned<T>(T);

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// A GPU with its stream and its loaded kernels.
pub(crate) struct CudaGpu {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    staging: Staging,
    modules: Vec<sys::CUmodule>,
    functions: Mutex<HashMap<String, usize>>,
}

// SAFETY: the driver may be called by any thread that has made the context its own, which `enter` does; the one stream keeps the
// order.
unsafe impl Send for CudaGpu {}
// SAFETY: as above.
unsafe impl Sync for CudaGpu {}

/// Lets the GPU's allocator keep what is freed: every step asks for the same again, and giving it back at each wait would make
/// it wait for the system. Other programs see the memory as taken meanwhile.
fn keep_freed_memory(device: sys::CUdevice) -> Result<()> {
    let mut pool = std::ptr::null_mut();
    let mut most = u64::MAX;
    let attribute = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device is one the driver gave, the pool is its own, and the attribute is a 64-bit number.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&mut pool, device)
            .result()
            .and_then(|()| sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut most).cast()).result())
    }
    .map_err(driver_error("setting up the GPU's memory"))
}

fn driver_error(what: impl Into<String>) -> impl FnOnce(DriverError) -> GpuError {
    move |error| GpuError::Driver { what: what.into(), error: error.to_string() }
}

impl CudaGpu {
    pub(crate) fn new(ordinal: usize) -> Result<Self> {
        // SAFETY: asks only whether the library can be opened.
        if !unsafe { sys::is_culib_present() } {
            return Err(GpuError::NoDriver("the library is not on this machine".to_owned()));
        }
        result::init().map_err(|error| GpuError::NoDriver(error.to_string()))?;
        let count = result::device::get_count().map_err(driver_error("counting GPUs"))? as usize;
        if ordinal >= count {
            return Err(GpuError::NoGpu { ordinal, count });
        }
        let device = result::device::get(ordinal as i32).map_err(driver_error("opening the GPU"))?;
        // SAFETY: the device is one the driver gave; the context is released in `drop`.
        let context =
            unsafe { result::primary_ctx::retain(device) }.map_err(driver_error("opening the GPU"))?;
        // SAFETY: the context was just made.
        unsafe { result::ctx::set_current(context) }.map_err(driver_error("opening the GPU"))?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(driver_error("opening a stream"))?;
        keep_freed_memory(device)?;
        let (staging, modules) = (Staging::new(), Vec::new());
        let mut gpu = Self { device, context, stream, staging, modules, functions: Mutex::default() };
        for (name, image) in FATBINS {
            // SAFETY: the image is what nvcc wrote.
            let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
            gpu.modules.push(module.map_err(driver_error(format!("loading kernels {name}")))?);
        }
        Ok(gpu)
    }

    fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.map_err(driver_error("entering the GPU's context"))
    }

    fn function(&self, kernel: &str) -> Result<sys::CUfunction> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&function) = functions.get(kernel) {
            return Ok(function as sys::CUfunction);
        }
        let name = CString::new(kernel).map_err(|_| GpuError::NoKernel(kernel.to_owned()))?;
        // SAFETY: the modules are loaded as long as `self` lives.
        let find =
            |&module: &sys::CUmodule| unsafe { result::module::get_function(module, name.clone()) }.ok();
        let function =
            self.modules.iter().find_map(find).ok_or_else(|| GpuError::NoKernel(kernel.to_owned()))?;
        functions.insert(kernel.to_owned(), function as usize);
        Ok(function)
    }
}

impl Driver for CudaGpu {
    fn name(&self) -> String {
        result::device::get_name(self.device)
            .unwrap_or_else(|error| format!("a GPU without a name ({error})"))
    }

    fn memory(&self) -> u64 {
        // SAFETY: the device is one the driver gave.
        unsafe { result::device::total_mem(self.device) }.map_or(0, |bytes| bytes as u64)
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::malloc_async(self.stream, bytes) }
            .map_err(driver_error(format!("{bytes} bytes of memory")))
    }

    fn free(&self, address: u64) {
        if self.enter().is_ok() {
            // SAFETY: `Buffer` frees what it allocated, once; work on it was put on the stream before.
            let _ = unsafe { result::free_async(address, self.stream) };
        }
    }

    fn clear(&self, address: u64, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: `Buffer` asks for no more than it has.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream) }
            .map_err(driver_error("clearing memory"))
    }

    fn upload(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: as above; buffers are freed in the order of the stream.
        unsafe { self.staging.upload(self.stream, address, bytes) }
            .map_err(driver_error("copying to the GPU"))
    }

    fn download(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: as above; the wait makes the copy complete.
        unsafe { result::memcpy_dtoh_async(bytes, address, self.stream) }
            .map_err(driver_error("copying from the GPU"))?;
        self.synchronize()
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: as above.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }
            .map_err(driver_error("copying on the GPU"))
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        self.enter()?;
        let function = self.function(launch.kernel)?;
        let mut values = launch.arguments.clone();
        let mut arguments: Vec<*mut c_void> = values.iter_mut().map(Argument::value).collect();
        let [(gx, gy, gz), (bx, by, bz)] = [launch.grid, launch.block].map(|[x, y, z]| (x, y, z));
        // SAFETY: the arguments are the kernel's, by the contract of this function; the driver copies them.
        unsafe {
            let (grid, block) = ((gx, gy, gz), (bx, by, bz));
            result::launch_kernel(function, grid, block, launch.shared, self.stream, &mut arguments)
        }
        .map_err(driver_error(format!("kernel {}", launch.kernel)))
    }

    fn synchronize(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(driver_error("waiting for the GPU"))
    }
}

impl Drop for CudaGpu {
    fn drop(&mut self) {
        let _ = self.synchronize();
        // SAFETY: nothing uses them any more: buffers hold the GPU alive.
        unsafe {
            self.staging.free();
            for &module in &self.modules {
                let _ = result::module::unload(module);
            }
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
