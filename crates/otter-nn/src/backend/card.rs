//! What layers ask of a card: memory, and the operations of which they are made. `otter-cuda` implements it; nothing of a
//! card's library is known here.
//!
//! Work is done in the order in which it is asked for, and may be done later: nothing waits but what brings numbers back.
//! So that layers read as they do on the host, operations return no errors. The first one that fails is kept, nothing is
//! done after it, and [`Operations::take_error`] gives it to whoever ends a pass ([`Device::check`](crate::Device::check));
//! numbers that are brought back after a failure are NaN. An operation that a card does not have is such an error: none is
//! done on the host instead.

use std::any::Any;
use std::fmt;
use std::ops::Deref;

use crate::backend::cpu::attention::{HeadLayout, Heads, Span};
use crate::{QuantisedView, Rotary};

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

/// A matrix of a card, row by row.
#[derive(Clone, Copy, Debug)]
pub enum CardMatrix<'a> {
    /// Single precision.
    F32(&'a CardBuffer),
    /// IEEE 754 half precision.
    F16(&'a CardBuffer),
    /// The upper half of an f32.
    Bf16(&'a CardBuffer),
    /// Blocks of 8 or 4 bits.
    Quantised(&'a CardBuffer),
}

/// Memory of a card, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CardMemory {
    /// What buffers take now.
    pub used: u64,
    /// Most that they took at once since [`Operations::reset_peak`].
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

/// Where strided rows lie: row (i, j, k) begins at `offset + i * strides[0] + j * strides[1] + k * strides[2]`.
#[derive(Clone, Copy, Debug)]
pub struct RowLayout {
    /// The first row's beginning.
    pub offset: usize,
    /// Distances of the three dimensions; 0 repeats what is read.
    pub strides: [usize; 3],
}

/// The activation functions that a card knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationKind {
    /// x times the normal distribution function.
    Gelu,
    /// The same approximated with tanh.
    GeluTanh,
    /// x sigmoid(1.702 x).
    QuickGelu,
    /// x where it is positive.
    Relu,
}

/// Queries, keys and values of an attention with their layouts.
#[derive(Clone, Copy)]
pub struct CardInputs<'a> {
    /// Query elements.
    pub q: &'a CardBuffer,
    /// Where the query heads are.
    pub q_layout: HeadLayout,
    /// Key elements.
    pub k: &'a CardBuffer,
    /// Value elements.
    pub v: &'a CardBuffer,
    /// Where the key and value heads are.
    pub kv_layout: HeadLayout,
    /// Per key row of each batch entry, whether it may be seen: `visible[batch * keys + key]`.
    pub visible: Option<(&'a [bool], usize)>,
}

/// What the forward pass of an attention left, and the gradient of its output.
#[derive(Clone, Copy)]
pub struct CardAttended<'a> {
    /// Output, laid out as the queries.
    pub out: &'a CardBuffer,
    /// Gradient of the output.
    pub d_out: &'a CardBuffer,
    /// Log-sum-exp per (batch, head, row).
    pub log_sums: &'a CardBuffer,
    /// Rows per batch entry in `log_sums`.
    pub rows_per_batch: usize,
}

/// Gradients of an attention's inputs, to add to.
pub struct CardInputGradients<'a> {
    /// Of the queries, in their layout.
    pub dq: &'a mut CardBuffer,
    /// Of the keys.
    pub dk: &'a mut CardBuffer,
    /// Of the values.
    pub dv: &'a mut CardBuffer,
    /// Layout of `dk` and `dv`.
    pub kv_layout: HeadLayout,
}

/// Constants of a step of AdamW for one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay rates of the moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Weight decay, times the learning rate; 0 for parameters that are not decayed.
    pub decay: f64,
    /// Number of the step, from 1 on.
    pub step: u64,
    /// Gradients are multiplied by this on the way (clipping).
    pub factor: f64,
}

/// Moments of a parameter on a card.
pub enum CardMoments<'a> {
    /// In 32 bits: first and second.
    Full([&'a mut CardBuffer; 2]),
    /// In 8 bits: codes of the first and second, and their scales; and the number of trained elements before the parameter.
    EightBit([&'a mut CardBuffer; 4], u64),
}

/// Memory and operations of a card. Elements are f32 where nothing else is said; matrices lie row by row; lengths that do not
/// fit each other are mistakes of the caller and panic.
pub trait Operations: Send + Sync {
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
    fn take_error(&self) -> Option<String>;
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

    /// `y (+)= x w^T` with x (rows, inner), w (outer, inner), y (rows, outer).
    fn times_transposed(
        &self,
        y: &mut CardBuffer,
        x: &CardBuffer,
        w: CardMatrix<'_>,
        size: (usize, usize),
        accumulate: bool,
    );
    /// `dx (+)= dy w` with dy (rows, outer), w (outer, inner), dx (rows, inner); `size` is (outer, inner).
    fn times(
        &self,
        dx: &mut CardBuffer,
        dy: &CardBuffer,
        w: CardMatrix<'_>,
        size: (usize, usize),
        accumulate: bool,
    );
    /// `dw += dy^T x` with dw (outer, inner); `size` is (outer, inner).
    fn add_transposed_times(
        &self,
        dw: &mut CardBuffer,
        dy: &CardBuffer,
        x: &CardBuffer,
        size: (usize, usize),
    );

    /// Normalised rows of x, as wide as `gain`, and their statistics: see [`crate::backend::cpu::norm`].
    fn normalise(
        &self,
        x: &CardBuffer,
        gain: &CardBuffer,
        bias: Option<&CardBuffer>,
        eps: f64,
        centred: bool,
    ) -> [CardBuffer; 2];
    /// Gradient of x through [`Operations::normalise`].
    fn normalise_back(
        &self,
        dy: &CardBuffer,
        x: &CardBuffer,
        gain: &CardBuffer,
        statistics: &CardBuffer,
        centred: bool,
    ) -> CardBuffer;
    /// Adds the gain's gradient.
    fn add_gain_gradient(
        &self,
        d_gain: &mut CardBuffer,
        dy: &CardBuffer,
        x: &CardBuffer,
        statistics: &CardBuffer,
    );
    /// Adds the sums over rows of x to `sums`, as long as a row.
    fn add_column_sums(&self, sums: &mut CardBuffer, x: &CardBuffer);
    /// Adds `row` to every row of x.
    fn add_to_rows(&self, x: &mut CardBuffer, row: &CardBuffer);

    /// `y += factor x`.
    fn add_scaled(&self, y: &mut CardBuffer, x: &CardBuffer, factor: f32);
    /// `x *= factor`.
    fn scale(&self, x: &mut CardBuffer, factor: f32);
    /// Limits all elements to plus or minus `limit`.
    fn clamp(&self, x: &mut CardBuffer, limit: f32);
    /// Turns the gradient of the clamped elements into that before, in place.
    fn clamp_back(&self, d: &mut CardBuffer, clamped: &CardBuffer, limit: f32);
    /// `activation(x)`.
    fn activate(&self, x: &CardBuffer, activation: ActivationKind) -> CardBuffer;
    /// Turns the gradient of `activation(x)` into that of x, in place.
    fn activate_back(&self, d: &mut CardBuffer, x: &CardBuffer, activation: ActivationKind);
    /// `silu(gate) up`.
    fn silu_product(&self, gate: &CardBuffer, up: &CardBuffer) -> CardBuffer;
    /// Gradient of `gate`; `d_up` holds the product's gradient before and that of `up` afterwards.
    fn silu_product_back(&self, gate: &CardBuffer, up: &CardBuffer, d_up: &mut CardBuffer) -> CardBuffer;
    /// `y += branch tanh(gate)`, the gate a single number.
    fn gate_add(&self, y: &mut CardBuffer, branch: &CardBuffer, gate: &CardBuffer);
    /// Gradient of the branch; adds the gate's.
    fn gate_back(
        &self,
        branch: &CardBuffer,
        gate: &CardBuffer,
        dy: &CardBuffer,
        d_gate: Option<&mut CardBuffer>,
    ) -> CardBuffer;

    /// Copies, or adds, `sizes` rows of `len` elements.
    fn copy(
        &self,
        to: (&mut CardBuffer, RowLayout),
        from: (&CardBuffer, RowLayout),
        sizes: [usize; 3],
        len: usize,
        accumulate: bool,
    );
    /// Rows `ids` of a table of rows of `width`.
    fn table_rows(&self, table: CardMatrix<'_>, ids: &[u32], width: usize) -> CardBuffer;
    /// Adds the rows of dy to rows `ids` of a table's gradient.
    fn add_table_rows(&self, d_table: &mut CardBuffer, dy: &CardBuffer, ids: &[u32], width: usize);
    /// Zeroes all rows of `width` elements but these.
    fn keep_rows(&self, x: &mut CardBuffer, rows: &[u32], width: usize);
    /// Turns the heads of rows at `positions`, or with `back` their gradients back.
    fn rotate(&self, x: &mut CardBuffer, rotary: &Rotary, positions: &[u32], back: bool);

    /// Attention of every span: see [`crate::backend::cpu::attention::forward`]; `log_sums` with the rows of a batch entry.
    fn attend(
        &self,
        heads: Heads<'_>,
        inputs: CardInputs<'_>,
        spans: &[Span],
        out: &mut CardBuffer,
        log_sums: Option<(&mut CardBuffer, usize)>,
    );
    /// Adds the gradients: see [`crate::backend::cpu::attention::backward`].
    fn attend_back(
        &self,
        heads: Heads<'_>,
        inputs: CardInputs<'_>,
        spans: &[Span],
        attended: CardAttended<'_>,
        gradients: CardInputGradients<'_>,
    );
    /// Rows of `out` become the mean over all latents of their items in v: (row, items).
    fn mean_latents(
        &self,
        out: &mut CardBuffer,
        v: &CardBuffer,
        rows: &[(usize, &[usize])],
        latents: usize,
        width: usize,
    );
    /// Adds to the gradient of v through [`Operations::mean_latents`].
    fn mean_latents_back(
        &self,
        dv: &mut CardBuffer,
        d_out: &CardBuffer,
        rows: &[(usize, &[usize])],
        latents: usize,
        width: usize,
    );

    /// Cross-entropy of rows of logits, a target each; with a `scale` they become the gradient of that times the sum.
    fn cross_entropy(
        &self,
        logits: &mut CardBuffer,
        targets: &[u32],
        vocabulary: usize,
        scale: Option<f32>,
    ) -> Vec<f32>;

    /// Sum of the squares of each.
    fn sums_of_squares(&self, buffers: &[&CardBuffer]) -> Vec<f64>;
    /// Whether something is not zero.
    fn any_nonzero(&self, x: &CardBuffer) -> bool;
    /// AdamW on a parameter of f32.
    fn adamw(
        &self,
        values: &mut CardBuffer,
        gradients: &CardBuffer,
        moments: CardMoments<'_>,
        step: &AdamWStep,
    );
}

/// A card that is open for the rest of the process.
#[derive(Clone, Copy)]
pub struct Card(&'static dyn Operations);

impl Card {
    /// A card with these operations.
    pub fn new(operations: &'static dyn Operations) -> Self {
        Self(operations)
    }
}

impl Deref for Card {
    type Target = dyn Operations;

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
