//! A GPU: memory with an account, and kernels to launch.
//!
//! All work of a [`Gpu`] is done in the order in which it was asked for (one stream). Launches return at once; a download
//! waits for what was asked before it.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{GpuError, Result};

/// What drives a GPU, or stands in for one.
pub(crate) trait Driver: Send + Sync {
    /// Name of the GPU, for people.
    fn name(&self) -> String;
    /// Bytes of memory of the GPU.
    fn memory(&self) -> u64;
    fn allocate(&self, bytes: usize) -> Result<u64>;
    /// Frees what [`Driver::allocate`] gave.
    fn free(&self, address: u64);
    fn clear(&self, address: u64, bytes: usize) -> Result<()>;
    fn upload(&self, address: u64, bytes: &[u8]) -> Result<()>;
    fn download(&self, address: u64, bytes: &mut [u8]) -> Result<()>;
    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()>;
    /// # Safety
    /// The arguments must be those of the kernel, and what it does with them must be allowed.
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()>;
    fn synchronize(&self) -> Result<()>;
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// Address of memory of the GPU.
    Address(u64),
    /// `u32`.
    U32(u32),
    /// `u64`.
    U64(u64),
    /// `float`.
    F32(f32),
}

impl Argument {
    /// Where its value is, as drivers take it.
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    pub(crate) fn value(&mut self) -> *mut std::ffi::c_void {
        match self {
            Self::Address(value) | Self::U64(value) => std::ptr::from_mut(value).cast(),
            Self::U32(value) => std::ptr::from_mut(value).cast(),
            Self::F32(value) => std::ptr::from_mut(value).cast(),
        }
    }
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Self::U64(value)
    }
}

impl From<usize> for Argument {
    fn from(value: usize) -> Self {
        Self::U64(value as u64)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl<T: Element> From<&Buffer<T>> for Argument {
    fn from(buffer: &Buffer<T>) -> Self {
        Self::Address(buffer.memory.address)
    }
}

impl<T: Element> From<&Constant<T>> for Argument {
    fn from(constant: &Constant<T>) -> Self {
        Self::Address(constant.memory.address)
    }
}

impl<T: Element> From<&mut Buffer<T>> for Argument {
    fn from(buffer: &mut Buffer<T>) -> Self {
        Self::Address(buffer.memory.address)
    }
}

/// A kernel with its grid and arguments.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// Name in the source.
    pub kernel: &'a str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of shared memory of a block, beside what the kernel declares.
    pub shared: u32,
    /// Arguments in order.
    pub arguments: Vec<Argument>,
}

impl<'a> Launch<'a> {
    /// Threads of a block where nothing else is said (`THREADS` of `kernels/common.cuh`).
    pub const THREADS: u32 = 256;

    /// A kernel that walks over `count` elements from its thread's index on, by the number of threads.
    pub fn over(kernel: &'a str, count: usize, arguments: Vec<Argument>) -> Self {
        // As many blocks as keep the largest GPUs busy; each thread then takes several elements.
        let blocks = count.div_ceil(Self::THREADS as usize).clamp(1, 1 << 14) as u32;
        Self::blocks(kernel, blocks, arguments)
    }

    /// A kernel of so many blocks of the usual number of threads.
    pub fn blocks(kernel: &'a str, blocks: u32, arguments: Vec<Argument>) -> Self {
        Self { kernel, grid: [blocks, 1, 1], block: [Self::THREADS, 1, 1], shared: 0, arguments }
    }
}

/// What is in use, what was, what may be.
#[derive(Debug)]
struct Account {
    used: AtomicU64,
    peak: AtomicU64,
    limit: AtomicU64,
    uploads: AtomicU64,
    downloads: AtomicU64,
}

/// Memory of a GPU, counted, freed with it.
struct Memory {
    driver: Arc<dyn Driver>,
    account: Arc<Account>,
    address: u64,
    bytes: u64,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.account.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.driver.free(self.address);
    }
}

/// Constants that were uploaded lately, with the host's bytes, the latest last.
type Known = Vec<(Vec<u8>, Arc<Memory>)>;

/// A GPU. Cheap to clone.
#[derive(Clone)]
pub struct Gpu {
    driver: Arc<dyn Driver>,
    account: Arc<Account>,
    constants: Arc<Mutex<Known>>,
}

/// Constants that are kept: those of a pass, which all layers share, and of the pass before.
const KEPT_CONSTANTS: usize = 32;

impl Gpu {
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    fn with(driver: Arc<dyn Driver>) -> Self {
        let limit = AtomicU64::new(driver.memory());
        let [used, peak, uploads, downloads] = [(); 4].map(|()| AtomicU64::new(0));
        let account = Arc::new(Account { used, peak, limit, uploads, downloads });
        Self { driver, account, constants: Arc::default() }
    }

    /// GPU `ordinal` of this machine.
    ///
    /// # Errors
    /// When this build has no feature `cuda`, and when there is no driver or no such GPU.
    pub fn new(ordinal: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        return Ok(Self::with(Arc::new(crate::driver::cuda::CudaGpu::new(ordinal)?)));
        #[cfg(not(feature = "cuda"))]
        {
            let _ = ordinal;
            Err(GpuError::NotBuilt)
        }
    }

    /// The host in place of a GPU, for tests: every kernel, thread by thread.
    #[cfg(feature = "emulate")]
    pub fn emulated() -> Self {
        Self::with(Arc::new(crate::driver::emulated::Emulated::default()))
    }

    /// A GPU that only counts memory, for tests.
    #[cfg(feature = "emulate")]
    pub fn counted() -> Self {
        Self::with(Arc::new(crate::driver::counted::Counted::new()))
    }

    /// Name of the GPU.
    pub fn name(&self) -> String {
        self.driver.name()
    }

    /// Bytes of memory that buffers take now.
    pub fn used(&self) -> u64 {
        self.account.used.load(Ordering::Relaxed)
    }

    /// Most bytes that buffers took at once.
    pub fn peak(&self) -> u64 {
        self.account.peak.load(Ordering::Relaxed)
    }

    /// Copies to and from the host so far.
    pub fn transfers(&self) -> (u64, u64) {
        let Account { uploads, downloads, .. } = &*self.account;
        (uploads.load(Ordering::Relaxed), downloads.load(Ordering::Relaxed))
    }

    /// Begins to look for a new peak.
    pub fn reset_peak(&self) {
        self.account.peak.store(self.used(), Ordering::Relaxed);
    }

    /// Most bytes that buffers may take.
    pub fn most(&self) -> u64 {
        self.account.limit.load(Ordering::Relaxed)
    }

    /// Refuses to take more memory than this, as if the GPU were smaller.
    pub fn limit(&self, bytes: u64) {
        self.account.limit.store(bytes.min(self.driver.memory()), Ordering::Relaxed);
    }

    /// Memory for `len` elements, whatever is in it.
    ///
    /// # Errors
    /// When it does not fit into the limit or the GPU.
    pub fn allocate<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        let wanted = (len * size_of::<T>()) as u64;
        let limit = self.account.limit.load(Ordering::Relaxed);
        let used = self.account.used.fetch_add(wanted, Ordering::Relaxed);
        let give_up = |why: String| {
            self.account.used.fetch_sub(wanted, Ordering::Relaxed);
            GpuError::OutOfMemory { wanted, used, limit, why }
        };
        if used + wanted > limit {
            return Err(give_up("the limit that was set, or the GPU's own".to_owned()));
        }
        // Also of nothing something is made, so that every buffer has an address of its own.
        let address =
            self.driver.allocate((wanted as usize).max(1)).map_err(|error| give_up(error.to_string()))?;
        self.account.peak.fetch_max(used + wanted, Ordering::Relaxed);
        let (driver, account) = (Arc::clone(&self.driver), Arc::clone(&self.account));
        let memory = Arc::new(Memory { driver, account, address, bytes: wanted });
        Ok(Buffer { gpu: self.clone(), memory, len, element: PhantomData })
    }

    /// A copy of elements of the host that nobody will write. Equal ones share it as long as they are asked for again soon: what
    /// all layers of a pass need goes to the GPU once.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn constant<T: Element>(&self, elements: &[T]) -> Result<Constant<T>> {
        let bytes = bytes_of(elements);
        let mut constants = self.constants.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = match constants.iter().position(|(known, _)| known == bytes) {
            Some(at) => {
                let known = constants.remove(at);
                let memory = Arc::clone(&known.1);
                constants.push(known);
                memory
            }
            None => {
                let memory = self.upload(elements)?.memory;
                if constants.len() >= KEPT_CONSTANTS {
                    constants.remove(0);
                }
                constants.push((bytes.to_vec(), Arc::clone(&memory)));
                memory
            }
        };
        Ok(Constant { memory, len: elements.len(), element: PhantomData })
    }

    /// `len` zeros.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        let buffer = self.allocate::<T>(len)?;
        self.driver.clear(buffer.memory.address, len * size_of::<T>())?;
        Ok(buffer)
    }

    /// A copy of elements of the host.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn upload<T: Element>(&self, elements: &[T]) -> Result<Buffer<T>> {
        let mut buffer = self.allocate(elements.len())?;
        buffer.upload(elements)?;
        Ok(buffer)
    }

    /// Starts a kernel.
    ///
    /// # Safety
    /// The arguments must be those of the kernel, and it must stay inside their buffers.
    ///
    /// # Errors
    /// When there is no such kernel, or the driver refuses.
    pub(crate) unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        // SAFETY: by the contract of this function.
        unsafe { self.driver.launch(launch) }
    }

    /// Waits until everything is done.
    ///
    /// # Errors
    /// What went wrong meanwhile.
    pub fn synchronize(&self) -> Result<()> {
        self.driver.synchronize()
    }
}

/// A plain element that a GPU keeps as the host does.
pub trait Element: Copy + Send + Sync + 'static + sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($type:ty),*) => {
        $(impl sealed::Sealed for $type {}
        impl Element for $type {})*
    };
}

elements!(f32, u8, i8, u16, i16, u32, i32, u64, i64);

fn bytes_of<T: Element>(elements: &[T]) -> &[u8] {
    // SAFETY: elements are plain numbers without padding.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
}

fn bytes_of_mut<T: Element>(elements: &mut [T]) -> &mut [u8] {
    // SAFETY: as above, and every pattern of bits is a number.
    unsafe { std::slice::from_raw_parts_mut(elements.as_mut_ptr().cast(), size_of_val(elements)) }
}

/// Elements in memory of a GPU, freed with it.
pub struct Buffer<T: Element> {
    gpu: Gpu,
    /// Nobody else has it: only constants are shared, and they are no buffers.
    memory: Arc<Memory>,
    len: usize,
    element: PhantomData<T>,
}

/// Elements in memory of a GPU that nobody writes: see [`Gpu::constant`].
#[derive(Clone)]
pub struct Constant<T: Element> {
    memory: Arc<Memory>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> Constant<T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T: Element> Buffer<T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The GPU it is on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Writes elements of the host.
    ///
    /// # Panics
    /// When there are not as many.
    ///
    /// # Errors
    /// What the driver says.
    pub fn upload(&mut self, elements: &[T]) -> Result<()> {
        assert_eq!(elements.len(), self.len, "elements for a buffer of another length");
        self.gpu.account.uploads.fetch_add(1, Ordering::Relaxed);
        self.gpu.driver.upload(self.memory.address, bytes_of(elements))
    }

    /// Writes zeros.
    ///
    /// # Errors
    /// What the driver says.
    pub fn clear(&mut self) -> Result<()> {
        self.gpu.driver.clear(self.memory.address, self.len * size_of::<T>())
    }

    /// Writes the elements to memory of the host, when everything asked for before is done.
    ///
    /// # Panics
    /// When there are not as many.
    ///
    /// # Errors
    /// What the driver says, also about earlier work.
    pub fn download_to(&self, elements: &mut [T]) -> Result<()> {
        assert_eq!(elements.len(), self.len, "room for a buffer of another length");
        self.gpu.account.downloads.fetch_add(1, Ordering::Relaxed);
        self.gpu.driver.download(self.memory.address, bytes_of_mut(elements))
    }

    /// The elements, when everything asked for before is done.
    ///
    /// # Errors
    /// What the driver says, also about earlier work.
    pub fn download(&self) -> Result<Vec<T>>
    where
        T: Default,
    {
        let mut elements = vec![T::default(); self.len];
        self.download_to(&mut elements)?;
        Ok(elements)
    }

    /// Another buffer of the same elements.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn duplicate(&self) -> Result<Self> {
        let copy = self.gpu.allocate(self.len)?;
        self.gpu.driver.copy(copy.memory.address, self.memory.address, self.len * size_of::<T>())?;
        Ok(copy)
    }
}
