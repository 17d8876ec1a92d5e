//! Buffers that a pass takes and gives back, so that a token in steady state allocates nothing on the host, and a layer of
//! many rows writes memory that the layer before has already touched. A GPU's allocator does the same by itself.

use otter_nn::{Device, Float, Tensor};

/// Buffers that are free at the moment.
#[derive(Clone, Debug, Default)]
pub struct Workspace<T = f32> {
    free: Vec<Vec<T>>,
    device: Device,
}

impl<T: Float> Workspace<T> {
    /// No buffers yet, for tensors on this device.
    pub fn new(device: Device) -> Self {
        Self { free: Vec::new(), device }
    }

    /// A tensor of whatever is in its memory: the smallest free buffer that is large enough, or the largest grown.
    pub fn take(&mut self, shape: &[usize]) -> Tensor<T> {
        if self.device != Device::Cpu {
            return Tensor::empty(shape, self.device);
        }
        let len = shape.iter().product();
        let smallest = |(_, buffer): &(usize, &Vec<T>)| match buffer.capacity() {
            enough if enough >= len => (false, enough),
            short => (true, usize::MAX - short),
        };
        let best = self.free.iter().enumerate().min_by_key(smallest).map(|(at, _)| at);
        let mut buffer = best.map_or_else(Vec::new, |at| self.free.swap_remove(at));
        if buffer.capacity() < len {
            // Fresh zeros cost nothing until they are written; growing would copy.
            buffer = vec![T::ZERO; len];
        }
        buffer.resize(len, T::ZERO);
        Tensor::from_vec(buffer, shape, self.device)
    }

    /// As [`Workspace::take`], for what only kernels of the host need: nothing on a GPU.
    pub fn take_for_host(&mut self, len: usize) -> Tensor<T> {
        self.take(&[if self.device == Device::Cpu { len } else { 0 }])
    }

    /// Gives a tensor back.
    pub fn give(&mut self, tensor: Tensor<T>) {
        if self.device == Device::Cpu {
            self.free.push(tensor.into_vec());
        }
    }

    /// Frees all memory.
    pub fn clear(&mut self) {
        self.free.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back() {
        let mut workspace = Workspace::<f32>::new(Device::Cpu);
        let (small, large) = (workspace.take(&[10]), workspace.take(&[10, 100]));
        let addresses = (small.data().as_ptr(), large.data().as_ptr());
        workspace.give(small);
        workspace.give(large);
        let large = workspace.take(&[9, 100]);
        assert_eq!((large.data().as_ptr(), large.len()), (addresses.1, 900));
        let small = workspace.take_for_host(8);
        assert_eq!((small.data().as_ptr(), small.len()), (addresses.0, 8));
        workspace.give(small);
        assert_eq!(workspace.take(&[20]).data(), [0.0; 20]);
        assert!(workspace.free.is_empty());
    }
}
