//! A dense row-major tensor: a shape, a device, and elements that are owned or borrowed from a mapped file.
//!
//! Any plain element can be stored, also the half-precision ones of a file; arithmetic needs [`Real`] ones.

use std::sync::Arc;

use crate::Real;

/// Where a tensor's elements live and its kernels run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// Host memory and host threads.
    #[default]
    Cpu,
}

/// Elements that live elsewhere, for example in a memory-mapped checkpoint.
pub trait SharedSlice<T>: Send + Sync {
    /// The elements.
    fn as_slice(&self) -> &[T];

    /// Says that the elements will hardly be read again: a mapped file gives their pages back, and would read them again.
    fn give_back(&self) {}
}

#[derive(Clone)]
enum Storage<T> {
    Owned(Vec<T>),
    Shared(Arc<dyn SharedSlice<T>>),
}

/// A dense row-major tensor.
#[derive(Clone)]
pub struct Tensor<T = f32> {
    shape: Vec<usize>,
    storage: Storage<T>,
    device: Device,
}

impl<T: Copy> Tensor<T> {
    /// Takes `data` as the elements of `shape`.
    ///
    /// # Panics
    /// When the number of elements is not the product of `shape`; callers check user input before.
    pub fn from_vec(data: Vec<T>, shape: &[usize], device: Device) -> Self {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "elements do not fill shape {shape:?}");
        Self { shape: shape.to_vec(), storage: Storage::Owned(data), device }
    }

    /// Borrows elements that are kept alive by `shared`.
    ///
    /// # Panics
    /// As [`Tensor::from_vec`].
    pub fn from_shared(shared: Arc<dyn SharedSlice<T>>, shape: &[usize], device: Device) -> Self {
        assert_eq!(
            shared.as_slice().len(),
            shape.iter().product::<usize>(),
            "elements do not fill {shape:?}"
        );
        Self { shape: shape.to_vec(), storage: Storage::Shared(shared), device }
    }

    /// Sizes of the dimensions, slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data().len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last dimension's size (1 for a scalar).
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.len() / self.width().max(1)
    }

    /// Where the elements live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The elements in row-major order.
    pub fn data(&self) -> &[T] {
        match &self.storage {
            Storage::Owned(data) => data,
            Storage::Shared(shared) => shared.as_slice(),
        }
    }

    /// The elements, writable. Borrowed elements are copied first (once).
    pub fn data_mut(&mut self) -> &mut [T] {
        self.make_owned();
        match &mut self.storage {
            Storage::Owned(data) => data,
            Storage::Shared(_) => unreachable!("shared elements were copied above"),
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
    pub fn into_vec(self) -> Vec<T> {
        match self.storage {
            Storage::Owned(data) => data,
            Storage::Shared(shared) => shared.as_slice().to_vec(),
        }
    }

    /// Whether the elements are borrowed from a mapped file.
    pub fn is_shared(&self) -> bool {
        matches!(self.storage, Storage::Shared(_))
    }

    /// The same elements under another shape of the same size.
    pub fn reshape(mut self, shape: &[usize]) -> Self {
        assert_eq!(
            self.len(),
            shape.iter().product::<usize>(),
            "cannot reshape {:?} to {shape:?}",
            self.shape
        );
        self.shape = shape.to_vec();
        self
    }
}

impl<T: Real> Tensor<T> {
    /// A tensor of zeros.
    pub fn zeros(shape: &[usize], device: Device) -> Self {
        Self::from_vec(crate::kernels::zeros(shape.iter().product()), shape, device)
    }

    /// A tensor of zeros with this one's shape and device.
    pub fn zeros_like(&self) -> Self {
        Self::zeros(&self.shape, self.device)
    }

    /// Adds `other` element by element.
    pub fn add_assign(&mut self, other: &Self) {
        crate::kernels::elementwise::add_assign(self.data_mut(), other.data());
    }

    /// Converts the elements to another type.
    pub fn cast<U: Real>(&self) -> Tensor<U> {
        let data = self.data().iter().map(|&v| U::from_f64(v.to_f64())).collect();
        Tensor::from_vec(data, &self.shape, self.device)
    }
}

impl<T: Copy + std::fmt::Debug> std::fmt::Debug for Tensor<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let head: Vec<_> = self.data().iter().take(6).collect();
        write!(f, "Tensor{:?}{head:?}", self.shape)
    }
}
