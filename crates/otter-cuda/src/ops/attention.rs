//! Softmax attention on strided heads, forward and backward: the twin of [`otter_nn::backend::cpu::attention`].

use std::cmp::Reverse;

use otter_nn::backend::cpu::attention::{HeadStrides, Span};

use crate::Argument;
use crate::{Buffer, Constant, Gpu, Launch, Result};

/// Query rows, and keys, handled together (`TILE` of `kernels/attention.cu`).
const TILE: usize = 64;
/// Rows of a span up to which every row is handled by itself, as in decoding.
const FEW_ROWS: usize = 4;
/// Largest head size.
pub const MAX_HEAD_SIZE: usize = 128;
/// Numbers of a record of a plan.
const RECORD: usize = 8;

/// Sizes shared by the kernels of one attention.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, of which `heads` is a multiple; query head h uses key head `h * key_heads / heads`.
    pub key_heads: usize,
    /// Factor on the scores.
    pub scale: f64,
    /// ALiBi slope of every query head: adds `slope * (key - own position)` to the scaled scores.
    pub slopes: Option<&'a Constant<f32>>,
}

/// Queries, keys and values with their strides.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// Query elements.
    pub q: &'a Buffer<f32>,
    /// Where the query heads are.
    pub q_strides: HeadStrides,
    /// Key elements.
    pub k: &'a Buffer<f32>,
    /// Where the key heads are.
    pub k_strides: HeadStrides,
    /// Value elements.
    pub v: &'a Buffer<f32>,
    /// Where the value heads are.
    pub v_strides: HeadStrides,
    /// Per key row of each batch entry, whether it may be seen (not 0): `visible[batch * keys + key]`.
    pub visible: Option<(&'a Constant<u8>, usize)>,
}

/// What the forward pass left for the backward pass.
#[derive(Clone, Copy)]
pub struct ForwardResult<'a> {
    /// Output of [`forward`].
    pub out: &'a Buffer<f32>,
    /// Gradient of the output, same strides.
    pub d_out: &'a Buffer<f32>,
    /// Layout of both.
    pub strides: HeadStrides,
    /// Log-sum-exp per (batch, head, row).
    pub log_sum_exp: &'a Buffer<f32>,
    /// Rows per batch entry in `log_sum_exp`.
    pub rows_per_batch: usize,
}

/// Gradients of the inputs, to add to.
pub struct InputGradients<'a> {
    /// Gradient of the queries, in their strides.
    pub dq: &'a mut Buffer<f32>,
    /// Gradient of the keys.
    pub dk: &'a mut Buffer<f32>,
    /// Layout of `dk`.
    pub dk_strides: HeadStrides,
    /// Gradient of the values.
    pub dv: &'a mut Buffer<f32>,
    /// Layout of `dv`.
    pub dv_strides: HeadStrides,
}

/// Attention of every span: `out` (in `out_strides`, query heads) is written for the spans' rows only. `log_sum_exp`, if given,
/// receives one value per (batch, head, row) with the given rows a batch entry, for [`backward`]. A row that sees no key
/// gives zeros, and 0 for its log-sum. No query row may belong to two spans.
///
/// # Errors
/// What the driver says.
///
/// # Panics
/// When a buffer is too short for a span, heads are larger than [`MAX_HEAD_SIZE`], or sizes do not fit to each other.
pub fn forward(
    sizes: &Heads<'_>,
    inputs: &Inputs<'_>,
    spans: &[Span],
    out: &mut Buffer<f32>,
    out_strides: HeadStrides,
    log_sum_exp: Option<(&mut Buffer<f32>, usize)>,
) -> Result<()> {
    check(sizes, inputs, spans);
    check_rows(sizes, spans, out, out_strides);
    assert_eq!(out_strides.head_size, inputs.q_strides.head_size, "head sizes differ");
    if let Some((sums, rows)) = &log_sum_exp {
        check_log_sum_exp(sizes, spans, sums, *rows);
    }
    let few = spans.iter().all(|span| span.rows <= FEW_ROWS);
    let tiles = tiles_of_rows(spans, if few { 1 } else { TILE });
    if tiles.is_empty() {
        return Ok(());
    }
    let plan = Plan::new(out.gpu(), inputs, [out_strides; 3], &[tiles.iter().map(span_record).collect()])?;
    let (log_sum_exp, log_rows) = match log_sum_exp {
        Some((sums, rows)) => (sums.into(), rows),
        None => (Argument::Address(0), 0),
    };
    let mut arguments = vec![(&*out).into(), log_sum_exp, log_rows.into()];
    arguments.extend(plan.arguments(sizes, inputs, 0));
    let kernel = match (few, inputs.q_strides.head_size) {
        (true, _) => "attention_forward_row",
        (false, ..=64) => "attention_forward_64",
        (false, _) => "attention_forward_128",
    };
    // SAFETY: the kernel reads and writes what the tiles' records say, which are parts of spans; all buffers reach to
    // the spans' ends (checked above).
    unsafe { out.gpu().launch(&launch(kernel, tiles.len(), sizes.heads, arguments)) }
}

/// Backward pass of [`forward`]: adds to the gradients of queries, keys and values.
///
/// Several spans may share a block of keys. Blocks of one `key_batch` that begin at different rows must not overlap.
///
/// # Errors
/// What the driver says.
///
/// # Panics
/// As [`forward`], and when blocks of keys overlap.
pub fn backward(
    sizes: &Heads<'_>,
    inputs: &Inputs<'_>,
    spans: &[Span],
    result: &ForwardResult<'_>,
    gradients: &mut InputGradients<'_>,
) -> Result<()> {
    check(sizes, inputs, spans);
    let InputGradients { dq, dk, dk_strides, dv, dv_strides } = gradients;
    assert_eq!(dq.len(), inputs.q.len(), "query gradient has another length");
    check_keys(sizes, spans, dk, *dk_strides);
    check_keys(sizes, spans, dv, *dv_strides);
    check_rows(sizes, spans, result.out, result.strides);
    check_rows(sizes, spans, result.d_out, result.strides);
    check_log_sum_exp(sizes, spans, result.log_sum_exp, result.rows_per_batch);
    let sizes_agree =
        [&result.strides, dk_strides, dv_strides].iter().all(|l| l.head_size == inputs.q_strides.head_size);
    assert!(sizes_agree, "head sizes differ");

    let tiles = tiles_of_rows(spans, TILE);
    let (by_keys, key_tiles) = tiles_of_keys(spans);
    if tiles.is_empty() {
        return Ok(());
    }
    let gpu = dq.gpu().clone();
    let records =
        [tiles.iter().map(span_record).collect(), by_keys.iter().map(span_record).collect(), key_tiles];
    let plan = Plan::new(&gpu, inputs, [result.strides, *dk_strides, *dv_strides], &records)?;
    let (out, d_out, log_sum_exp) = (result.out, result.d_out, result.log_sum_exp);
    let (size, log_rows) = (inputs.q_strides.head_size, result.rows_per_batch);
    let wide = size > 64;

    let dots = gpu.allocate::<f32>(log_sum_exp.len())?;
    let arguments = vec![
        (&dots).into(),
        out.into(),
        d_out.into(),
        log_rows.into(),
        (&plan.numbers).into(),
        plan.places[0].into(),
        (sizes.heads as u32).into(),
        (size as u32).into(),
    ];
    // SAFETY: the kernel reads rows of spans of the output and its gradient and writes as many sums as there are
    // log-sum-exps of these rows; all are long enough (checked above).
    unsafe { gpu.launch(&launch("attention_dots", tiles.len(), sizes.heads, arguments)) }?;

    let mut arguments: Vec<Argument> =
        vec![(&**dq).into(), d_out.into(), log_sum_exp.into(), (&dots).into(), log_rows.into()];
    arguments.extend(plan.arguments(sizes, inputs, 0));
    let kernel = if wide { "attention_queries_128" } else { "attention_queries_64" };
    // SAFETY: as in `forward`; the queries' gradient has the queries' length.
    unsafe { gpu.launch(&launch(kernel, tiles.len(), sizes.heads, arguments)) }?;

    if records[2].is_empty() {
        return Ok(());
    }
    let mut arguments: Vec<Argument> = vec![
        (&**dk).into(),
        (&**dv).into(),
        d_out.into(),
        log_sum_exp.into(),
        (&dots).into(),
        log_rows.into(),
    ];
    arguments.push(plan.places[1].into());
    arguments.extend(plan.arguments(sizes, inputs, 2));
    let kernel = if wide { "attention_keys_128" } else { "attention_keys_64" };
    // SAFETY: as in `forward`; tiles of keys are parts of the spans' blocks, which the gradients of keys and values
    // hold (checked above) and which do not overlap (checked by `tiles_of_keys`).
    unsafe { gpu.launch(&launch(kernel, records[2].len(), sizes.key_heads, arguments)) }
}

/// One past the last element of all heads.
fn end(strides: &HeadStrides, batch: usize, rows: usize, heads: usize) -> usize {
    if batch == 0 || rows == 0 || heads == 0 {
        return 0;
    }
    let batches = (batch - 1).saturating_mul(strides.batch_stride);
    let rows = (rows - 1).saturating_mul(strides.row_stride);
    let heads = (heads - 1).saturating_mul(strides.head_stride);
    [batches, rows, heads, strides.head_size].into_iter().fold(strides.offset, usize::saturating_add)
}

/// That a buffer of rows of query heads reaches to the ends of all spans.
fn check_rows(sizes: &Heads<'_>, spans: &[Span], data: &Buffer<f32>, strides: HeadStrides) {
    for span in spans {
        let end = end(&strides, span.batch + 1, span.row + span.rows, sizes.heads);
        assert!(end <= data.len(), "queries, outputs or their gradients are too short");
    }
}

/// That a buffer of rows of key heads reaches to the ends of all spans.
fn check_keys(sizes: &Heads<'_>, spans: &[Span], data: &Buffer<f32>, strides: HeadStrides) {
    for span in spans {
        let end = end(&strides, span.key_batch + 1, span.key_row + span.keys, sizes.key_heads);
        assert!(end <= data.len(), "keys, values or their gradients are too short");
    }
}

fn check_log_sum_exp(sizes: &Heads<'_>, spans: &[Span], sums: &Buffer<f32>, rows: usize) {
    for span in spans {
        let needed = (span.batch + 1).saturating_mul(sizes.heads).saturating_mul(rows);
        assert!(rows >= span.row + span.rows && sums.len() >= needed, "log_sum_exp is too short");
    }
}

fn check(sizes: &Heads<'_>, inputs: &Inputs<'_>, spans: &[Span]) {
    let size = inputs.q_strides.head_size;
    assert!((1..=MAX_HEAD_SIZE).contains(&size), "heads of {size} features, not 1 to {MAX_HEAD_SIZE}");
    assert!(inputs.k_strides.head_size == size && inputs.v_strides.head_size == size, "head sizes differ");
    // Heads are the second dimension of grids.
    assert!((1..1 << 16).contains(&sizes.heads), "{} heads", sizes.heads);
    let groups = sizes.key_heads > 0 && sizes.heads.is_multiple_of(sizes.key_heads);
    assert!(groups, "{} heads do not share {} evenly", sizes.heads, sizes.key_heads);
    assert!(sizes.slopes.is_none_or(|slopes| slopes.len() == sizes.heads), "a slope for every head");
    for span in spans {
        let &Span { batch, row, rows, key_batch, key_row, keys, causal_offset } = span;
        let numbers = [batch, row, rows, key_batch, key_row, keys, causal_offset.unwrap_or(0)];
        assert!(numbers.iter().all(|&number| number < 1 << 31), "{span:?} is too large");
        let sees_a_key = causal_offset.is_none_or(|offset| row + offset >= key_row);
        assert!(sees_a_key, "the first query stands before all keys");
        if let Some((visible, rows)) = inputs.visible {
            let end = key_batch.saturating_mul(rows).saturating_add(key_row + keys);
            assert!(end <= visible.len(), "the mask of visible keys is too short");
        }
    }
    check_rows(sizes, spans, inputs.q, inputs.q_strides);
    check_keys(sizes, spans, inputs.k, inputs.k_strides);
    check_keys(sizes, spans, inputs.v, inputs.v_strides);
}

/// The spans in parts of at most so many rows, those that see the most keys first.
fn tiles_of_rows(spans: &[Span], most: usize) -> Vec<Span> {
    let part = |span: &Span, first: usize| Span {
        row: span.row + first,
        rows: most.min(span.rows - first),
        ..*span
    };
    let parts = |span: Span| (0..span.rows).step_by(most).map(move |first| part(&span, first));
    let mut tiles: Vec<Span> = spans.iter().copied().flat_map(parts).collect();
    let seen = |tile: &Span| match tile.causal_offset {
        Some(offset) => tile.keys.min(tile.row + tile.rows + offset - tile.key_row),
        None => tile.keys,
    };
    tiles.sort_by_key(|tile| Reverse(seen(tile)));
    tiles
}

/// The spans by the block of keys that they attend, in their own order within a block, and records of the tiles of these
/// blocks (`KeyTile` of the kernels).
fn tiles_of_keys(spans: &[Span]) -> (Vec<Span>, Vec<[u64; RECORD]>) {
    let place = |span: &Span| (span.key_batch, span.key_row);
    let mut sorted = spans.to_vec();
    sorted.sort_by_key(place);
    let mut tiles = Vec::new();
    let (mut first_span, mut last) = (0, (0, 0));
    for block in sorted.chunk_by(|a, b| place(a) == place(b)) {
        let (batch, row) = place(&block[0]);
        assert!(last.0 != batch || last.1 <= row, "blocks of keys overlap");
        let keys = block.iter().map(|span| span.keys).max().unwrap_or(0);
        last = (batch, row + keys);
        for first in (0..keys).step_by(TILE) {
            let tile = [batch, row, first, TILE.min(keys - first), first_span, block.len(), 0, 0];
            tiles.push(tile.map(|number| number as u64));
        }
        first_span += block.len();
    }
    (sorted, tiles)
}

/// `Span` of the kernels.
fn span_record(span: &Span) -> [u64; RECORD] {
    let &Span { batch, row, rows, key_batch, key_row, keys, causal_offset } = span;
    let causal = usize::from(causal_offset.is_some());
    [batch, row, rows, key_batch, key_row, keys, causal, causal_offset.unwrap_or(0)]
        .map(|number| number as u64)
}

/// Layouts and lists of records, for kernels to read.
struct Plan {
    numbers: Constant<u64>,
    /// Where each list begins.
    places: Vec<u64>,
    /// Whether quads of features lie where a GPU can move them at once.
    vector: bool,
}

impl Plan {
    /// The strides are those of output, keys' gradient and values' gradient, beside the inputs'.
    fn new(
        gpu: &Gpu,
        inputs: &Inputs<'_>,
        outputs: [HeadStrides; 3],
        lists: &[Vec<[u64; RECORD]>],
    ) -> Result<Self> {
        let [out, dk, dv] = outputs;
        let strides = [inputs.q_strides, inputs.k_strides, inputs.v_strides, out, dk, dv];
        let numbers = |strides: &HeadStrides| {
            [strides.offset, strides.batch_stride, strides.row_stride, strides.head_stride]
                .map(|number| number as u64)
        };
        let mut all: Vec<u64> = strides.iter().flat_map(numbers).collect();
        let vector =
            inputs.q_strides.head_size.is_multiple_of(4) && all.iter().all(|number| number.is_multiple_of(4));
        let mut places = Vec::with_capacity(lists.len());
        for list in lists {
            places.push(all.len() as u64);
            all.extend(list.iter().flatten());
        }
        Ok(Self { numbers: gpu.constant(&all)?, places, vector })
    }

    /// `INPUT_PARAMETERS` of the kernels, with the list of records that the blocks of a grid take.
    fn arguments(&self, sizes: &Heads<'_>, inputs: &Inputs<'_>, list: usize) -> [Argument; 13] {
        let none = Argument::Address(0);
        let (visible, visible_keys) =
            inputs.visible.map_or((none, 0), |(visible, keys)| (visible.into(), keys));
        [
            inputs.q.into(),
            inputs.k.into(),
            inputs.v.into(),
            visible,
            sizes.slopes.map_or(none, Argument::from),
            (&self.numbers).into(),
            self.places[list].into(),
            visible_keys.into(),
            (sizes.heads as u32).into(),
            ((sizes.heads / sizes.key_heads) as u32).into(),
            (inputs.q_strides.head_size as u32).into(),
            u32::from(self.vector).into(),
            (sizes.scale as f32).into(),
        ]
    }
}

/// A block for each of `tiles` and each head.
fn launch(kernel: &str, tiles: usize, heads: usize, arguments: Vec<Argument>) -> Launch<'_> {
    assert!(tiles < 1 << 31, "{tiles} tiles");
    let blocks = Launch::blocks(kernel, tiles as u32, arguments);
    Launch { grid: [tiles as u32, heads as u32, 1], ..blocks }
}
