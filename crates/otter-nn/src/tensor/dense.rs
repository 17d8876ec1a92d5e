//! A dense row-major tensor: a shape, a device, and elements that are owned, borrowed from a mapped file, or on a GPU.
//!
//! Any plain element can be stored, also the half-precision ones of a file; arithmetic needs [`Float`] ones.

use std::borrow::Cow;
use std::sync::Arc;

use crate::backend::{Backend, GpuBuffer, GpuHandle};
use crate::{Device, Float};

/// Elements that live elsewhere, for example in a memory-mapped checkpoint.
pub trait SharedSlice<T>: Send + Sync {
    /// The elements.
    fn as_slice(&self) -> &[T];

    /// Says that the elements will hardly be read again: a mapped file gives their pages back, and would read them again.
    fn give_back(&self) {}
}

/// Elements of the host that several own, for example the pixels of a batch that is shown again.
impl<T: Send + Sync> SharedSlice<T> for Vec<T> {
    fn as_slice(&self) -> &[T] {
        self
    }
}

#[derive(Clone)]
enum Storage<T> {
    Owned(Vec<T>),
    Shared(Arc<dyn SharedSlice<T>>),
    Gpu(GpuBuffer),
}

/// Sizes of dimensions, without memory of their own for as many as models have.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    Few([usize; 4], usize),
    Many(Vec<usize>),
}

impl Shape {
    fn new(sizes: &[usize]) -> Self {
        let mut few = [0; 4];
        match few.get_mut(..sizes.len()) {
            Some(room) => room.copy_from_slice(sizes),
            None => return Self::Many(sizes.to_vec()),
        }
        Self::Few(few, sizes.len())
    }

    fn sizes(&self) -> &[usize] {
        match self {
            Self::Few(sizes, count) => &sizes[..*count],
            Self::Many(sizes) => sizes,
        }
    }
}

/// A dense row-major tensor.
#[derive(Clone)]
pub struct Tensor<T = f32> {
    shape: Shape,
    storage: Storage<T>,
    device: Device,
}

impl<T: Copy> Tensor<T> {
    /// Takes `data`, of the host, as the elements of `shape`.
    ///
    /// # Panics
    /// When the number of elements is not the product of `shape`; callers check user input before. When the device is a
    /// GPU: [`Tensor::to_device`] copies.
    pub fn from_vec(data: Vec<T>, shape: &[usize], device: Device) -> Self {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "elements do not fill shape {shape:?}");
        assert_eq!(device, Device::Cpu, "elements of the host");
        Self { shape: Shape::new(shape), storage: Storage::Owned(data), device }
    }

    /// Borrows elements that are kept alive by `shared`.
    ///
    /// # Panics
    /// As [`Tensor::from_vec`].
    pub fn from_shared(shared: Arc<dyn SharedSlice<T>>, shape: &[usize], device: Device) -> Self {
        let count = shape.iter().product::<usize>();
        assert_eq!(shared.as_slice().len(), count, "elements do not fill {shape:?}");
        assert_eq!(device, Device::Cpu, "elements of the host");
        Self { shape: Shape::new(shape), storage: Storage::Shared(shared), device }
    }

    /// Takes what lies on a GPU as the elements of `shape`.
    ///
    /// # Panics
    /// As [`Tensor::from_vec`].
    pub fn from_gpu(buffer: GpuBuffer, shape: &[usize], gpu: GpuHandle) -> Self {
        assert_eq!(buffer.len(), shape.iter().product::<usize>(), "elements do not fill shape {shape:?}");
        Self { shape: Shape::new(shape), storage: Storage::Gpu(buffer), device: Device::Gpu(gpu) }
    }

    /// Sizes of the dimensions, slowest first.
    pub fn shape(&self) -> &[usize] {
        self.shape.sizes()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last dimension's size (1 for a scalar).
    pub fn width(&self) -> usize {
        self.shape().last().copied().unwrap_or(1)
    }

    /// Product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.len() / self.width().max(1)
    }

    /// Where the elements live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The elements in row-major order, of a tensor of the host.
    ///
    /// # Panics
    /// When the elements are on a GPU: whoever reads them copies them first ([`Tensor::to_host`]), so that nothing is
    /// computed on the host unnoticed.
    pub fn data(&self) -> &[T] {
        match &self.storage {
            Storage::Owned(data) => data,
            Storage::Shared(shared) => shared.as_slice(),
            Storage::Gpu(_) => panic!("the elements of this tensor {:?} are on a GPU", self.shape()),
        }
    }

    /// The elements, writable. Borrowed elements are copied first (once).
    ///
    /// # Panics
    /// As [`Tensor::data`].
    pub fn data_mut(&mut self) -> &mut [T] {
        self.make_owned();
        match &mut self.storage {
            Storage::Owned(data) => data,
            Storage::Shared(_) => unreachable!("shared elements were copied above"),
            Storage::Gpu(_) => panic!("the elements of this tensor are on a GPU"),
        }
    }

    /// The elements on a GPU.
    ///
    /// # Panics
    /// When they are on the host: an operation of a GPU takes nothing from there unnoticed.
    pub fn on_gpu(&self) -> &GpuBuffer {
        match &self.storage {
            Storage::Gpu(buffer) => buffer,
            _ => panic!("the elements of this tensor {:?} are not on a GPU", self.shape()),
        }
    }

    /// As [`Tensor::on_gpu`], writable.
    ///
    /// # Panics
    /// As [`Tensor::on_gpu`].
    pub fn on_gpu_mut(&mut self) -> &mut GpuBuffer {
        match &mut self.storage {
            Storage::Gpu(buffer) => buffer,
            _ => panic!("the elements of this tensor are not on a GPU"),
        }
    }

    /// Copies borrowed elements to memory of this tensor's own, and gives the pages of the mapped file back: they would count as
    /// memory of this process beside the copy.
    pub fn make_owned(&mut self) {
        if let Storage::Shared(shared) = &self.storage {
            let shared = Arc::clone(shared);
            self.storage = Storage::Owned(shared.as_slice().to_vec());
            shared.give_back();
        }
    }

    /// Gives the pages of borrowed elements back, which stay readable.
    pub fn give_back(&self) {
        if let Storage::Shared(shared) = &self.storage {
            shared.give_back();
        }
    }

    /// The elements as an owned vector.
    ///
    /// # Panics
    /// As [`Tensor::data`].
    pub fn into_vec(self) -> Vec<T> {
        match self.storage {
            Storage::Owned(data) => data,
            _ => self.data().to_vec(),
        }
    }

    /// Whether the elements are borrowed from a mapped file.
    pub fn is_shared(&self) -> bool {
        matches!(self.storage, Storage::Shared(_))
    }

    /// The same elements under another shape of the same size.
    pub fn reshape(mut self, shape: &[usize]) -> Self {
        let count = shape.iter().product::<usize>();
        assert_eq!(self.len(), count, "cannot reshape {:?} to {shape:?}", self.shape());
        self.shape = Shape::new(shape);
        self
    }
}

impl<T: Float> Tensor<T> {
    /// A tensor of zeros.
    pub fn zeros(shape: &[usize], device: Device) -> Self {
        let len = shape.iter().product();
        match device {
            Device::Cpu => Self::from_vec(crate::backend::cpu::zeros(len), shape, device),
            Device::Gpu(gpu) => Self::from_gpu(gpu.zeros(len), shape, gpu),
        }
    }

    /// As [`Tensor::zeros`], of memory that the host makes only where something is written.
    pub fn fresh_zeros(shape: &[usize], device: Device) -> Self {
        match device {
            Device::Cpu => Self::from_vec(vec![T::ZERO; shape.iter().product()], shape, device),
            Device::Gpu(_) => Self::zeros(shape, device),
        }
    }

    /// The elements on the host: borrowed, or copied from a GPU; after a failure of the GPU, NaN.
    pub fn host_data(&self) -> Cow<'_, [T]> {
        match self.device {
            Device::Cpu => Cow::Borrowed(self.data()),
            Device::Gpu(_) => Cow::Owned(self.to_host().into_vec()),
        }
    }

    /// Lets `fill` write all elements, in place or on their way to a GPU.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn fill_by<E>(&mut self, fill: impl FnOnce(&mut [T]) -> Result<(), E>) -> Result<(), E> {
        match self.device {
            Device::Cpu => fill(self.data_mut()),
            Device::Gpu(gpu) => {
                let mut elements = vec![T::ZERO; self.len()];
                fill(&mut elements)?;
                gpu.write(self.on_gpu_mut(), T::as_singles(&elements));
                Ok(())
            }
        }
    }

    /// A tensor of whatever is in its memory (zeros on the host), for what is written at once.
    pub fn empty(shape: &[usize], device: Device) -> Self {
        match device {
            Device::Cpu => Self::zeros(shape, device),
            Device::Gpu(gpu) => Self::from_gpu(gpu.empty(shape.iter().product()), shape, gpu),
        }
    }

    /// A tensor of zeros with this one's shape and device.
    pub fn zeros_like(&self) -> Self {
        Self::zeros(self.shape(), self.device)
    }

    /// The same elements on another device; those that are there already are copied.
    ///
    /// # Panics
    /// When a GPU is to take elements other than f32.
    pub fn to_device(&self, device: Device) -> Self {
        match (device, self.device) {
            (to, from) if to == from => self.clone(),
            (Device::Cpu, Device::Gpu(gpu)) => {
                let mut elements = vec![T::ZERO; self.len()];
                gpu.download(self.on_gpu(), T::as_singles_mut(&mut elements));
                Self::from_vec(elements, self.shape(), device)
            }
            (Device::Gpu(gpu), _) => {
                Self::from_gpu(gpu.upload(T::as_singles(self.to_host().data())), self.shape(), gpu)
            }
            (Device::Cpu, Device::Cpu) => self.clone(),
        }
    }

    /// The same elements on the host: after a failure of the GPU, NaN.
    pub fn to_host(&self) -> Self {
        self.to_device(Device::Cpu)
    }

    /// Overwrites the elements with those of another tensor of the same shape.
    ///
    /// # Panics
    /// When lengths or devices differ.
    pub fn copy_from(&mut self, other: &Self) {
        match self.device {
            Device::Cpu => self.data_mut().copy_from_slice(other.data()),
            Device::Gpu(_) => {
                assert_eq!(self.len(), other.len(), "lengths differ");
                *self.on_gpu_mut() = other.on_gpu().clone();
            }
        }
    }

    /// The operations of where the elements live.
    pub fn backend(&self) -> &'static dyn Backend<T> {
        self.device.backend()
    }

    /// Adds `other` element by element.
    pub fn add_assign(&mut self, other: &Self) {
        self.backend().add_assign(self, other);
    }

    /// Converts the elements to another type.
    pub fn cast<U: Float>(&self) -> Tensor<U> {
        let data = self.data().iter().map(|&v| U::from_f64(v.to_f64())).collect();
        Tensor::from_vec(data, self.shape(), self.device)
    }
}

impl Tensor<u8> {
    /// `len` bytes of zero, of memory that the host makes only where something is written.
    pub fn zero_bytes(len: usize, device: Device) -> Self {
        match device {
            Device::Cpu => Self::from_vec(vec![0; len], &[len], device),
            Device::Gpu(gpu) => Self::from_gpu(gpu.zero_bytes(len), &[len], gpu),
        }
    }

    /// As [`Tensor::host_data`], of bytes.
    pub fn host_bytes(&self) -> Cow<'_, [u8]> {
        match self.device {
            Device::Cpu => Cow::Borrowed(self.data()),
            Device::Gpu(gpu) => {
                let mut bytes = vec![0; self.len()];
                gpu.download_bytes(self.on_gpu(), &mut bytes);
                Cow::Owned(bytes)
            }
        }
    }

    /// As [`Tensor::fill_by`], of bytes.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn fill_bytes_by<E>(&mut self, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<(), E> {
        match self.device {
            Device::Cpu => fill(self.data_mut()),
            Device::Gpu(gpu) => {
                let mut bytes = vec![0; self.len()];
                fill(&mut bytes)?;
                gpu.write_bytes(self.on_gpu_mut(), &bytes);
                Ok(())
            }
        }
    }
}

impl<T: Copy + std::fmt::Debug> std::fmt::Debug for Tensor<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.storage {
            Storage::Gpu(_) => write!(f, "Tensor{:?} on a GPU", self.shape()),
            _ => write!(f, "Tensor{:?}{:?}", self.shape(), self.data().iter().take(6).collect::<Vec<_>>()),
        }
    }
}
