//! A GPU: a [`Backend`] with memory of its own. `otter-cuda` implements it; nothing of a GPU's library is known here.
//!
//! Work is done in the order in which it is asked for, and may be done later: nothing waits but what brings numbers back.
//! So that layers read the same for every backend, operations return no errors. The first one that fails is kept, nothing is
//! done after it, and [`Accelerator::take_error`] gives it to whoever ends a pass ([`Device::check`](crate::Device::check));
//! numbers that are brought back after a failure are NaN. An operation that a GPU does not have is such an error: none is
//! done on the host instead.

use std::any::Any;
use std::fmt;
use std::ops::Deref;

use crate::backend::{Backend, Optimizer};
use crate::{DeviceError, QuantisedView};

/// Elements in memory of a card, freed with it.
pub struct CardBuffer(Box<dyn CardElements>);

/// What a card keeps for a [`CardBuffer`].
pub trait CardElements: Any + Send + Sync {
    /// Number of elements.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes.
    fn bytes(&self) -> u64;

    /// The same elements once more.
    fn duplicate(&self) -> CardBuffer;
}

impl CardBuffer {
    /// Wraps what a card keeps.
    pub fn new(elements: impl CardElements) -> Self {
        Self(Box::new(elements))
    }

    /// What the card keeps, if it is of this type.
    pub fn elements<E: CardElements>(&self) -> Option<&E> {
        (&*self.0 as &dyn Any).downcast_ref()
    }

    /// As [`CardBuffer::elements`], writable.
    pub fn elements_mut<E: CardElements>(&mut self) -> Option<&mut E> {
        (&mut *self.0 as &mut dyn Any).downcast_mut()
    }
}

impl Deref for CardBuffer {
    type Target = dyn CardElements;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl Clone for CardBuffer {
    fn clone(&self) -> Self {
        self.0.duplicate()
    }
}

impl fmt::Debug for CardBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CardBuffer({} elements)", self.len())
    }
}

/// Memory of a card, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CardMemory {
    /// What buffers take now.
    pub used: u64,
    /// Most that they took at once since [`Accelerator::reset_peak`].
    pub peak: u64,
    /// Most that they may take.
    pub limit: u64,
}

/// Copies between the host and a card since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CardTransfers {
    /// To the card.
    pub uploads: u64,
    /// From it: each waits for everything that was asked for before.
    pub downloads: u64,
}

/// A GPU's memory, beside its operations. Elements are f32 where nothing else is said; lengths that do not fit each other are
/// mistakes of the caller and panic.
pub trait Accelerator: Backend<f32> + Optimizer {
    /// Name of the card, and how it multiplies.
    fn name(&self) -> String;
    /// What is in use.
    fn memory(&self) -> CardMemory;
    /// Copies so far.
    fn transfers(&self) -> CardTransfers;
    /// Refuses to take more memory than this, as if the card were smaller.
    fn limit(&self, bytes: u64);
    /// Begins to look for a new peak.
    fn reset_peak(&self);
    /// The first failure since this was last asked; the card is then used again.
    fn take_error(&self) -> Option<DeviceError>;
    /// Waits until everything is done.
    fn synchronise(&self);

    /// Memory for `len` elements, whatever is in it.
    fn empty(&self, len: usize) -> CardBuffer;
    /// `len` zeros.
    fn zeros(&self, len: usize) -> CardBuffer;
    /// Zeros in all of a buffer.
    fn clear(&self, x: &mut CardBuffer);
    /// A copy of elements of the host.
    fn upload(&self, elements: &[f32]) -> CardBuffer;
    /// A copy of 16-bit elements of the host, by their bits.
    fn upload_halves(&self, bits: &[u16]) -> CardBuffer;
    /// A copy of blocks of the host.
    fn upload_blocks(&self, blocks: QuantisedView<'_>) -> CardBuffer;
    /// `len` bytes of zero.
    fn zero_bytes(&self, len: usize) -> CardBuffer;
    /// Writes elements of the host over all of a buffer.
    fn write(&self, to: &mut CardBuffer, elements: &[f32]);
    /// Writes bytes of the host over all of a buffer of bytes.
    fn write_bytes(&self, to: &mut CardBuffer, bytes: &[u8]);
    /// Brings elements back, when everything asked for before is done.
    fn download(&self, from: &CardBuffer, to: &mut [f32]);
    /// Brings bytes back.
    fn download_bytes(&self, from: &CardBuffer, to: &mut [u8]);
    /// Brings 16-bit elements back.
    fn download_halves(&self, from: &CardBuffer, to: &mut [u16]);
    /// Brings blocks back as their bytes.
    fn download_blocks(&self, from: &CardBuffer, to: &mut [u8]);
}

/// A card that is open for the rest of the process.
#[derive(Clone, Copy)]
pub struct Card(&'static dyn Accelerator);

impl Card {
    /// The card behind this object.
    pub fn new(accelerator: &'static dyn Accelerator) -> Self {
        Self(accelerator)
    }

    /// Its updates of parameters.
    pub fn optimizer(self) -> &'static dyn Optimizer {
        self.0
    }

    /// Its operations.
    pub fn backend(self) -> &'static dyn Backend<f32> {
        self.0
    }
}

impl Deref for Card {
    type Target = dyn Accelerator;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Card({})", self.0.name())
    }
}

impl PartialEq for Card {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self.0, other.0)
    }
}

impl Eq for Card {}
